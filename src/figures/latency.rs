//! Distributions of latencies: counted by many threads without a lock, summed up elsewhere.
//!
//! A value falls into a bucket that is at most a hundredth as wide as the value. `hdrhistogram` has the
//! same buckets, but its histograms need exclusive access to count, which would put a lock into the path
//! of every request.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use headroom_actors::kernel::Merge;

/// Buckets for each doubling of the value: a bucket is at most 1/128 as wide as its values.
const PER_DOUBLING: usize = 128;

/// Values up to this have a bucket for each microsecond.
const EXACT: usize = 2 * PER_DOUBLING;

/// Longer latencies count as this one, in microseconds: about 18 minutes.
const MAX_MICROS: u64 = (1 << 30) - 1;

/// The number of buckets.
const BUCKETS: usize = bucket(MAX_MICROS) + 1;

/// The bucket of a value up to [`MAX_MICROS`].
const fn bucket(micros: u64) -> usize {
    if micros < EXACT as u64 {
        return micros as usize;
    }
    // The leading eight bits say where in its doubling a value is.
    let dropped_bits = micros.ilog2() as usize - EXACT.ilog2() as usize + 1;
    let leading = (micros >> dropped_bits) as usize;
    dropped_bits * PER_DOUBLING + leading
}

/// The largest value in a bucket, in microseconds.
fn largest(bucket: usize) -> u64 {
    if bucket < EXACT {
        return bucket as u64;
    }
    let dropped_bits = bucket / PER_DOUBLING - 1;
    let leading = bucket - dropped_bits * PER_DOUBLING;
    ((leading as u64 + 1) << dropped_bits) - 1
}

/// The middle of the values in a bucket, in microseconds.
fn middle(bucket: usize) -> f64 {
    let smallest = bucket
        .checked_sub(1)
        .map_or(0, |before| largest(before) + 1);
    // A value is between a whole number of microseconds and the next one.
    (smallest as f64 + largest(bucket) as f64 + 1.0) / 2.0
}

/// Counts latencies, from any thread and without a lock. It has no memory of its own before the first.
#[derive(Debug, Default)]
pub(super) struct LatencyCounter(OnceLock<Box<[AtomicU32]>>);

impl LatencyCounter {
    /// Counts one latency.
    pub(super) fn record(&self, latency: Duration) {
        let counts = self
            .0
            .get_or_init(|| (0..BUCKETS).map(|_| AtomicU32::new(0)).collect());
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = counts.get(bucket(micros.min(MAX_MICROS))) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Moves what was counted to `sum`. Each latency is moved once.
    pub(super) fn drain_into(&self, sum: &mut Latencies) {
        let Some(counts) = self.0.get() else {
            return;
        };
        let counted = counts.iter().enumerate().filter_map(|(bucket, count)| {
            // Most buckets are empty, and reading one leaves it to the thread that counts.
            let count = (count.load(Relaxed) > 0).then(|| count.swap(0, Relaxed))?;
            Some((u16::try_from(bucket).ok()?, u64::from(count)))
        });
        let counted = Latencies(counted.collect());
        sum.merge(&counted);
    }
}

/// A distribution: the buckets that are not empty with their counts, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latencies(Vec<(u16, u64)>);

impl Latencies {
    /// One latency, up to a sixteenth too large. Many of them fill few buckets.
    pub(super) fn coarse(latency: Duration) -> Self {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let micros = micros.min(MAX_MICROS);
        // All but the leading five bits.
        let dropped = (1 << micros.checked_ilog2().unwrap_or(0).saturating_sub(4)) - 1;
        let bucket = u16::try_from(bucket(micros | dropped)).unwrap_or(u16::MAX);
        Self(vec![(bucket, 1)])
    }

    /// How many buckets it takes.
    #[cfg(test)]
    pub(super) fn buckets(&self) -> usize {
        self.0.len()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// Their sum, exact to a hundredth.
    pub fn sum_seconds(&self) -> f64 {
        let buckets = self.0.iter();
        let sums = buckets.map(|(bucket, count)| middle(usize::from(*bucket)) * *count as f64);
        // `sum` of nothing is -0.
        sums.fold(0.0, |sum, it| sum + it) / 1e6
    }

    /// For each of these bounds, in seconds and in rising order: how many latencies do not pass it. A
    /// latency up to a hundredth below the bound may be missing.
    pub fn counts_up_to(&self, bounds: &[f64]) -> Vec<u64> {
        let mut left = self.0.iter().peekable();
        let mut count = 0;
        let counts = bounds.iter().map(|bound| {
            let is_within =
                |(bucket, _): &&(u16, u64)| largest(usize::from(*bucket)) as f64 <= bound * 1e6;
            while let Some((_, more)) = left.next_if(is_within) {
                count += more;
            }
            count
        });
        counts.collect()
    }

    /// The latency that the share `quantile` of all does not pass, in milliseconds; `None` if there are
    /// none. It is up to a hundredth too large.
    pub(super) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let total: u64 = self.0.iter().map(|(_, count)| count).sum();
        let rank = ((quantile * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut passed = 0;
        let found = self.0.iter().find(|(_, count)| {
            passed += count;
            passed >= rank
        });
        let (bucket, _) = found?;
        Some(largest(usize::from(*bucket)) as f64 / 1e3)
    }
}

impl Merge for Latencies {
    fn merge(&mut self, other: &Self) {
        match &other.0[..] {
            [] => return,
            // Most often of a bucket that is there.
            [(bucket, count)] => {
                match self.0.binary_search_by_key(bucket, |(known, _)| *known) {
                    Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(*count),
                    Err(at) => self.0.insert(at, (*bucket, *count)),
                }
                return;
            }
            _ => {}
        }
        let mut merged = Vec::with_capacity(self.0.len().max(other.0.len()));
        let (mut own, mut others) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let next = match (own.peek(), others.peek()) {
                (Some((a, _)), Some((b, _))) => *a.min(b),
                (Some((bucket, _)), None) | (None, Some((bucket, _))) => *bucket,
                (None, None) => break,
            };
            let count = |entry: Option<&(u16, u64)>| entry.map_or(0, |(_, count)| *count);
            let own = count(own.next_if(|(bucket, _)| *bucket == next));
            let others = count(others.next_if(|(bucket, _)| *bucket == next));
            merged.push((next, own.saturating_add(others)));
        }
        self.0 = merged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(latencies: impl IntoIterator<Item = Duration>) -> Latencies {
        let counter = LatencyCounter::default();
        for latency in latencies {
            counter.record(latency);
        }
        let mut sum = Latencies::default();
        counter.drain_into(&mut sum);
        sum
    }

    #[test]
    fn every_value_is_in_a_bucket_that_is_at_most_a_hundredth_wider() {
        let values = (0..MAX_MICROS.ilog2()).flat_map(|bits| {
            let power = 1 << bits;
            [power - 1, power, power + 1, power + power / 3]
        });
        for value in values.chain([MAX_MICROS]) {
            let shown = largest(bucket(value));
            assert!(
                shown >= value && shown * 100 <= value * 101,
                "{value}: {shown}"
            );
        }
    }

    #[test]
    fn the_buckets_follow_each_other() {
        for index in 0..BUCKETS - 1 {
            assert_eq!(bucket(largest(index)), index);
            assert_eq!(bucket(largest(index) + 1), index + 1);
        }
        assert_eq!(largest(BUCKETS - 1), MAX_MICROS);
    }

    #[test]
    fn quantiles_follow_the_ranks() {
        assert_eq!(of([]).quantile_ms(0.5), None);
        let latencies = of((1..=1000).map(Duration::from_millis));
        for (quantile, exact) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let shown = latencies.quantile_ms(quantile).unwrap();
            assert!(
                shown >= exact && shown <= exact * 1.01,
                "{quantile}: {shown}"
            );
        }
        let longest = of([Duration::MAX]).quantile_ms(1.0).unwrap();
        assert_eq!(longest, MAX_MICROS as f64 / 1e3);
    }

    #[test]
    fn bounds_and_the_sum_are_exact_to_a_hundredth() {
        let latencies = of((1..=1000).map(Duration::from_millis));
        let counts = latencies.counts_up_to(&[0.000_5, 0.1, 0.5, 2.0]);
        assert_eq!((counts[0], counts[3]), (0, 1000));
        assert!((99..=100).contains(&counts[1]), "{counts:?}");
        assert!((495..=500).contains(&counts[2]), "{counts:?}");
        assert_eq!(latencies.count(), 1000);
        let sum = latencies.sum_seconds();
        assert!((495.5..505.5).contains(&sum), "{sum}");
    }

    #[test]
    fn a_coarse_latency_is_at_most_a_sixteenth_too_large() {
        for micros in [
            0,
            1,
            15,
            16,
            17,
            31,
            33,
            1_000,
            123_456,
            MAX_MICROS,
            u64::MAX,
        ] {
            let latency = Latencies::coarse(Duration::from_micros(micros));
            let shown = latency.quantile_ms(1.0).unwrap() * 1e3;
            let exact = micros.min(MAX_MICROS) as f64;
            assert!(
                shown >= exact && shown <= exact * 17.0 / 16.0,
                "{micros}: {shown}"
            );
        }
    }

    #[test]
    fn a_merge_counts_every_latency_once() {
        let mut first = of([1, 5, 5, 9].map(Duration::from_micros));
        first.merge(&of([0, 5, 7, 12].map(Duration::from_micros)));
        let merged = [(0, 1), (1, 1), (5, 3), (7, 1), (9, 1), (12, 1)];
        assert_eq!(first, Latencies(merged.into()));
        first.merge(&Latencies::default());
        assert_eq!(first, Latencies(merged.into()));
        for (micros, merged) in [(5, [(0, 1), (1, 1), (5, 4)]), (2, [(0, 1), (1, 1), (2, 1)])] {
            first.merge(&of([Duration::from_micros(micros)]));
            assert_eq!(first.0[..3], merged);
        }
        let mut empty = Latencies::default();
        empty.merge(&first);
        assert_eq!(empty, first);
    }

    #[test]
    fn latencies_are_drained_once_while_other_threads_count() {
        const THREADS: u64 = 4;
        const EACH: u64 = 20_000;
        let counter = LatencyCounter::default();
        let mut sum = Latencies::default();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for micros in 0..EACH {
                        counter.record(Duration::from_micros(micros % 300));
                    }
                });
            }
            for _ in 0..50 {
                counter.drain_into(&mut sum);
            }
        });
        counter.drain_into(&mut sum);
        assert_eq!(sum.count(), THREADS * EACH);
    }
}
