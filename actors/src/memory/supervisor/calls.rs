//! The calls that the supervisor answers, except those for a collection.

use actix::{Context, Handler};
use tokio::time::Instant;

use super::super::config::{MemoryConfig, MemoryConfigError};
use super::super::metrics;
use super::super::reservations::reserve;
use super::super::status::MemoryStatus;
use super::MemorySupervisor;
use crate::kernel::{BudgetError, Call, Message, Reply, Reservation, ReservationRequest};

/// A grant can follow from a recent reading. A refusal follows only from a reading that began after the
/// call arrived.
impl Message for ReservationRequest {
    type Reply = Result<Reservation, BudgetError>;
    // A grant that no caller takes is dropped, which gives it back.
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        matches!(reply, Err(BudgetError::Unavailable))
    }
}

/// Reads memory, unless the last reading is at most 50 ms old, and asks for the status. It is older if
/// memory cannot be read; `None` before the first reading.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadMemory {
    /// How many of the latest events to include.
    pub events: usize,
}

impl Message for ReadMemory {
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

/// A call that waits for a reading.
pub(super) enum PendingCall {
    Reserve(ReservationRequest, Reply<ReservationRequest>),
    /// The number of events, and the reply.
    ReadMemory(usize, Reply<ReadMemory>),
}

impl Handler<Call<ReservationRequest>> for MemorySupervisor {
    type Result = ();

    fn handle(&mut self, call: Call<ReservationRequest>, context: &mut Context<Self>) {
        let Some((request, reply)) = call.accept() else {
            return;
        };
        if self.is_fresh()
            && let Ok(reservation) = reserve(&self.shared, &request)
        {
            reply.send(Ok(reservation));
            // During a load, memory is read more often.
            self.schedule_reading(context);
            return;
        }
        self.wait_for_reading(PendingCall::Reserve(request, reply), context);
    }
}

impl Handler<Call<ReadMemory>> for MemorySupervisor {
    type Result = ();

    fn handle(&mut self, call: Call<ReadMemory>, context: &mut Context<Self>) {
        let Some((ReadMemory { events }, reply)) = call.accept() else {
            return;
        };
        if self.is_fresh() {
            reply.send(self.shared.status(events));
        } else {
            self.wait_for_reading(PendingCall::ReadMemory(events, reply), context);
        }
    }
}

impl Handler<Call<Reconfigure>> for MemorySupervisor {
    type Result = ();

    fn handle(&mut self, call: Call<Reconfigure>, context: &mut Context<Self>) {
        let Some((Reconfigure { config }, reply)) = call.accept() else {
            return;
        };
        let valid = config.validate();
        if valid.is_ok() {
            self.shared.set_config(config);
            self.begin_reading(context);
        }
        reply.send(valid);
    }
}

impl MemorySupervisor {
    fn wait_for_reading(&mut self, call: PendingCall, context: &mut Context<Self>) {
        self.pending.push((Instant::now(), call));
        self.begin_reading(context);
    }

    /// Answers the calls that a reading can answer. It began at `began`; `is_known` says whether it
    /// succeeded. A call that arrived later and cannot be granted waits for the next reading.
    pub(super) fn answer_pending(&mut self, began: Instant, is_known: bool) {
        for (arrived, call) in std::mem::take(&mut self.pending) {
            let must_answer = arrived <= began;
            match call {
                PendingCall::ReadMemory(events, reply) if must_answer => {
                    reply.send(self.shared.status(events));
                }
                PendingCall::Reserve(request, reply) => {
                    let answer = match is_known {
                        true => reserve(&self.shared, &request),
                        false => Err(BudgetError::Unavailable),
                    };
                    if answer.is_err() && !must_answer {
                        let call = PendingCall::Reserve(request, reply);
                        self.pending.push((arrived, call));
                        continue;
                    }
                    if is_known && answer.is_err() {
                        metrics::refusal(request.kind);
                    }
                    reply.send(answer);
                }
                call @ PendingCall::ReadMemory(..) => self.pending.push((arrived, call)),
            }
        }
    }
}
