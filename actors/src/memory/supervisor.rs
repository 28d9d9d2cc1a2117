//! The actor that reads memory, grants reservations and publishes the level. It is called the memory
//! supervisor because it watches memory; it has no children, unlike the supervisors of the kernel.
//!
//! One actor does all three, since they depend on each other: a reading can change the level, a reservation
//! can need a reading, and at most one reading is under way. The ledger and the history are outside of
//! the actor ([`Shared`]): they survive its restart, and a reservation is given back without it.
//!
//! `docs/memory-pressure.md` draws how the parts work together.

mod calls;
mod clean_up;
mod collecting;
mod level;
mod reading;
mod rounds;
mod stalls;

use std::sync::Arc;

use actix::SpawnHandle;
use tokio::time::Instant;

pub use self::calls::{ReadMemory, Reconfigure};
pub use self::collecting::Collect;
pub use self::rounds::{Interruption, RoundReport};

use self::calls::PendingCall;
use self::clean_up::CleanUp;
use self::collecting::CollectCall;
use self::rounds::Round;
use super::probe::{SourceStatus, System};
use super::sampler::Sampler;
use super::shared::Shared;

/// Keeps the memory budget. See the module.
pub struct MemorySupervisor {
    shared: Arc<Shared>,
    system: System,
    /// `None` while a reading is under way.
    sampler: Option<Sampler>,
    /// Whether the last reading failed. A lasting failure is logged once.
    is_failing: bool,
    /// Calls that wait for a reading, and when each arrived.
    pending: Vec<(Instant, PendingCall)>,
    /// The timer of the next reading.
    timer: Option<SpawnHandle>,
    /// The open round.
    round: Option<Round>,
    rounds_begun: u64,
    clean_up: Option<CleanUp>,
    /// Calls that the next collection answers.
    collect_calls: Vec<CollectCall>,
    /// When the last collection began.
    collected_at: Instant,
    /// When the last collection for a stall began.
    collected_on_stall_at: Option<Instant>,
    stall_trigger: Option<SourceStatus>,
    /// When tasks of the server's control group last stalled.
    stalled_at: Option<Instant>,
}

impl MemorySupervisor {
    pub(super) fn new(shared: Arc<Shared>, system: System) -> Self {
        Self {
            sampler: None,
            shared,
            system,
            is_failing: false,
            pending: Vec::new(),
            timer: None,
            round: None,
            rounds_begun: 0,
            clean_up: None,
            collect_calls: Vec::new(),
            collected_at: Instant::now(),
            collected_on_stall_at: None,
            stall_trigger: None,
            stalled_at: None,
        }
    }
}
