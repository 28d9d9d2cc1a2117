//! A distribution of durations, for a pool's status and for the metrics recorder.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use utoipa::ToSchema;

/// Longer durations count as this one, in microseconds: an hour.
const MAX_MICROS: u64 = 3_600_000_000;

/// One significant digit makes quantiles at most a sixteenth too large, in 4 KB.
const SIGNIFICANT_DIGITS: u8 = 1;

/// Durations from a microsecond to an hour.
pub(super) struct Durations {
    histogram: Histogram<u64>,
    metric: metrics::Histogram,
}

/// The quantiles of a distribution, in seconds. Each is at most a sixteenth too large, and zero when
/// nothing was counted. More than an hour counts as an hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = WaitQuantiles)]
pub struct Quantiles {
    /// The number of values.
    pub count: u64,
    /// Half of the values are not greater.
    pub p50_seconds: f64,
    /// 95 % of the values are not greater.
    pub p95_seconds: f64,
    /// 99 % of the values are not greater.
    pub p99_seconds: f64,
    /// 99.9 % of the values are not greater.
    pub p999_seconds: f64,
    /// The greatest value.
    pub max_seconds: f64,
}

// The bounds are constants that the crate accepts.
#[allow(clippy::expect_used)]
fn empty() -> Histogram<u64> {
    let histogram = Histogram::new_with_bounds(1, MAX_MICROS, SIGNIFICANT_DIGITS);
    histogram.expect("constant bounds")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Durations that callers record, on their way into [`Durations`].
pub(super) struct Uses(Histogram<u64>);

impl Default for Uses {
    fn default() -> Self {
        Self(empty())
    }
}

impl Uses {
    pub(super) fn record(&mut self, duration: Duration) {
        self.0.saturating_record(micros(duration));
    }

    /// The number of durations.
    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// All durations, if there are any; none are left.
    pub(super) fn take(&mut self) -> Option<Self> {
        (self.count() > 0).then(|| std::mem::take(self))
    }
}

impl Durations {
    pub(super) fn new(metric: metrics::Histogram) -> Self {
        let histogram = empty();
        Self { histogram, metric }
    }

    pub(super) fn record(&mut self, duration: Duration) {
        self.histogram.saturating_record(micros(duration));
        self.metric.record(duration.as_secs_f64());
    }

    /// Records `duration` as often as `times`.
    pub(super) fn record_many(&mut self, duration: Duration, times: u64) {
        self.histogram.saturating_record_n(micros(duration), times);
        let times = usize::try_from(times).unwrap_or(usize::MAX);
        self.metric.record_many(duration.as_secs_f64(), times);
    }

    pub(super) fn add(&mut self, uses: &Uses) {
        for value in uses.0.iter_recorded() {
            let duration = Duration::from_micros(value.value_iterated_to());
            self.record_many(duration, value.count_since_last_iteration());
        }
    }

    pub(super) fn quantiles(&self) -> Quantiles {
        let seconds = |quantile| {
            let micros = self.histogram.value_at_quantile(quantile);
            Duration::from_micros(micros).as_secs_f64()
        };
        Quantiles {
            count: self.histogram.len(),
            p50_seconds: seconds(0.50),
            p95_seconds: seconds(0.95),
            p99_seconds: seconds(0.99),
            p999_seconds: seconds(0.999),
            max_seconds: seconds(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations: impl IntoIterator<Item = Duration>) -> Quantiles {
        let mut histogram = Durations::new(metrics::Histogram::noop());
        for duration in durations {
            histogram.record(duration);
        }
        histogram.quantiles()
    }

    #[test]
    fn a_quantile_is_at_most_a_sixteenth_too_large() {
        for micros in [1, 7, 8, 9, 100, 1_000, 12_345, 1_000_000, 3_000_000_000] {
            let exact = Duration::from_micros(micros);
            let shown = of([exact, Duration::from_secs(4_000)]).p50_seconds;
            let exact = exact.as_secs_f64();
            assert!(
                shown >= exact && shown <= exact * (1.0 + 1.0 / 16.0),
                "{micros} µs: {shown} s"
            );
        }
    }

    #[test]
    fn quantiles_follow_the_ranks() {
        assert_eq!(of([]), Quantiles::default());
        let shown = of((1..=100).map(Duration::from_millis));
        assert_eq!(shown.count, 100);
        assert!((0.050..0.054).contains(&shown.p50_seconds), "{shown:?}");
        assert!((0.095..0.101).contains(&shown.p95_seconds), "{shown:?}");
        assert!((0.099..0.106).contains(&shown.p99_seconds), "{shown:?}");
        assert!((0.100..0.107).contains(&shown.max_seconds), "{shown:?}");
        let few_slow = (0..10_000).map(|number| Duration::from_millis(1 + number / 9_980 * 99));
        let shown = of(few_slow);
        assert!((0.001..0.002).contains(&shown.p99_seconds), "{shown:?}");
        assert!((0.100..0.107).contains(&shown.p999_seconds), "{shown:?}");
    }

    #[test]
    fn the_longest_duration_counts_as_an_hour() {
        let shown = of([Duration::MAX]).max_seconds;
        assert!((3_600.0..3_825.0).contains(&shown), "{shown}");
    }
}
