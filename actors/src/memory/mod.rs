//! The memory module: the budget, its reservations, and the level.
//!
//! Why it exists: the resources that Headroom loads must never together use more memory than the
//! server was given. Only one owner of all reservations can guarantee that.
//!
//! What it owns: the budget (from the settings, the control groups or the machine), the readings of
//! the whole process tree, the ledger of reservations, the level with the plan of clean-ups, and the
//! history of events. It evicts nothing itself: pressure subscribers give memory back.
//!
//! What it guarantees:
//! - **No load without a reservation**: a request is granted only if usage and all reservations leave
//!   enough free bytes (`ledger.rs`).
//! - **No refusal from an old reading**: before a refusal, memory is read again.
//! - **A dropped reservation is free at once**, without a message, also during a restart of the actor.
//! - **Usage wins over estimates**: an entry counts with the larger of its reservation and the usage of
//!   its processes, and usage that belongs to no entry counts as well. A process at rest is measured
//!   every half minute, a process that grows or shrinks at each reading.
//! - **Readings never block an actor's thread**. Unless a call asks for them, they take at most a tenth
//!   of one core.
//! - **The level rises at once and falls late** (`levels.rs`).
//! - **What costs users least is given back first**: a clean-up asks in rounds (`plan.rs`), reads
//!   memory after each, and stops when enough came back. Promised and gained bytes are both recorded.
//! - **Memory is read without a free descriptor**, by descriptors that are kept for readings. The age
//!   of the figures is known without the actor ([`Freshness`]).
//! - **A failing or misleading source is named and causes no crash** ([`SourceStatus`]).
//!
//! `docs/memory-pressure.md` follows one pressure event through the files.
//!
//! What the processes' shares do not contain: memory that no process maps and that is not in an
//! anonymous file of this process (page cache, the kernel's structures), and swapped pages. The usage
//! of a control group contains the first.

mod alerts;
mod allocator;
mod api;
mod budget;
mod config;
mod history;
mod ledger;
mod levels;
mod metrics;
mod overview;
mod plan;
mod probe;
mod protection;
mod reservations;
mod sampler;
mod shared;
mod sources;
mod status;
mod supervisor;
#[cfg(test)]
mod tests;
mod timeline;

/// The server's allocator, so that tests can read its statistics.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub use alerts::{AlertConfig, AlertError, AlertSender, check_webhook_url};
pub use allocator::AllocatorStats;
pub use api::Memory;
pub use budget::{BudgetCandidate, BudgetReading, BudgetSource, NoBudget};
pub use config::{Levels, MemoryConfig, MemoryConfigError};
pub use history::{ActionRecord, CollectionReason, Counts, Event, EventKind};
pub use ledger::{Account, EntryStatus};
pub use levels::most_below;
pub use metrics::METRICS;
pub use overview::{BudgetOverview, LevelBound, MemoryOverview, Overview};
pub use probe::{
    GroupUsage, Health, KernelKills, ProcessUsage, Scope, Source, SourceStatus, StallReading,
    TreeUsage,
};
pub use protection::Protection;
pub use reservations::{BufferAccount, Freshness, MemoryBudget};
pub use sampler::SourceReport;
pub use status::{KindUsage, MemoryStatus};
pub use supervisor::{
    Collect, Interruption, MemorySupervisor, ReadMemory, Reconfigure, RoundReport,
};
pub use timeline::{Timeline, TimelineSlot};
