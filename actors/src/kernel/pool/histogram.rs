//! A small histogram of durations, of a fixed size.
//!
//! Log-linear: every power of two of microseconds is cut into eight, so that a quantile is at most
//! an eighth too large, from a microsecond to over an hour.

use std::time::Duration;

use serde::Serialize;

/// Parts of each power of two.
const PARTS: u64 = 8;
const PART_BITS: u32 = PARTS.trailing_zeros();
/// Powers of two: the last bucket begins above an hour.
const POWERS: usize = 30;
const BUCKETS: usize = POWERS * PARTS as usize;

/// Durations that were counted.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    max: Duration,
}

/// The quantiles of a histogram, in seconds; zero when nothing was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many were counted.
    pub count: u64,
    /// Half were not longer.
    pub p50_seconds: f64,
    /// 95 % were not longer.
    pub p95_seconds: f64,
    /// 99 % were not longer.
    pub p99_seconds: f64,
    /// None was longer.
    pub max_seconds: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: Box::new([0; BUCKETS]),
            count: 0,
            max: Duration::ZERO,
        }
    }
}

impl Histogram {
    /// Counts `duration`.
    pub fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)] += 1;
        self.count += 1;
        self.max = self.max.max(duration);
    }

    /// The value that the share `quantile` (0 to 1) of all is not above: the upper end of its
    /// bucket. Zero when nothing was counted.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub fn quantile(&self, quantile: f64) -> Duration {
        let rank = ((self.count as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_end(index).min(self.max);
            }
        }
        self.max
    }

    /// The quantiles worth showing.
    pub fn quantiles(&self) -> Quantiles {
        Quantiles {
            count: self.count,
            p50_seconds: self.quantile(0.50).as_secs_f64(),
            p95_seconds: self.quantile(0.95).as_secs_f64(),
            p99_seconds: self.quantile(0.99).as_secs_f64(),
            max_seconds: self.max.as_secs_f64(),
        }
    }
}

#[allow(clippy::cast_possible_truncation)]
fn bucket(micros: u64) -> usize {
    if micros < PARTS {
        return micros as usize;
    }
    let power = micros.ilog2();
    let part = (micros >> (power - PART_BITS)) - PARTS;
    let index = u64::from(power - PART_BITS + 1) * PARTS + part;
    (index as usize).min(BUCKETS - 1)
}

/// What the bucket's values stay below.
fn upper_end(index: usize) -> Duration {
    let index = index as u64;
    if index < PARTS {
        return Duration::from_micros(index + 1);
    }
    let shift = index / PARTS - 1;
    Duration::from_micros((index % PARTS + PARTS + 1) << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_an_eighth_too_large() {
        for micros in [1u64, 7, 8, 9, 100, 1_000, 12_345, 1_000_000, 3_000_000_000] {
            let mut histogram = Histogram::default();
            histogram.record(Duration::from_micros(micros));
            histogram.record(Duration::from_secs(4_000));
            let found = histogram.quantile(0.5).as_micros();
            let exact = u128::from(micros);
            assert!(
                found > exact && found <= exact + exact / 8 + 1,
                "{micros} µs: {found}"
            );
        }
    }

    #[test]
    fn quantiles_follow_the_ranks() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantiles(), Quantiles::default());
        for ms in 1..=100 {
            histogram.record(Duration::from_millis(ms));
        }
        let shown = histogram.quantiles();
        assert_eq!((shown.count, shown.max_seconds), (100, 0.1));
        assert!((0.050..0.057).contains(&shown.p50_seconds), "{shown:?}");
        assert!((0.095..=0.1).contains(&shown.p95_seconds), "{shown:?}");
        assert!((0.099..=0.1).contains(&shown.p99_seconds), "{shown:?}");
    }

    #[test]
    fn the_longest_has_a_bucket_too() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::MAX);
        assert_eq!(histogram.quantile(1.0), upper_end(BUCKETS - 1));
    }
}
