//! How much memory there is to use, and which source sets it.
//!
//! The budget is the smallest of the limits in the settings and of the control groups, and never more
//! than the machine has. Where there is no such limit, it is a share of the machine's memory. The
//! candidates are kept with it, so that a surprising budget can be explained.

#[cfg(test)]
mod tests;

use serde::Serialize;
use utoipa::ToSchema;

use super::config::MemoryConfig;
use super::levels::share_of;
use super::probe::{Cgroups, Health, Limit, ProbeError, Source, System};
use super::status::label;

/// What sets the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetSource {
    /// The settings: `memory.limit`.
    Configured,
    /// The control group of version 2, or one above it.
    CgroupV2,
    /// The control group of version 1, or one above it.
    CgroupV1,
    /// The machine's memory: a share of it, or all of it if `memory.limit` is more.
    Physical,
}

impl BudgetSource {
    /// The source of figures that it comes from.
    pub(super) fn source(self) -> Source {
        match self {
            Self::Configured => Source::Configured,
            Self::CgroupV2 => Source::CgroupV2,
            Self::CgroupV1 => Source::CgroupV1,
            Self::Physical => Source::Machine,
        }
    }
}

/// The limit of one source, or why it sets none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct BudgetCandidate {
    /// The source.
    pub source: BudgetSource,
    /// The limit in bytes; `null` if it sets none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The setting or file that sets the limit, or why there is none.
    pub detail: String,
    /// Whether the limit is plausible. Status shows it with the source.
    #[serde(skip)]
    pub(super) health: Health,
}

/// The budget, and the limits that it was chosen from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct BudgetReading {
    /// The budget in bytes.
    pub bytes: u64,
    /// The source of the limit that was chosen.
    pub source: BudgetSource,
    /// The limits of all sources.
    #[serde(rename = "considered")]
    pub candidates: Vec<BudgetCandidate>,
}

/// No source sets a budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no memory budget: neither a limit nor the machine's memory is known ({0}); set memory.limit"
)]
pub struct NoBudget(String);

impl BudgetReading {
    /// Reads every source and chooses.
    pub(super) fn take(
        config: &MemoryConfig,
        groups: &Cgroups,
        system: &System,
    ) -> Result<Self, NoBudget> {
        use BudgetSource::{CgroupV1, CgroupV2, Configured, Physical};
        let candidate = |source, answer: Result<Answer, ProbeError>| {
            let (bytes, health, detail) =
                answer.unwrap_or_else(|error| (None, error.health(), error.to_string()));
            BudgetCandidate {
                source,
                bytes,
                detail,
                health,
            }
        };
        let physical = system.physical();
        let machine = physical.as_ref().ok().map(|limit| limit.bytes);
        let mut candidates = vec![
            candidate(Configured, Ok(configured(config.limit, machine))),
            candidate(CgroupV2, groups.v2_limit().map(|it| group(it, machine))),
            candidate(CgroupV1, groups.v1_limit().map(|it| group(it, machine))),
        ];
        let limits = candidates.iter();
        let limits = limits.filter_map(|candidate| Some((candidate.bytes?, candidate.source)));
        let smallest = limits.min_by_key(|(bytes, _)| *bytes);
        // A limit above the machine's memory asks for all of it, not for the default share.
        let is_above = |(bytes, _)| machine.is_some_and(|machine| bytes > machine);
        let share = match smallest.is_some_and(is_above) {
            true => 1.0,
            false => config.physical_share,
        };
        let physical = candidate(Physical, physical.map(|it| physical_share(it, share)));
        let share = physical.bytes.map(|bytes| (bytes, Physical));
        candidates.push(physical);
        match smallest.filter(|limit| !is_above(*limit)).or(share) {
            Some((bytes, source)) => Ok(Self {
                bytes,
                source,
                candidates,
            }),
            None => Err(NoBudget(describe(&candidates))),
        }
    }

    /// The candidate of one source.
    pub fn candidate(&self, source: BudgetSource) -> Option<&BudgetCandidate> {
        let mut candidates = self.candidates.iter();
        candidates.find(|candidate| candidate.source == source)
    }

    /// `memory.limit`, if it is above the budget and so has no effect.
    pub(super) fn ineffective_limit(&self) -> Option<u64> {
        let configured = self.candidate(BudgetSource::Configured)?;
        configured.bytes.filter(|bytes| *bytes > self.bytes)
    }
}

/// All candidates in one line, for the log.
pub(super) fn describe(candidates: &[BudgetCandidate]) -> String {
    let texts = candidates.iter().map(|candidate| {
        let bytes = candidate.bytes.map(|bytes| bytes.to_string());
        let bytes = bytes.as_deref().unwrap_or("none");
        format!(
            "{}: {bytes} ({})",
            label(candidate.source),
            candidate.detail
        )
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// What a candidate consists of besides its source.
type Answer = (Option<u64>, Health, String);

fn configured(limit: Option<u64>, machine: Option<u64>) -> Answer {
    let (health, detail) = match (limit, machine) {
        (None, _) => (Health::Absent, "memory.limit is not set"),
        (Some(limit), Some(machine)) if limit > machine => (
            Health::Misleading,
            "memory.limit: more than the machine has, so the machine's memory is the budget",
        ),
        (Some(_), _) => (Health::Healthy, "memory.limit"),
    };
    (limit, health, detail.to_owned())
}

fn group(limit: Limit, machine: Option<u64>) -> Answer {
    let (bytes, path) = (limit.bytes, limit.set_by.display());
    // Some tools write a huge number for "no limit".
    if machine.is_some_and(|machine| bytes >= machine) {
        let detail = format!("{path} allows {bytes} bytes, no less than the machine has");
        return (None, Health::Misleading, detail);
    }
    (Some(bytes), Health::Healthy, path.to_string())
}

fn physical_share(limit: Limit, share: f64) -> Answer {
    let (bytes, path) = (limit.bytes, limit.set_by.display());
    let detail = format!("{share} of {bytes} ({path})");
    (Some(share_of(bytes, share)), Health::Healthy, detail)
}
