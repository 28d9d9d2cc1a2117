//! The status of the memory budget, as operators see it.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::history::Event;
use super::ledger::{Account, EntryStatus};
use super::probe::TreeUsage;
use super::sampler::SourceReport;
use crate::kernel::Timestamp;
use crate::kernel::pressure::Level;

/// The status of the memory budget at one moment. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct MemoryStatus {
    /// What the sources of the last reading reported.
    #[serde(flatten)]
    pub report: SourceReport,
    /// The usage of the whole process tree.
    pub used_bytes: u64,
    /// The usage that belongs to no entry: that of the server itself, and the rest.
    pub baseline_bytes: u64,
    /// Bytes that all entries have reserved.
    pub reserved_bytes: u64,
    /// The usage when every reservation is used in full.
    pub projected_bytes: u64,
    /// Bytes that are neither used nor reserved.
    pub free_bytes: u64,
    /// How short memory is.
    pub level: Level,
    /// How long the level has lasted.
    pub level_for_seconds: f64,
    /// The usage by kind of process.
    pub kinds: Vec<KindUsage>,
    /// Bytes in anonymous files that no process maps. They are part of `used_bytes`.
    pub shared_file_bytes: u64,
    /// When the reading began that these figures come from.
    pub read_at: Timestamp,
    /// The age of that reading.
    pub read_seconds_ago: f64,
    /// All reservations.
    pub entries: Vec<EntryStatus>,
    /// The accounts of buffers.
    pub buffers: Vec<Account>,
    /// The latest events, oldest first.
    pub events: Vec<Event>,
}

/// The usage of all processes of one kind. All sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct KindUsage {
    /// `server` for this process, else the name up to the first colon.
    pub kind: String,
    /// How many there are.
    pub processes: u64,
    /// The sum of their proportional shares.
    pub pss_bytes: u64,
    /// The sum of their resident pages. A shared page counts for each process.
    pub rss_bytes: u64,
    /// The sum of the pages that only one process has written.
    pub private_dirty_bytes: u64,
    /// The sum of the pages that no file backs.
    pub anonymous_bytes: u64,
    /// How many of them are estimated and not measured.
    pub estimated: u64,
}

impl KindUsage {
    /// Sums up the processes of a tree, the kind with the largest share first.
    pub(super) fn of(usage: &TreeUsage) -> Vec<Self> {
        let mut kinds: BTreeMap<&str, Self> = BTreeMap::new();
        for (pid, process) in &usage.processes {
            let name = process.name.split(':').next().unwrap_or_default();
            let kind = if *pid == usage.own { "server" } else { name };
            let sum = kinds.entry(kind).or_insert_with(|| Self {
                kind: kind.to_owned(),
                ..Self::default()
            });
            sum.processes += 1;
            sum.pss_bytes = sum.pss_bytes.saturating_add(process.pss);
            sum.rss_bytes = sum.rss_bytes.saturating_add(process.rss);
            sum.private_dirty_bytes = sum
                .private_dirty_bytes
                .saturating_add(process.private_dirty);
            sum.anonymous_bytes = sum.anonymous_bytes.saturating_add(process.anonymous);
            sum.estimated += u64::from(process.estimated);
        }
        let mut kinds: Vec<_> = kinds.into_values().collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.pss_bytes));
        kinds
    }
}

/// The word that JSON has for a value without fields, for metrics and logs.
pub(super) fn label(value: impl Serialize) -> String {
    std::fmt::from_fn(|f| value.serialize(f)).to_string()
}
