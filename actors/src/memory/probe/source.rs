//! Which source says what, and whether it is to be believed.

use serde::Serialize;

/// A source of numbers about memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The settings: `memory.limit`.
    Configured,
    /// A version 2 control group.
    CgroupV2,
    /// A version 1 control group.
    CgroupV1,
    /// The processes of the server, by `/proc`.
    Processes,
    /// The machine's memory.
    Machine,
    /// The server's own allocator.
    Allocator,
    /// The time lost waiting for memory, read at each sample.
    Stalls,
    /// The kernel's call when too much time is lost so.
    StallTrigger,
    /// The count of processes that the kernel has killed.
    KernelKills,
}

impl Source {
    /// A fixed word for logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::CgroupV2 => "cgroup_v2",
            Self::CgroupV1 => "cgroup_v1",
            Self::Processes => "processes",
            Self::Machine => "machine",
            Self::Allocator => "allocator",
            Self::Stalls => "stalls",
            Self::StallTrigger => "stall_trigger",
            Self::KernelKills => "kernel_kills",
        }
    }
}

/// Whether a source is to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It tells what it should.
    Healthy,
    /// It is not there on this machine.
    Absent,
    /// It is there, and does not tell what it should.
    Failing,
    /// What it tells cannot be, or is not about us.
    Misleading,
}

impl Health {
    /// A fixed word for logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Absent => "absent",
            Self::Failing => "failing",
            Self::Misleading => "misleading",
        }
    }
}

/// What is to be known of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// Which source.
    pub source: Source,
    /// Whether anything that the server decides rests on it now.
    pub in_use: bool,
    /// Whether it is to be believed.
    pub health: Health,
    /// What it tells and where, or why it does not.
    pub detail: String,
}

impl SourceStatus {
    /// Those of `now` whose health is not what it was `before`; at first, those that fail or
    /// mislead.
    pub(in crate::memory) fn changes<'now>(
        before: &[Self],
        now: &'now [Self],
    ) -> impl Iterator<Item = &'now Self> {
        now.iter().filter(move |status| {
            let was = before.iter().find(|before| before.source == status.source);
            match was {
                Some(was) => was.health != status.health,
                None => matches!(status.health, Health::Failing | Health::Misleading),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(source: Source, health: Health) -> SourceStatus {
        SourceStatus {
            source,
            in_use: true,
            health,
            detail: String::new(),
        }
    }

    #[test]
    fn a_source_is_told_when_its_health_changes_and_not_before() {
        use Health::{Absent, Failing, Healthy, Misleading};
        use Source::{Allocator, CgroupV2, Machine, Stalls};
        let changed = |before: &[SourceStatus], now: &[SourceStatus]| {
            let changes = SourceStatus::changes(before, now);
            changes.map(|status| status.source).collect::<Vec<_>>()
        };
        let first = [
            status(CgroupV2, Misleading),
            status(Machine, Healthy),
            status(Allocator, Absent),
            status(Stalls, Failing),
        ];
        assert_eq!(changed(&[], &first), [CgroupV2, Stalls]);
        assert!(changed(&first, &first).is_empty());
        let second = [status(CgroupV2, Healthy), status(Machine, Failing)];
        assert_eq!(changed(&first, &second), [CgroupV2, Machine]);
    }
}
