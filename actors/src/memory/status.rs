//! What the room shows of itself.

use std::collections::BTreeMap;

use serde::Serialize;

use super::allocator::AllocatorStats;
use super::budget::BudgetReading;
use super::history::Event;
use super::ledger::{BufferStatus, EntryStatus};
use super::probe::{GroupUsage, KernelKills, SourceStatus, StallReading, TreeUsage};
use crate::kernel::pressure::Level;

/// The state of the memory budget at one moment. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryStatus {
    /// The budget, and who set it.
    pub budget: BudgetReading,
    /// What the whole process tree uses.
    pub used_bytes: u64,
    /// What the server itself uses, and everything else that is attached to no entry.
    pub baseline_bytes: u64,
    /// What all entries have reserved.
    pub reserved_bytes: u64,
    /// What will be used once every promise is called in.
    pub projected_bytes: u64,
    /// What nobody uses or was promised.
    pub free_bytes: u64,
    /// How short memory is.
    pub level: Level,
    /// For how long.
    pub level_for_seconds: f64,
    /// What is used, by kind of process.
    pub kinds: Vec<KindUsage>,
    /// What is in anonymous files that no process maps; part of `used_bytes`.
    pub shared_file_bytes: u64,
    /// What the kernel counts for the control group, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupUsage>,
    /// Time lost waiting for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalls: Option<StallReading>,
    /// What the server's own allocator holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocator: Option<AllocatorStats>,
    /// Processes that the kernel has killed for want of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_kills: Option<KernelKills>,
    /// Every source of these figures: whether it is used, whether it is to be believed, and why.
    pub sources: Vec<SourceStatus>,
    /// The age of these numbers.
    pub read_seconds_ago: f64,
    /// How long it took to read them.
    pub reading_seconds: f64,
    /// Everything that has a reservation.
    pub entries: Vec<EntryStatus>,
    /// What is set aside for buffers.
    pub buffers: Vec<BufferStatus>,
    /// The latest events, oldest first.
    pub events: Vec<Event>,
}

/// What all processes of one kind use together. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KindUsage {
    /// `server` for this process; for the others the name, up to a colon.
    pub kind: String,
    /// How many there are.
    pub processes: u64,
    /// Their proportional shares.
    pub pss_bytes: u64,
    /// All pages that they map; shared ones are counted once for each.
    pub rss_bytes: u64,
    /// What only they have written.
    pub private_dirty_bytes: u64,
    /// How many of them could only be estimated.
    pub estimated: u64,
}

impl KindUsage {
    /// Sums up a tree, largest kind first.
    pub(super) fn of(usage: &TreeUsage) -> Vec<Self> {
        let mut kinds: BTreeMap<&str, Self> = BTreeMap::new();
        for (pid, process) in &usage.processes {
            let name = process.name.split(':').next().unwrap_or_default();
            let kind = if *pid == usage.own { "server" } else { name };
            let sum = kinds.entry(kind).or_insert_with(|| Self {
                kind: kind.to_owned(),
                processes: 0,
                pss_bytes: 0,
                rss_bytes: 0,
                private_dirty_bytes: 0,
                estimated: 0,
            });
            sum.processes += 1;
            sum.pss_bytes = sum.pss_bytes.saturating_add(process.pss);
            sum.rss_bytes = sum.rss_bytes.saturating_add(process.rss);
            sum.private_dirty_bytes = sum
                .private_dirty_bytes
                .saturating_add(process.private_dirty);
            sum.estimated += u64::from(process.estimated);
        }
        let mut kinds: Vec<_> = kinds.into_values().collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.pss_bytes));
        kinds
    }
}
