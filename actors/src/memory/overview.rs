//! The figures of the budget, and the main ones in one short answer, from the state that outlives the actor. So they
//! are there while the actor hangs or restarts, with the age of the reading that they come from.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::history::Counts;
use super::probe::KernelKills;
use super::shared::Shared;
use super::status::{KindUsage, MemoryStatus};
use crate::kernel::pressure::Level;

/// Gives the figures of the last reading, from any thread and at any time.
#[derive(Debug, Clone)]
pub struct Overview {
    pub(super) shared: Arc<Shared>,
}

/// The budget and its usage by the last reading.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct MemoryOverview {
    /// The bytes that the whole process tree may use.
    pub budget_bytes: u64,
    /// The usage of the whole process tree.
    pub used_bytes: u64,
    /// Bytes that loads and loaded resources have reserved.
    pub reserved_bytes: u64,
    /// The usage when every reservation is used in full.
    pub projected_bytes: u64,
    /// Bytes that are neither used nor reserved.
    pub free_bytes: u64,
    /// The part of the budget that a load gets only when evicting everything idle would not be enough.
    pub headroom_bytes: u64,
    /// How short memory is.
    pub level: Level,
    /// How long the level has lasted.
    pub level_for_seconds: f64,
    /// How often something happened since the server started.
    #[serde(flatten)]
    pub counts: Counts,
    /// Processes that the kernel has killed because memory ran out, and which processes it counts.
    /// Null where the kernel does not count them.
    pub kernel_kills: Option<KernelKills>,
    /// The usage by kind of process.
    pub kinds: Vec<KindUsage>,
    /// The age of the reading.
    pub read_seconds_ago: f64,
}

impl Overview {
    /// The whole status with the latest `events`, by the last reading; `None` before the first one.
    pub fn status(&self, events: usize) -> Option<MemoryStatus> {
        self.shared.status(events)
    }

    /// The main figures of the last reading; `None` before the first one.
    pub fn latest(&self) -> Option<MemoryOverview> {
        let levels = self.shared.config().levels;
        // One lock at a time.
        let (level, level_age, counts) = {
            let history = self.shared.history();
            (history.level, history.level_age(), history.counts)
        };
        let report = self.shared.report()?;
        let ledger = self.shared.ledger();
        let read = ledger.last_reading?;
        let headroom = ledger.ceiling(levels.critical);
        Some(MemoryOverview {
            budget_bytes: ledger.budget,
            used_bytes: ledger.used(),
            reserved_bytes: ledger.reserved_total(),
            projected_bytes: ledger.projected(),
            free_bytes: ledger.free(),
            headroom_bytes: headroom.saturating_sub(ledger.ceiling(levels.high)),
            level,
            level_for_seconds: level_age.as_secs_f64(),
            counts,
            kernel_kills: report.kernel_kills,
            kinds: KindUsage::of(&ledger.usage),
            read_seconds_ago: read.began.elapsed().as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::fixture::Fixture;
    use super::super::{Memory, MemoryConfig};
    use super::*;
    use crate::kernel::SupervisorSpec;
    use crate::kernel::testing::TestSystem;

    const KIB: u64 = 1 << 10;

    #[test]
    fn the_figures_of_the_last_reading_are_there_after_the_actor_has_stopped() {
        TestSystem::real_time(|system| async move {
            let fixture = Fixture::new().file("proc/meminfo", "MemTotal: 16777216 kB\n");
            fixture.process(100, 1, "headroom", 100);
            fixture.process(101, 100, "hr:model", 300);
            let config = MemoryConfig {
                limit: Some(1000 * KIB),
                ..MemoryConfig::default()
            };
            let memory = Memory::rooted(config, fixture.path("/")).unwrap();
            let overview = memory.overview();
            assert_eq!(overview.latest(), None);
            let spec = SupervisorSpec::new("headroom").child(memory.child());
            system.start(spec).await.stop().await;
            let seen = overview.latest().unwrap();
            let status = overview.status(1).unwrap();
            assert_eq!(status.used_bytes, seen.used_bytes);
            assert_eq!(status.report.budget.bytes, seen.budget_bytes);
            assert_eq!(
                (seen.budget_bytes, seen.used_bytes, seen.free_bytes),
                (1000 * KIB, 400 * KIB, 600 * KIB)
            );
            // From the high level, 80 %, to the critical one, 85 %.
            assert_eq!(seen.headroom_bytes, 50 * KIB);
            assert_eq!(seen.level, Level::Normal);
            let anonymous = seen
                .kinds
                .iter()
                .map(|kind| (&*kind.kind, kind.anonymous_bytes));
            assert_eq!(
                anonymous.collect::<Vec<_>>(),
                [("hr", 300 * KIB), ("server", 100 * KIB)]
            );
            assert_eq!(seen.counts, Counts::default());
        });
    }
}
