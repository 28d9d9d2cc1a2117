//! How long the loads of one resource took.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use utoipa::ToSchema;

/// The histogram counts in this unit, in microseconds. A load takes milliseconds at least.
const UNIT_MICROS: u128 = 100;

/// The longest time that is told from a longer one: an hour.
const UNITS_MAX: u64 = 36_000_000;

/// One significant digit makes quantiles at most a sixteenth too large, in less than 2 KB.
const SIGNIFICANT_DIGITS: u8 = 1;

/// The times of all completed loads of one resource, in seconds. Quantiles are at most a sixteenth too
/// large.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct LoadTimeQuantiles {
    /// Half of the loads took no longer.
    pub p50_seconds: f64,
    /// 90 % of the loads took no longer.
    pub p90_seconds: f64,
    /// 99 % of the loads took no longer.
    pub p99_seconds: f64,
    /// The longest load.
    pub max_seconds: f64,
    /// The mean of all loads, which is the cost of a reload for the eviction policy.
    pub mean_seconds: f64,
    /// The last load.
    pub last_seconds: f64,
}

/// The times of the completed loads. A resource that was never loaded has no histogram, since most
/// resources are never loaded.
#[derive(Debug, Default)]
pub(super) struct LoadTimes(Option<Box<Times>>);

#[derive(Debug)]
struct Times {
    histogram: Histogram<u32>,
    loads: u32,
    total: Duration,
    max: Duration,
    last: Duration,
}

impl LoadTimes {
    pub(super) fn record(&mut self, took: Duration) {
        let times = self.0.get_or_insert_with(|| Box::new(Times::new()));
        let units = u64::try_from(took.as_micros().div_ceil(UNIT_MICROS)).unwrap_or(u64::MAX);
        times.histogram.saturating_record(units.max(1));
        times.loads = times.loads.saturating_add(1);
        times.total += took;
        times.max = times.max.max(took);
        times.last = took;
    }

    /// The mean of all completed loads.
    pub(super) fn average(&self) -> Option<Duration> {
        let times = self.0.as_ref()?;
        times.total.checked_div(times.loads)
    }

    pub(super) fn quantiles(&self) -> Option<LoadTimeQuantiles> {
        let times = self.0.as_ref()?;
        let max = times.max.as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "at most 36 million units")]
        let seconds = |quantile| {
            let units = times.histogram.value_at_quantile(quantile);
            (units as f64 * UNIT_MICROS as f64 / 1e6).min(max)
        };
        Some(LoadTimeQuantiles {
            p50_seconds: seconds(0.50),
            p90_seconds: seconds(0.90),
            p99_seconds: seconds(0.99),
            max_seconds: max,
            mean_seconds: self.average().unwrap_or_default().as_secs_f64(),
            last_seconds: times.last.as_secs_f64(),
        })
    }
}

impl Times {
    // The bounds are constants that the crate accepts.
    #[allow(clippy::expect_used)]
    fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, UNITS_MAX, SIGNIFICANT_DIGITS);
        Self {
            histogram: histogram.expect("constant bounds"),
            loads: 0,
            total: Duration::ZERO,
            max: Duration::ZERO,
            last: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(loads: impl IntoIterator<Item = Duration>) -> LoadTimeQuantiles {
        let mut times = LoadTimes::default();
        for took in loads {
            times.record(took);
        }
        times.quantiles().unwrap()
    }

    #[test]
    fn nothing_is_allocated_before_the_first_load() {
        let times = LoadTimes::default();
        assert!(times.0.is_none());
        assert_eq!((times.quantiles(), times.average()), (None, None));
    }

    #[test]
    fn quantiles_follow_the_ranks_and_never_pass_the_maximum() {
        let shown = of((1..=100).map(Duration::from_millis));
        assert!((0.050..0.054).contains(&shown.p50_seconds), "{shown:?}");
        assert!((0.090..0.096).contains(&shown.p90_seconds), "{shown:?}");
        assert!((0.099..=0.100).contains(&shown.p99_seconds), "{shown:?}");
        assert_eq!((shown.max_seconds, shown.last_seconds), (0.1, 0.1));
        assert!((shown.mean_seconds - 0.0505).abs() < 1e-9, "{shown:?}");
    }

    #[test]
    fn one_load_has_the_same_value_everywhere() {
        let shown = of([Duration::from_millis(37)]);
        assert_eq!((shown.p50_seconds, shown.p99_seconds), (0.037, 0.037));
    }

    #[test]
    fn the_longest_time_and_the_shortest_are_counted() {
        let shown = of([Duration::ZERO, Duration::from_secs(90_000)]);
        assert_eq!((shown.p50_seconds, shown.max_seconds), (0.0001, 90_000.0));
    }
}
