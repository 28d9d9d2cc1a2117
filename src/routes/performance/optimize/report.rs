//! What a full clean-up reports: each step with its bytes, its time and its outcome.

use std::time::Duration;

use headroom_actors::kernel::Timestamp;
use headroom_actors::kernel::pressure::{Level, Stage};
use headroom_actors::lazy::{ClearOutcome, ClearReport, Cleared};
use headroom_actors::memory::{ActionRecord, Interruption, MemoryStatus, RoundReport};
use headroom_actors::model::{HostMemory, LeakReport};
use serde::Serialize;

/// Entries of each list in the details of a step.
const DETAILS_MAX: usize = 50;

/// The result of a full clean-up.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// When it began.
    pub(super) began_at: Timestamp,
    /// How long it took.
    pub(super) took_ms: f64,
    /// Resources were unloaded that were not used for this long.
    pub(super) idle_seconds: f64,
    /// The usage of all processes before the first step, measured. `null` if it could not be read.
    pub(super) before_bytes: Option<u64>,
    /// The usage of all processes after the last step that measured it.
    pub(super) after_bytes: Option<u64>,
    /// By how much the usage fell. It also contains what others used more or less meanwhile.
    pub(super) gained_bytes: Option<u64>,
    /// The steps in their order.
    pub(super) steps: Vec<Step>,
}

impl Report {
    pub(super) fn new(idle_for: Duration) -> Self {
        Self {
            began_at: Timestamp::now(),
            took_ms: 0.0,
            idle_seconds: idle_for.as_secs_f64(),
            before_bytes: None,
            after_bytes: None,
            gained_bytes: None,
            steps: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, step: Step) {
        self.before_bytes = self.before_bytes.or(step.before_bytes);
        self.after_bytes = step.after_bytes.or(self.after_bytes);
        let measured = self.before_bytes.zip(self.after_bytes);
        self.gained_bytes = measured.map(|(before, after)| before.saturating_sub(after));
        self.steps.push(step);
    }
}

/// The steps of a full clean-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StepName {
    /// The allocators of all processes give freed memory back.
    Allocators,
    /// Caches are emptied.
    Caches,
    /// Idle connections of all pools are closed.
    Connections,
    /// Idle resources are unloaded.
    IdleModels,
    /// What the leak detection says of each host.
    Leaks,
    /// A last reading of memory.
    Reading,
}

impl StepName {
    pub(super) const ALL: [Self; 6] = [
        Self::Allocators,
        Self::Caches,
        Self::Connections,
        Self::IdleModels,
        Self::Leaks,
        Self::Reading,
    ];

    /// What the step does, for the job's progress.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Allocators => "purge allocators",
            Self::Caches => "empty caches",
            Self::Connections => "close idle connections",
            Self::IdleModels => "unload idle resources",
            Self::Leaks => "look for leaks",
            Self::Reading => "read memory",
        }
    }
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// It did what there was to do.
    Done,
    /// There was nothing to do.
    NothingToDo,
    /// It could not be done.
    Failed,
    /// What it asks gave no answer in time. It may be done later.
    NoAnswer,
    /// The job ended during the step, which may have done a part.
    Cancelled,
    /// The job ended before the step.
    NotTried,
}

/// One step. What was measured is the usage of all processes together.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    /// Which one.
    pub(super) name: StepName,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// Why it was not done, or not by all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// How long it took.
    pub(super) took_ms: f64,
    /// The usage before, measured. `null` if it was not measured.
    pub(super) before_bytes: Option<u64>,
    /// The usage afterwards, measured.
    pub(super) after_bytes: Option<u64>,
    /// By how much the measured usage fell.
    pub(super) gained_bytes: Option<u64>,
    /// What was done, by whom or to whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) details: Option<Details>,
}

/// The details of a step. Lists have at most 50 entries.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Details {
    /// Memory that actors gave back.
    Collected {
        /// What they did. Bytes are those of each actor's own measurement.
        actions: Vec<ActionRecord>,
        /// The actors that did not answer in time.
        silent: Vec<String>,
        /// Actions beyond those that are listed.
        left_out: usize,
    },
    /// Resources that were unloaded, or why they stay.
    Unloaded {
        /// Bytes of all resources that were unloaded or drain.
        promised_bytes: u64,
        /// The resources that were loaded: first those that go, then those that stay.
        resources: Vec<Cleared>,
        /// Resources beyond those that are listed.
        left_out: usize,
    },
    /// What the leak detection says.
    Leaks {
        /// Whether hosts are measured for leaks.
        is_enabled: bool,
        /// Hosts that leak, or use far more than expected.
        suspects: usize,
        /// The hosts: first the suspects, then those that have grown most.
        hosts: Vec<HostMemory>,
        /// Hosts beyond those that are listed.
        left_out: usize,
    },
    /// The state of the budget at the end.
    Read {
        /// The bytes that all processes may use.
        budget_bytes: u64,
        /// Bytes that are neither used nor reserved.
        free_bytes: u64,
        /// How short memory is.
        level: Level,
    },
}

impl Step {
    fn new(name: StepName, outcome: Outcome) -> Self {
        Self {
            name,
            outcome,
            reason: None,
            took_ms: 0.0,
            before_bytes: None,
            after_bytes: None,
            gained_bytes: None,
            details: None,
        }
    }

    /// A step that was not done.
    pub(super) fn without_result(
        name: StepName,
        outcome: Outcome,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            reason: Some(reason.into()),
            ..Self::new(name, outcome)
        }
    }

    /// A step before which the job ended.
    pub(super) fn not_tried(name: StepName) -> Self {
        Self::new(name, Outcome::NotTried)
    }

    pub(super) fn measured(mut self, before: Option<u64>, after: Option<u64>) -> Self {
        (self.before_bytes, self.after_bytes) = (before, after);
        let both = before.zip(after);
        self.gained_bytes = both.map(|(before, after)| before.saturating_sub(after));
        self
    }

    /// What a collection of `stage` did. Actions of another stage are not of this step: the server's
    /// allocator is purged with each.
    pub(super) fn collected(name: StepName, round: RoundReport, stage: Stage) -> Self {
        let mut actions = round.actors;
        actions.retain(|action| action.stage == stage);
        let gave = |record: &ActionRecord| record.gained_bytes > 0;
        let (outcome, reason) = if let Some(interruption) = round.interruption {
            let (outcome, reason) = interrupted(interruption);
            (outcome, Some(reason.to_owned()))
        } else if actions.iter().any(gave) {
            (Outcome::Done, None)
        } else if !round.silent.is_empty() {
            let reason = format!("{} gave no answer in time", round.silent.join(", "));
            (Outcome::NoAnswer, Some(reason))
        } else {
            (Outcome::NothingToDo, None)
        };
        let left_out = shorten(&mut actions);
        Self {
            reason,
            details: Some(Details::Collected {
                actions,
                silent: round.silent,
                left_out,
            }),
            ..Self::new(name, outcome)
        }
        .measured(Some(round.used_before_bytes), Some(round.used_after_bytes))
    }

    pub(super) fn unloaded(name: StepName, report: ClearReport) -> Self {
        let mut resources = report.resources;
        let stays = |it: &Cleared| it.outcome == ClearOutcome::Kept;
        resources.sort_by_key(stays);
        let outcome = match resources.first().is_some_and(|first| !stays(first)) {
            true => Outcome::Done,
            false => Outcome::NothingToDo,
        };
        let left_out = shorten(&mut resources);
        Self {
            details: Some(Details::Unloaded {
                promised_bytes: report.promised_bytes,
                resources,
                left_out,
            }),
            ..Self::new(name, outcome)
        }
    }

    pub(super) fn leaks(name: StepName, report: LeakReport) -> Self {
        let mut hosts = report.hosts;
        hosts.sort_by_key(|host| (host.finding.is_none(), std::cmp::Reverse(host.growth_bytes)));
        let suspects = hosts.iter().filter(|host| host.finding.is_some()).count();
        let outcome = match hosts.is_empty() {
            true => Outcome::NothingToDo,
            false => Outcome::Done,
        };
        let left_out = shorten(&mut hosts);
        Self {
            details: Some(Details::Leaks {
                is_enabled: report.is_enabled,
                suspects,
                hosts,
                left_out,
            }),
            ..Self::new(name, outcome)
        }
    }

    pub(super) fn read(name: StepName, status: &MemoryStatus) -> Self {
        Self {
            details: Some(Details::Read {
                budget_bytes: status.report.budget.bytes,
                free_bytes: status.free_bytes,
                level: status.level,
            }),
            ..Self::new(name, Outcome::Done)
        }
        .measured(None, Some(status.used_bytes))
    }

    /// What came of it, for the job's steps. `Err` if it was not done.
    pub(super) fn summary(&self) -> Result<String, String> {
        let reason = self.reason.clone();
        match (self.outcome, self.gained_bytes) {
            (Outcome::Done, Some(gained)) => Ok(format!("{gained} bytes less are used")),
            (Outcome::Done, None) => Ok("done".to_owned()),
            (Outcome::NothingToDo, _) => Ok("there was nothing to do".to_owned()),
            _ => Err(reason.unwrap_or_else(|| "it was not done".to_owned())),
        }
    }
}

/// The outcome of a collection that was ended early, and why.
fn interrupted(interruption: Interruption) -> (Outcome, &'static str) {
    match interruption {
        Interruption::LevelRose => (
            Outcome::Failed,
            "memory got shorter meanwhile, and a clean-up for that took its place",
        ),
        Interruption::CleanUp => (
            Outcome::Failed,
            "memory is short, and a clean-up for that took its place",
        ),
        Interruption::LevelFell => (
            Outcome::NoAnswer,
            "the level of memory pressure fell meanwhile; what was asked for goes on without a report",
        ),
    }
}

/// Shortens a list of details. Returns how many entries are left out.
fn shorten<T>(list: &mut Vec<T>) -> usize {
    let left_out = list.len().saturating_sub(DETAILS_MAX);
    list.truncate(DETAILS_MAX);
    left_out
}

#[cfg(test)]
mod tests {
    use headroom_actors::kernel::pressure::Action;
    use headroom_actors::lazy::KeptReason;

    use super::*;

    fn action(by: &str, stage: Stage, gained_bytes: u64) -> ActionRecord {
        ActionRecord {
            by: by.to_owned(),
            stage,
            action: Action {
                what: by.to_owned(),
                promised_bytes: 0,
                before_bytes: gained_bytes,
                after_bytes: 0,
            },
            gained_bytes,
        }
    }

    fn round(
        actors: Vec<ActionRecord>,
        silent: &[&str],
        interruption: Option<Interruption>,
    ) -> RoundReport {
        RoundReport {
            used_before_bytes: 100,
            used_after_bytes: 70,
            began_at: Timestamp::now(),
            took_ms: 1.0,
            is_complete: interruption.is_none(),
            interruption,
            actors,
            silent: silent.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn a_collection_is_judged_by_the_actions_of_its_own_stage() {
        let slack = action("memory", Stage::Slack, 5);
        let pool = action("pool", Stage::Connections, 7);
        let nothing = action("other", Stage::Connections, 0);
        let done = || vec![slack.clone(), pool.clone()];
        for (actors, silent, interruption, expected) in [
            (done(), &[][..], None, Outcome::Done),
            (vec![slack.clone()], &[], None, Outcome::NothingToDo),
            (vec![nothing.clone()], &[], None, Outcome::NothingToDo),
            (vec![pool.clone()], &["redis"], None, Outcome::Done),
            (vec![nothing], &["redis"], None, Outcome::NoAnswer),
            (done(), &[], Some(Interruption::LevelRose), Outcome::Failed),
            (done(), &[], Some(Interruption::CleanUp), Outcome::Failed),
            (
                done(),
                &[],
                Some(Interruption::LevelFell),
                Outcome::NoAnswer,
            ),
        ] {
            let round = round(actors, silent, interruption);
            let step = Step::collected(StepName::Connections, round.clone(), Stage::Connections);
            assert_eq!(step.outcome, expected, "{round:?}");
            assert_eq!(step.gained_bytes, Some(30));
            let is_done = matches!(expected, Outcome::Done | Outcome::NothingToDo);
            assert_eq!(step.summary().is_ok(), is_done, "{step:?}");
            // Only a level that rises or lasts is a want of memory.
            let reason = step.reason.unwrap_or_default();
            assert_eq!(
                reason.contains("short"),
                expected == Outcome::Failed,
                "{reason}"
            );
        }
    }

    #[test]
    fn the_sum_is_from_the_first_to_the_last_measurement() {
        let mut report = Report::new(Duration::ZERO);
        report.add(Step::not_tried(StepName::Caches));
        assert_eq!(report.gained_bytes, None);
        for (before, after) in [(Some(100), Some(80)), (None, None), (Some(85), Some(60))] {
            report.add(Step::not_tried(StepName::Caches).measured(before, after));
        }
        assert_eq!(
            (report.before_bytes, report.after_bytes, report.gained_bytes),
            (Some(100), Some(60), Some(40))
        );
    }

    #[test]
    fn details_are_bounded_and_begin_with_what_matters() {
        let cleared = |index: usize| Cleared {
            name: index.to_string(),
            kind: "model",
            bytes: 1,
            leases: 0,
            outcome: match index {
                DETAILS_MAX => ClearOutcome::Unloaded,
                _ => ClearOutcome::Kept,
            },
            reason: (index != DETAILS_MAX).then_some(KeptReason::Pinned),
            needed_by: Vec::new(),
        };
        let step = Step::unloaded(
            StepName::IdleModels,
            ClearReport {
                dry_run: false,
                resources: (0..DETAILS_MAX + 3).map(cleared).collect(),
                promised_bytes: 1,
                waited_seconds: 0.0,
            },
        );
        assert_eq!(step.outcome, Outcome::Done);
        let Some(Details::Unloaded {
            resources,
            left_out,
            ..
        }) = step.details
        else {
            panic!("{step:?}");
        };
        assert_eq!((resources.len(), left_out), (DETAILS_MAX, 3));
        assert_eq!(resources[0].outcome, ClearOutcome::Unloaded);
    }
}
