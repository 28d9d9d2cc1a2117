//! The memory room: what may be used, what is used, and who was promised what.
//!
//! Why it exists: the heavy things that Headroom loads must never together outgrow the memory that
//! the server was given, and nobody but one keeper of the accounts can promise that.
//!
//! What it owns: the budget (read from the settings, the cgroups or the machine), the reading of
//! what the whole process tree uses, the ledger of reservations, and the one writer of the
//! pressure level, with the plan of what is asked back at each, and the story of what happened. It
//! evicts nothing: who holds something reacts to the level.
//!
//! What it guarantees:
//! - **No reservation, no load; no room, no reservation**: a claim is granted only when what is
//!   used and what is promised already leaves room for it ([`Ledger`]).
//! - **A refusal is never stale**: before a claim is refused, memory is read again, so that what
//!   was given back a moment ago counts.
//! - **A dropped reservation is free at once**, without a message, also while the actor restarts.
//! - **Reality wins**: an entry counts with what its processes really use where that is more than
//!   what it reserved, and what belongs to no entry counts as well. A process at rest is measured
//!   every half a minute, one that grows or shrinks each time.
//! - **Reading never blocks an actor's thread**; unasked, it takes at most a tenth of one core, however
//!   often the kernel tells of stalls.
//! - **The level rises at once and falls late** ([`next_level`]).
//! - **Users lose what costs them least**: a clean-up asks in rounds (`plan`), reads memory after
//!   each, and stops when enough came back. What was promised and what came are both told.
//! - **Memory is read without a free descriptor**: a reading uses descriptors that are kept for it.
//!   Whether readings are stale can be asked without the actor ([`Freshness`]).
//! - **A source that fails or lies is named and never crashes anything** ([`SourceStatus`]).
//!
//! What it does not see by the processes' shares: memory that none of them has mapped and that is
//! not in one of our own anonymous files (page cache, the kernel's own structures), and pages that
//! were swapped out. Where there is a control group, its count shows such memory, too.

mod alerts;
mod allocator;
mod budget;
mod config;
mod entry;
mod freshness;
mod history;
mod ledger;
mod levels;
mod metrics;
mod plan;
mod probe;
mod protection;
mod room;
mod sampler;
mod sources;
mod status;
mod supervisor;
#[cfg(test)]
mod tests;

/// The server's allocator, so that its statistics can be tested.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub use alerts::{AlertConfig, AlertError, AlertSender, check_webhook_url};
pub use allocator::AllocatorStats;
pub use budget::{BudgetReading, BudgetSource, Considered, NoBudget};
pub use config::{Levels, MemoryConfig, MemoryConfigError};
pub use entry::{BufferAccount, MemoryBudget};
pub use freshness::Freshness;
pub use history::{ActionRecord, Event, EventKind, GcReason};
pub use ledger::{BufferStatus, EntryId, EntryStatus, Ledger, Short};
pub use levels::{most_below, next_level, wanted_bytes};
pub use probe::{
    GroupUsage, Health, KernelKills, ProcessUsage, Scope, Source, SourceStatus, StallReading,
    TreeUsage,
};
pub use protection::Protection;
pub use room::Memory;
pub use status::{KindUsage, MemoryStatus};
pub use supervisor::{CollectGarbage, GcReport, MemorySupervisor, Reconfigure, Reserve, Sample};
