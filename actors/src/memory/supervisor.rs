//! The actor that keeps the accounts: it reads memory, grants claims and publishes the level.
//!
//! An actor because all three follow from one another: every reading may change the level, every
//! claim may need a reading, and at most one reading is under way. The accounts themselves stand
//! outside ([`Shared`]): they survive a restart of the actor, and a reservation is given back
//! without it.

mod cleaning;
mod collecting;
mod epoch;
mod reading;
mod stalling;

use std::sync::Arc;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, Context, Handler, ResponseActFuture, SpawnHandle};
use serde_json::Value;
use tokio::time::Instant;

use self::cleaning::CleanUp;
use self::collecting::Collector;
pub use self::collecting::{CollectGarbage, GcReport};
use self::epoch::OpenEpoch;
pub(super) use self::reading::Last;
use self::reading::{Mark, read};
use self::stalling::Stalling;
use super::config::{MemoryConfig, MemoryConfigError};
use super::metrics;
use super::probe::System;
use super::room::Shared;
use super::sampler::Sampler;
use super::status::{KindUsage, MemoryStatus};
use crate::kernel::{
    BudgetError, Call, Child, Exit, Message, Reply, Reservation, ReservationRequest,
};

/// Events that the state for operators shows.
const EVENTS_OBSERVED: usize = 10;

/// Keeps the memory budget. See the module.
pub struct MemorySupervisor {
    shared: Arc<Shared>,
    system: System,
    /// What readings need; away while one is under way.
    sampler: Option<Sampler>,
    last: Option<Last>,
    waiting: Vec<Waiting>,
    timer: Option<SpawnHandle>,
    /// When the last reading ended.
    read_at: Option<Instant>,
    /// The epoch of the pressure that waits for answers.
    epoch: Option<OpenEpoch>,
    clean_up: Option<CleanUp>,
    collector: Collector,
    stalls: Stalling,
    /// What the last reading found in use.
    used_last: Option<u64>,
    /// Whether the last reading failed, so that a lasting failure is logged once.
    failing: bool,
}

/// A call that waits for a reading.
struct Waiting {
    arrived: Instant,
    request: PendingRequest,
}

enum PendingRequest {
    Reserve(ReservationRequest, Reply<Reserve>),
    Sample(Sample, Reply<Sample>),
}

impl MemorySupervisor {
    pub(super) fn new(shared: Arc<Shared>, system: System) -> Self {
        Self {
            sampler: Some(Sampler::new(&system, Arc::clone(&shared.allocator))),
            shared,
            system,
            last: None,
            waiting: Vec::new(),
            timer: None,
            read_at: None,
            epoch: None,
            clean_up: None,
            collector: Collector::default(),
            stalls: Stalling::default(),
            used_last: None,
            failing: false,
        }
    }
}

impl Actor for MemorySupervisor {
    type Context = Context<Self>;
}

impl Child for MemorySupervisor {
    fn start(&mut self, _context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let mark = self.mark();
        let config = self.shared.config();
        let sampler = self.sampler.take();
        let sampler = sampler.unwrap_or_else(|| self.fresh_sampler());
        let read = wrap_future::<_, Self>(read(sampler, config));
        Box::pin(read.map(move |outcome, actor, context| {
            let ended = actor.take_back(mark, outcome, context);
            actor.schedule(context);
            actor.listen_to_kernel(context);
            actor.listen_to_rooms(context);
            ended.map_err(Exit::error)
        }))
    }

    fn observe(&self) -> Value {
        let status = self.status(EVENTS_OBSERVED);
        status.map_or(Value::Null, |status| {
            serde_json::to_value(status).unwrap_or(Value::Null)
        })
    }
}

/// Reserves memory. Answered at once when a fresh reading leaves room; refused only after a reading
/// that began after the claim arrived.
#[derive(Debug)]
pub struct Reserve {
    /// What for, and how much.
    pub claim: ReservationRequest,
}

impl Message for Reserve {
    type Reply = Result<Reservation, BudgetError>;
    // A grant that nobody takes is dropped, and thereby given back.
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        matches!(reply, Err(BudgetError::Unavailable))
    }
}

impl Handler<Call<Reserve>> for MemorySupervisor {
    type Result = ();

    fn handle(&mut self, call: Call<Reserve>, context: &mut Context<Self>) {
        let Some((Reserve { claim }, reply)) = call.accept() else {
            return;
        };
        if self.is_fresh()
            && let Ok(reservation) = self.shared.reserve(&claim)
        {
            reply.send(Ok(reservation));
            // A load is under way now.
            self.schedule(context);
            return;
        }
        self.wait_for_reading(PendingRequest::Reserve(claim, reply), context);
    }
}

/// Asks for the state, no older than 50 ms. Older only when memory cannot be read; `None` when it
/// never could.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// How many of the latest events to tell.
    pub events: usize,
}

impl Message for Sample {
    type Reply = Option<MemoryStatus>;
    const CANCELLABLE: bool = true;
}

impl Handler<Call<Sample>> for MemorySupervisor {
    type Result = ();

    fn handle(&mut self, call: Call<Sample>, context: &mut Context<Self>) {
        let Some((sample, reply)) = call.accept() else {
            return;
        };
        if self.is_fresh() {
            reply.send(self.status(sample.events));
        } else {
            self.wait_for_reading(PendingRequest::Sample(sample, reply), context);
        }
    }
}

/// Takes over changed settings, from the next reading on.
#[derive(Debug, Clone, Copy)]
pub struct Reconfigure {
    /// All settings, changed or not.
    pub config: MemoryConfig,
}

impl Message for Reconfigure {
    type Reply = Result<(), MemoryConfigError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
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

/// Answering who waits for a reading.
impl MemorySupervisor {
    fn fresh_sampler(&self) -> Sampler {
        Sampler::new(&self.system, Arc::clone(&self.shared.allocator))
    }

    /// Answers what a reading that began at `mark` can answer.
    fn answer(&mut self, mark: Mark, known: bool) {
        for waiting in std::mem::take(&mut self.waiting) {
            let began_after = waiting.arrived <= mark.began;
            match waiting.request {
                PendingRequest::Sample(sample, reply) if began_after => {
                    reply.send(self.status(sample.events));
                }
                PendingRequest::Reserve(_, reply) if began_after && !known => {
                    reply.send(Err(BudgetError::Unavailable));
                }
                PendingRequest::Reserve(claim, reply) if known => match self.shared.reserve(&claim)
                {
                    Err(refusal) if began_after => {
                        metrics::refusal();
                        reply.send(Err(refusal));
                    }
                    Err(_) => self.waiting.push(Waiting {
                        arrived: waiting.arrived,
                        request: PendingRequest::Reserve(claim, reply),
                    }),
                    granted => reply.send(granted),
                },
                request => self.waiting.push(Waiting { request, ..waiting }),
            }
        }
    }
}

/// Showing the state.
impl MemorySupervisor {
    fn status(&self, events: usize) -> Option<MemoryStatus> {
        let last = self.last.as_ref()?;
        let ledger = self.shared.ledger.lock();
        let history = self.shared.history();
        let usage = ledger.usage();
        Some(MemoryStatus {
            budget: last.budget.clone(),
            used_bytes: ledger.used(),
            baseline_bytes: ledger.baseline(),
            reserved_bytes: ledger.reserved_total(),
            projected_bytes: ledger.projected(),
            free_bytes: ledger.free(),
            level: history.level(),
            level_for_seconds: history.held().as_secs_f64(),
            kinds: KindUsage::of(usage),
            shared_file_bytes: usage.shared_files,
            group: last.group.clone(),
            stalls: last.stalls.clone(),
            allocator: last.allocator,
            kernel_kills: last.kernel_kills,
            sources: last.sources.clone(),
            read_seconds_ago: last.mark.began.elapsed().as_secs_f64(),
            reading_seconds: last.took.as_secs_f64(),
            entries: ledger.entries(),
            buffers: ledger.buffers(),
            events: history.latest(events),
        })
    }
}
