//! The result of a load test.

use std::collections::BTreeMap;

use headroom_measure::{Check, Figures, Verdict};
use serde::Serialize;

use super::lazy_loading::Loads;
use super::request::Scenario;
use super::run::{Loop, Measured};
use super::watch::MemoryFigures;

/// Why a scenario ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EndedBy {
    /// All operations were done.
    Operations,
    /// Its deadline passed. The figures are those of the operations until then.
    Deadline,
    /// The job was cancelled, or has passed its deadline.
    Cancelled,
    /// The level of memory pressure was critical or exhausted.
    MemoryPressure,
    /// The memory budget refused memory.
    NoMemory,
    /// It could not run, or not to its end.
    Error,
}

/// Whether the figures are as they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// All thresholds are kept.
    Passed,
    /// It was cancelled, so there are too few figures to tell.
    Incomplete,
    /// A threshold is broken, a scenario had no operation that succeeded or too many that failed, or one
    /// ended for want of memory or by an error.
    Failed,
}

/// The result of a load test.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The worst verdict of its scenarios.
    verdict: Outcome,
    /// The scenarios that ran, in their order.
    scenarios: Vec<ScenarioReport>,
    /// The scenarios that did not run, with the reason. One that was asked for by name and could not run is
    /// under `scenarios`, and has failed.
    left_out: BTreeMap<&'static str, String>,
    /// What was loaded during the load test and was not before, with the time of its unload. The load test
    /// unloads none of it: the usual policy does.
    left_loaded: BTreeMap<String, String>,
}

/// What came of one scenario.
#[derive(Debug, Serialize)]
pub(super) struct ScenarioReport {
    /// `memory`, `lazy_loading`, `database` or `http`.
    name: &'static str,
    /// Whether the figures are as they should be.
    verdict: Outcome,
    /// Why it ended.
    ended_by: EndedBy,
    /// The reason in words. `null` if all operations were done.
    reason: Option<String>,
    /// How long it took, with what it had to prepare and to clean up.
    took_seconds: f64,
    /// The parameters in force.
    parameters: Scenario,
    /// The figures of each kind of operation.
    operations: Vec<Operation>,
    /// The usage of memory.
    memory: MemoryFigures,
    /// For `lazy_loading`: what was loaded and evicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    loads: Option<Loads>,
}

/// The figures of one kind of operation.
#[derive(Debug, Serialize)]
pub(super) struct Operation {
    /// What it is: `block`; `cold_load`, `hit`, `unload`; `query`; `request`.
    pub(super) name: &'static str,
    /// How the callers behaved.
    #[serde(rename = "loop")]
    pub(super) kind: Loop,
    /// What was measured.
    #[serde(flatten)]
    pub(super) figures: Figures,
    /// A verdict for each threshold.
    pub(super) checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(
        scenarios: Vec<ScenarioReport>,
        left_out: BTreeMap<&'static str, String>,
        left_loaded: BTreeMap<String, String>,
        is_cancelled: bool,
    ) -> Self {
        let verdicts = scenarios.iter().map(|scenario| scenario.verdict);
        let least = match is_cancelled {
            true => Outcome::Incomplete,
            false => Outcome::Passed,
        };
        Self {
            verdict: verdicts.fold(least, Ord::max),
            scenarios,
            left_out,
            left_loaded,
        }
    }
}

impl ScenarioReport {
    pub(super) fn new(
        scenario: Scenario,
        measured: Measured,
        ended_by: (EndedBy, Option<String>),
        took_seconds: f64,
        memory: MemoryFigures,
    ) -> Self {
        let (ended_by, reason) = ended_by;
        let Measured {
            operations,
            lazy_loading,
        } = measured;
        Self {
            name: scenario.name(),
            verdict: outcome(&operations, ended_by),
            ended_by,
            reason,
            took_seconds,
            parameters: scenario,
            operations,
            memory,
            loads: lazy_loading,
        }
    }

    pub(super) fn has_passed(&self) -> bool {
        self.verdict == Outcome::Passed
    }

    /// What came of it, in a line.
    pub(super) fn summary(&self) -> String {
        let line = |operation: &Operation| {
            let Figures {
                succeeded,
                failed,
                latency,
                ..
            } = &operation.figures;
            let name = operation.name;
            let p99 = latency.map_or(String::new(), |it| format!(", p99 {:.3} ms", it.p99_ms));
            format!("{name}: {succeeded} succeeded, {failed} failed{p99}")
        };
        let mut lines: Vec<_> = self.operations.iter().map(line).collect();
        lines.extend(self.reason.clone());
        lines.join("; ")
    }
}

/// The verdict on a scenario with these operations.
fn outcome(operations: &[Operation], ended_by: EndedBy) -> Outcome {
    let mut checks = operations.iter().flat_map(|operation| &operation.checks);
    let is_broken = checks.any(|check| check.verdict == Verdict::Failed);
    let is_broken = is_broken || operations.iter().any(fails_too_often);
    let has_succeeded = operations.iter().any(|it| it.figures.succeeded > 0);
    match ended_by {
        // Too few figures break thresholds that enough of them would keep.
        EndedBy::Cancelled => Outcome::Incomplete,
        EndedBy::MemoryPressure | EndedBy::NoMemory | EndedBy::Error => Outcome::Failed,
        EndedBy::Operations | EndedBy::Deadline if is_broken || !has_succeeded => Outcome::Failed,
        EndedBy::Operations | EndedBy::Deadline => Outcome::Passed,
    }
}

/// Whether more than one of a hundred operations failed, where no threshold says how many may.
fn fails_too_often(operation: &Operation) -> bool {
    let has_threshold = operation
        .checks
        .iter()
        .any(|check| check.threshold == "errors_max");
    let Figures {
        succeeded, failed, ..
    } = operation.figures;
    !has_threshold && failed > (succeeded + failed) / 100
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use headroom_measure::{Failure, Meter, Pace, Thresholds};

    use super::super::run::operation;
    use super::*;

    fn measured(thresholds: Thresholds, succeeded: u64) -> [Operation; 1] {
        measured_with(thresholds, succeeded, 0)
    }

    fn measured_with(thresholds: Thresholds, succeeded: u64, failed: u64) -> [Operation; 1] {
        let meter = Meter::default();
        for _ in 0..failed {
            let failure = Failure::new("refused", "the connection was refused");
            meter.count(Duration::from_millis(10), Err(failure));
        }
        for _ in 0..succeeded {
            meter.count(Duration::from_millis(10), Ok(()));
        }
        [operation(
            "query",
            Pace::Closed,
            meter.figures(),
            &thresholds,
        )]
    }

    #[test]
    fn one_of_a_hundred_operations_may_fail_unless_a_threshold_says_how_many() {
        let limited = |most| Thresholds {
            errors_max: Some(most),
            ..Thresholds::default()
        };
        for (thresholds, succeeded, failed, expected) in [
            (Thresholds::default(), 198, 2, Outcome::Passed),
            (Thresholds::default(), 197, 3, Outcome::Failed),
            (Thresholds::default(), 5, 1, Outcome::Failed),
            (limited(0), 1000, 1, Outcome::Failed),
            (limited(100), 5, 90, Outcome::Passed),
        ] {
            let operations = measured_with(thresholds, succeeded, failed);
            assert_eq!(outcome(&operations, EndedBy::Operations), expected);
        }
    }

    #[test]
    fn a_scenario_passes_only_with_figures_that_keep_all_thresholds() {
        let p99 = |ms| Thresholds {
            p99_ms: Some(ms),
            ..Thresholds::default()
        };
        use EndedBy::{Cancelled, Deadline, Error, MemoryPressure, NoMemory, Operations};
        for ended_by in [Operations, Deadline] {
            let verdict =
                |thresholds, succeeded| outcome(&measured(thresholds, succeeded), ended_by);
            assert_eq!(verdict(p99(11.0), 5), Outcome::Passed);
            assert_eq!(verdict(p99(9.0), 5), Outcome::Failed);
            assert_eq!(verdict(Thresholds::default(), 5), Outcome::Passed);
            assert_eq!(verdict(Thresholds::default(), 0), Outcome::Failed);
        }
        for ended_by in [MemoryPressure, NoMemory, Error] {
            assert_eq!(outcome(&measured(p99(11.0), 5), ended_by), Outcome::Failed);
        }
        assert_eq!(
            outcome(&measured(p99(9.0), 5), Cancelled),
            Outcome::Incomplete
        );
    }
}
