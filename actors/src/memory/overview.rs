//! The figures of the budget, and the main ones in one short answer, from the state that outlives the actor. So they
//! are there while the actor hangs or restarts, with the age of the reading that they come from.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::history::{Counts, Event};
use super::ledger::{Account, EntryStatus, Ledger};
use super::probe::KernelKills;
use super::shared::Shared;
use super::status::{KindUsage, MemoryStatus};
use super::timeline::Timeline;
use crate::kernel::Changes;
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

/// The usage from which on a level begins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct LevelBound {
    /// The level.
    pub level: Level,
    /// The share of the budget at which it begins, 0 to 1.
    pub from_ratio: f64,
    /// The usage at which it begins.
    pub from_bytes: u64,
}

/// The main figures of the budget, and who holds it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct BudgetOverview {
    /// The main figures.
    #[serde(flatten)]
    pub figures: MemoryOverview,
    /// Bytes that are reserved and not used yet: the difference of `projected_bytes` and `used_bytes`.
    pub promised_bytes: u64,
    /// The usage that belongs to no entry: that of the server itself, and the rest. With the measured
    /// bytes of all entries it makes `used_bytes`.
    pub baseline_bytes: u64,
    /// Where each level above normal begins, the lowest first.
    pub levels: Vec<LevelBound>,
    /// All reservations, oldest first: who holds the budget by resource.
    pub entries: Vec<EntryStatus>,
    /// The accounts of buffers.
    pub buffers: Vec<Account>,
}

impl Overview {
    /// The whole status with the latest `events`, by the last reading; `None` before the first one.
    pub fn status(&self, events: usize) -> Option<MemoryStatus> {
        self.shared.status(events)
    }

    /// The main figures of the last reading; `None` before the first one.
    pub fn latest(&self) -> Option<MemoryOverview> {
        self.with_ledger(|figures, _| figures)
    }

    /// The figures of the last reading with all reservations; `None` before the first one.
    pub fn budget(&self) -> Option<BudgetOverview> {
        let levels = self.shared.config().levels;
        self.with_ledger(|figures, ledger| BudgetOverview {
            promised_bytes: figures.projected_bytes.saturating_sub(figures.used_bytes),
            figures,
            baseline_bytes: ledger.baseline,
            levels: levels
                .thresholds()
                .map(|(level, from_ratio)| LevelBound {
                    level,
                    from_ratio,
                    // The ceiling is the most that is below the level.
                    from_bytes: ledger.ceiling(from_ratio).saturating_add(1),
                })
                .into(),
            entries: ledger.entries(),
            buffers: ledger.accounts(),
        })
    }

    /// The usage of the last 15 minutes.
    pub fn timeline(&self) -> Timeline {
        self.shared.timeline().timeline()
    }

    /// The latest `count` events, oldest first.
    pub fn events(&self, count: usize) -> Vec<Arc<Event>> {
        let history = self.shared.history();
        history.latest_shared(count).cloned().collect()
    }

    /// Tells about each event.
    pub fn changes(&self) -> Changes {
        self.shared.history().changes.clone()
    }

    fn with_ledger<T>(&self, make: impl FnOnce(MemoryOverview, &Ledger) -> T) -> Option<T> {
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
        let figures = MemoryOverview {
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
        };
        Some(make(figures, &ledger))
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

            let budget = overview.budget().unwrap();
            assert_eq!(budget.figures.used_bytes, seen.used_bytes);
            assert_eq!(
                (budget.promised_bytes, budget.baseline_bytes),
                (0, 400 * KIB)
            );
            let bounds = budget
                .levels
                .iter()
                .map(|bound| (bound.level, bound.from_bytes));
            let high = bounds.clone().nth(1);
            assert_eq!(high, Some((Level::High, 800 * KIB)));
            assert_eq!(bounds.count(), 4);
            let slots = overview.timeline().slots;
            assert_eq!(
                (slots[0].used_bytes, slots[0].budget_bytes),
                (400 * KIB, 1000 * KIB)
            );
        });
    }
}
