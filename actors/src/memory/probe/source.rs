//! The sources of memory figures, and what is known of each: its health and its detail.

use serde::Serialize;
use utoipa::ToSchema;

/// A source of memory figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[schema(as = MemorySource)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The settings: `memory.limit`.
    Configured,
    /// The control group of version 2.
    CgroupV2,
    /// The control group of version 1.
    CgroupV1,
    /// The server's processes in `/proc`.
    Processes,
    /// The machine's memory.
    Machine,
    /// The server's own allocator.
    Allocator,
    /// The time that tasks stalled for memory, read with each reading.
    Stalls,
    /// The kernel's event when tasks stall for too long.
    StallTrigger,
    /// The number of processes that the kernel has killed because memory ran out.
    KernelKills,
}

/// Whether the figures of a source can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MemorySourceHealth)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Its figures are plausible.
    Healthy,
    /// This machine does not have it.
    Absent,
    /// It exists and cannot be read.
    Failing,
    /// Its figures contradict others, or cover other processes as well.
    Misleading,
}

/// The status of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MemorySourceStatus)]
pub struct SourceStatus {
    /// The source.
    pub source: Source,
    /// Whether the budget or the usage depends on it now.
    pub in_use: bool,
    /// Whether its figures can be used.
    pub health: Health,
    /// Where its figures come from, or why it has none.
    pub detail: String,
}

impl SourceStatus {
    /// The sources whose health changed from `before` to `now`. A source without a status before
    /// counts as changed if it is failing or misleading.
    pub(in crate::memory) fn changes<'now>(
        before: &[Self],
        now: &'now [Self],
    ) -> impl Iterator<Item = &'now Self> {
        now.iter().filter(move |status| {
            match before.iter().find(|last| last.source == status.source) {
                Some(last) => last.health != status.health,
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
    fn only_sources_whose_health_changed_are_reported() {
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
