//! What figures should be, and whether they are.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::meter::Figures;

/// Whether figures are as they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// They are.
    Passed,
    /// They are not.
    Failed,
}

impl From<bool> for Verdict {
    fn from(is_met: bool) -> Self {
        match is_met {
            true => Self::Passed,
            false => Self::Failed,
        }
    }
}

/// What the figures should be. What is not set is not checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Half of the operations take no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// 90 % of the operations take no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90_ms: Option<f64>,
    /// 99 % of the operations take no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// 99.9 % of the operations take no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_ms: Option<f64>,
    /// No operation takes longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<f64>,
    /// At most so many operations fail, 0 to 10,000,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 10_000_000)]
    pub errors_max: Option<u64>,
    /// At least so many operations succeed each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_min_per_second: Option<f64>,
}

/// One threshold beside the figure that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Check {
    /// The threshold, by the name of its member.
    pub threshold: &'static str,
    /// What it is.
    pub limit: f64,
    /// The figure. `null` if no operation succeeded, so that there is no latency.
    pub measured: Option<f64>,
    /// Whether the figure keeps it. A latency that could not be measured does not.
    pub verdict: Verdict,
}

impl Thresholds {
    /// Checks `figures`. Only what is set yields a check.
    pub fn check(&self, figures: &Figures) -> Vec<Check> {
        let latency = figures.latency;
        let at_most = |threshold, limit: Option<f64>, measured: Option<f64>| {
            let limit = limit?;
            let is_met = measured.is_some_and(|measured| measured <= limit);
            Some(Check {
                threshold,
                limit,
                measured,
                verdict: is_met.into(),
            })
        };
        let throughput = self.throughput_min_per_second.map(|limit| Check {
            threshold: "throughput_min_per_second",
            limit,
            measured: Some(figures.throughput_per_second),
            verdict: (figures.throughput_per_second >= limit).into(),
        });
        let errors_max = self.errors_max.map(|errors| errors as f64);
        let checks = [
            at_most("p50_ms", self.p50_ms, latency.map(|it| it.p50_ms)),
            at_most("p90_ms", self.p90_ms, latency.map(|it| it.p90_ms)),
            at_most("p99_ms", self.p99_ms, latency.map(|it| it.p99_ms)),
            at_most("p999_ms", self.p999_ms, latency.map(|it| it.p999_ms)),
            at_most("max_ms", self.max_ms, latency.map(|it| it.max_ms)),
            at_most("errors_max", errors_max, Some(figures.failed as f64)),
            throughput,
        ];
        checks.into_iter().flatten().collect()
    }

    /// The first threshold that is no finite number of at least 0, which no figure could be compared with.
    pub fn invalid(&self) -> Option<&'static str> {
        let numbers = [
            ("p50_ms", self.p50_ms),
            ("p90_ms", self.p90_ms),
            ("p99_ms", self.p99_ms),
            ("p999_ms", self.p999_ms),
            ("max_ms", self.max_ms),
            ("throughput_min_per_second", self.throughput_min_per_second),
        ];
        let is_valid = |number: f64| number.is_finite() && number >= 0.0;
        let mut invalid = numbers
            .into_iter()
            .filter(|(_, number)| !number.is_none_or(is_valid));
        invalid.next().map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Failure, Meter};

    fn verdicts(thresholds: Thresholds, meter: &Meter) -> Vec<(&'static str, Verdict)> {
        let checks = thresholds.check(&meter.figures());
        checks.iter().map(|it| (it.threshold, it.verdict)).collect()
    }

    #[test]
    fn each_threshold_that_is_set_gets_a_verdict() {
        let meter = Meter::default();
        for ms in 1..=100 {
            meter.count(Duration::from_millis(ms), Ok(()));
        }
        meter.count(Duration::ZERO, Err(Failure::new("lost", "")));
        meter.add_time(Duration::from_secs(1));
        let kept = Thresholds {
            p50_ms: Some(51.0),
            p90_ms: Some(91.0),
            p99_ms: Some(99.5),
            p999_ms: Some(101.0),
            max_ms: Some(100.0),
            errors_max: Some(1),
            throughput_min_per_second: Some(100.0),
        };
        let names = [
            "p50_ms",
            "p90_ms",
            "p99_ms",
            "p999_ms",
            "max_ms",
            "errors_max",
            "throughput_min_per_second",
        ];
        let passed = names.map(|name| (name, Verdict::Passed));
        assert_eq!(verdicts(kept, &meter), passed);
        let broken = Thresholds {
            p50_ms: Some(49.0),
            p90_ms: Some(89.0),
            p99_ms: Some(98.0),
            p999_ms: Some(99.0),
            max_ms: Some(99.9),
            errors_max: Some(0),
            throughput_min_per_second: Some(100.1),
        };
        let failed = names.map(|name| (name, Verdict::Failed));
        assert_eq!(verdicts(broken, &meter), failed);
        assert_eq!(verdicts(Thresholds::default(), &meter), []);
    }

    #[test]
    fn a_latency_that_could_not_be_measured_fails() {
        let thresholds = Thresholds {
            p99_ms: Some(1e9),
            errors_max: Some(0),
            ..Thresholds::default()
        };
        let expected = [("p99_ms", Verdict::Failed), ("errors_max", Verdict::Passed)];
        assert_eq!(verdicts(thresholds, &Meter::default()), expected);
    }

    #[test]
    fn only_numbers_that_figures_can_have_are_valid() {
        let valid = Thresholds {
            p99_ms: Some(0.0),
            ..Thresholds::default()
        };
        assert_eq!(valid.invalid(), None);
        for number in [-0.1, f64::NAN, f64::INFINITY] {
            let invalid = Thresholds {
                max_ms: Some(number),
                ..Thresholds::default()
            };
            assert_eq!(invalid.invalid(), Some("max_ms"));
        }
    }
}
