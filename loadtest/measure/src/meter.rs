//! Counts what came of operations, and sums it up.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency that is told from a longer one, in microseconds: ten minutes.
const MICROS_MAX: u64 = 600_000_000;

/// Three significant digits make quantiles at most a thousandth too large.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Different kinds of failures that are counted apart. Further ones count as [`OTHER`].
const KINDS_MAX: usize = 16;

/// The kind of failures beyond [`KINDS_MAX`].
const OTHER: &str = "other";

/// The longest message of a failure that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 512;

/// The most memory that a [`Meter`] holds: the counters of its histogram, and its texts.
pub const METER_BYTES: u64 = 128 << 10;

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A word for its kind, which failures are counted by.
    pub kind: Cow<'static, str>,
    /// What happened.
    pub message: String,
}

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            message: message.into(),
        }
    }
}

/// Counts the operations of all callers. Its size is fixed, however many there are.
#[derive(Debug)]
pub struct Meter {
    counts: Mutex<Counts>,
    ended: AtomicU64,
}

#[derive(Debug)]
struct Counts {
    latencies: Histogram<u32>,
    longest: Duration,
    failed: u64,
    failures: BTreeMap<Cow<'static, str>, u64>,
    first_failure: Option<String>,
    started_late: u64,
    took: Duration,
}

impl Default for Meter {
    // The bounds are constants that the crate accepts.
    #[allow(clippy::expect_used)]
    fn default() -> Self {
        let latencies = Histogram::new_with_bounds(1, MICROS_MAX, SIGNIFICANT_DIGITS);
        Self {
            counts: Mutex::new(Counts {
                latencies: latencies.expect("constant bounds"),
                longest: Duration::ZERO,
                failed: 0,
                failures: BTreeMap::new(),
                first_failure: None,
                started_late: 0,
                took: Duration::ZERO,
            }),
            ended: AtomicU64::new(0),
        }
    }
}

impl Meter {
    /// Counts one operation that ended after `latency`. That of a failed one is not kept.
    pub fn count(&self, latency: Duration, result: Result<(), Failure>) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        let mut counts = self.counts();
        match result {
            Ok(()) => {
                let micros = u64::try_from(latency.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
                counts.latencies.saturating_record(micros.max(1));
                counts.longest = counts.longest.max(latency);
            }
            Err(failure) => counts.fail(failure),
        }
    }

    /// Counts an operation that began after it was due.
    pub(crate) fn count_late(&self) {
        self.counts().started_late += 1;
    }

    /// Adds to the time in which the counted operations were done.
    pub fn add_time(&self, time: Duration) {
        self.counts().took += time;
    }

    /// The number of operations that have ended. It may be read often.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// What was counted so far.
    pub fn figures(&self) -> Figures {
        let counts = self.counts();
        let succeeded = counts.latencies.len();
        let seconds = counts.took.as_secs_f64();
        Figures {
            succeeded,
            failed: counts.failed,
            errors: counts.failures.clone(),
            first_error: counts.first_failure.clone(),
            started_late: counts.started_late,
            took_seconds: seconds,
            throughput_per_second: match seconds > 0.0 {
                true => succeeded as f64 / seconds,
                false => 0.0,
            },
            latency: (succeeded > 0).then(|| counts.latencies()),
        }
    }

    /// A panic elsewhere leaves the counts as they are, which is good enough for figures.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn fail(&mut self, failure: Failure) {
        let Failure { kind, mut message } = failure;
        self.failed += 1;
        let is_counted = self.failures.contains_key(&kind) || self.failures.len() < KINDS_MAX;
        let kind = match is_counted {
            true => kind,
            false => OTHER.into(),
        };
        *self.failures.entry(kind).or_default() += 1;
        self.first_failure.get_or_insert_with(|| {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message
        });
    }

    fn latencies(&self) -> Latencies {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let max = ms(self.longest);
        let quantile = |quantile| {
            let micros = self.latencies.value_at_quantile(quantile);
            (micros as f64 / 1e3).min(max)
        };
        Latencies {
            p50_ms: quantile(0.50),
            p90_ms: quantile(0.90),
            p99_ms: quantile(0.99),
            p999_ms: quantile(0.999),
            max_ms: max,
        }
    }
}

/// What came of many operations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Operations that succeeded.
    pub succeeded: u64,
    /// Operations that failed.
    pub failed: u64,
    /// The failed ones by kind. Kinds after the sixteenth count together, as `other`.
    pub errors: BTreeMap<Cow<'static, str>, u64>,
    /// The message of the first failure.
    pub first_error: Option<String>,
    /// In an open loop: operations that began after they were due, because every caller or the process was
    /// held up. Their latency has the delay.
    pub started_late: u64,
    /// How long all of them took together, from the first begin to the last end.
    pub took_seconds: f64,
    /// Operations that succeeded, for each second of that time.
    pub throughput_per_second: f64,
    /// The latencies of those that succeeded. `null` if none did.
    pub latency: Option<Latencies>,
}

/// Quantiles of latencies, at most a thousandth too large.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// Half of the operations took no longer.
    pub p50_ms: f64,
    /// 90 % of the operations took no longer.
    pub p90_ms: f64,
    /// 99 % of the operations took no longer.
    pub p99_ms: f64,
    /// 99.9 % of the operations took no longer.
    pub p999_ms: f64,
    /// The longest operation, exactly.
    pub max_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_follow_the_ranks_and_failures_count_by_kind() {
        let meter = Meter::default();
        for ms in 1..=1000 {
            meter.count(Duration::from_millis(ms), Ok(()));
        }
        for (kind, message) in [("slow", "first"), ("lost", "second"), ("slow", "third")] {
            let failure = Failure::new(kind, message);
            meter.count(Duration::from_secs(500), Err(failure));
        }
        meter.add_time(Duration::from_secs(10));
        let figures = meter.figures();
        assert_eq!((figures.succeeded, figures.failed), (1000, 3));
        assert_eq!(meter.ended(), 1003);
        assert_eq!(figures.errors["slow"], 2);
        assert_eq!(figures.errors["lost"], 1);
        assert_eq!(figures.first_error.as_deref(), Some("first"));
        assert_eq!(figures.throughput_per_second, 100.0);
        let latency = figures.latency.unwrap();
        for (shown, exact) in [
            (latency.p50_ms, 500.0),
            (latency.p90_ms, 900.0),
            (latency.p99_ms, 990.0),
            (latency.p999_ms, 999.0),
        ] {
            assert!((exact..exact * 1.001).contains(&shown), "{latency:?}");
        }
        assert_eq!(latency.max_ms, 1000.0);
    }

    #[test]
    fn nothing_has_no_latency_and_no_throughput() {
        let figures = Meter::default().figures();
        assert_eq!(figures.latency, None);
        assert_eq!(figures.throughput_per_second, 0.0);
    }

    #[test]
    fn kinds_and_messages_are_bounded() {
        let meter = Meter::default();
        for kind in 0..100 {
            let failure = Failure::new(format!("status_{kind}"), "é".repeat(1000));
            meter.count(Duration::ZERO, Err(failure));
        }
        let figures = meter.figures();
        assert_eq!(figures.errors.len(), KINDS_MAX + 1);
        assert_eq!(figures.errors[OTHER], 84);
        assert_eq!(figures.first_error.unwrap().len(), MESSAGE_BYTES_MAX);
    }

    #[test]
    fn a_meter_is_no_larger_than_it_says() {
        let meter = Meter::default();
        let counters = meter.counts().latencies.distinct_values() * size_of::<u32>();
        let texts = (KINDS_MAX + 1) * 256 + MESSAGE_BYTES_MAX;
        assert!(((counters + texts) as u64) < METER_BYTES, "{counters}");
    }
}
