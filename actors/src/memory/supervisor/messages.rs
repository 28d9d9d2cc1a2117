//! The calls that the supervisor answers.

use serde::Serialize;
use tokio::time::Instant;

use super::super::config::{MemoryConfig, MemoryConfigError};
use super::super::history::ActionRecord;
use super::super::status::MemoryStatus;
use crate::kernel::{BudgetError, Message, Reply, Reservation, ReservationRequest};

/// Reserves memory. A grant can follow from a recent reading. A refusal follows only from a reading
/// that began after the call arrived.
#[derive(Debug)]
pub struct Reserve {
    /// What is needed.
    pub request: ReservationRequest,
}

impl Message for Reserve {
    type Reply = Result<Reservation, BudgetError>;
    // A grant that no caller takes is dropped, which gives it back.
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        matches!(reply, Err(BudgetError::Unavailable))
    }
}

/// Asks for the status. It is at most 50 ms old, or older if memory cannot be read; `None` before the
/// first reading.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// How many of the latest events to include.
    pub events: usize,
}

impl Message for Sample {
    type Reply = Option<MemoryStatus>;
    const CANCELLABLE: bool = true;
}

/// Replaces the settings, from the next reading on.
#[derive(Debug, Clone, Copy)]
pub struct Reconfigure {
    /// All settings.
    pub config: MemoryConfig,
}

impl Message for Reconfigure {
    type Reply = Result<(), MemoryConfigError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Purges all allocators now: the server's, and those of all hosts.
#[derive(Debug, Clone, Copy)]
pub struct CollectSlack;

impl Message for CollectSlack {
    type Reply = RoundReport;
}

/// The result of a collection. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoundReport {
    /// Usage of the whole process tree before.
    pub used_before_bytes: u64,
    /// Usage of the whole process tree afterwards.
    pub used_after_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// What each actor gave back.
    pub actors: Vec<ActionRecord>,
    /// The actors that did not acknowledge in time.
    pub silent: Vec<String>,
}

/// A call that waits for a reading.
pub(super) struct PendingCall {
    pub(super) arrived: Instant,
    pub(super) request: PendingRequest,
}

pub(super) enum PendingRequest {
    Reserve(ReservationRequest, Reply<Reserve>),
    Sample(Sample, Reply<Sample>),
}
