//! The actor that keeps the accounts: it reads memory, grants claims and publishes the level.
//!
//! An actor because all three follow from one another: every reading may change the level, every
//! claim may need a reading, and at most one reading is under way. The accounts themselves stand
//! outside ([`Shared`]): they survive a restart of the actor, and a reservation is given back
//! without it.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture, SpawnHandle};
use serde_json::Value;
use tokio::time::Instant;

use super::budget::BudgetReading;
use super::config::{MemoryConfig, MemoryConfigError};
use super::levels::{next_level, used_share, wanted_bytes};
use super::metrics;
use super::probe::System;
use super::room::Shared;
use super::sampler::{Reading, SampleError, Sampler};
use super::status::{KindUsage, MemoryStatus};
use crate::kernel::pressure::{Acknowledgement, Level};
use crate::kernel::{BudgetError, Call, Child, Claim, Exit, Message, Reply, Reservation, chain};

/// A reading is good for a grant this long. (Never for a refusal.)
const FRESH: Duration = Duration::from_millis(50);

/// The pause after a reading is at least this many times as long as the reading took.
const PAUSE_PER_READING: u32 = 9;

/// How long subscribers may take to answer before they count as silent.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(2);

/// A high level that lasts is published again after this time: what was in use then may be idle
/// now.
const REPUBLISH_AFTER: Duration = Duration::from_secs(1);

/// A share of the budget (one part in so many) by which what is wanted must change to be published
/// again at once.
const MATERIAL_PART: u64 = 100;

/// Changes of the level that the state for operators shows.
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
    published: Option<Published>,
    /// Whether the last reading failed, so that a lasting failure is logged once.
    failing: bool,
}

/// The last reading, apart from what the ledger took over.
struct Last {
    began: Instant,
    /// [`Ledger::given_back`](super::Ledger::given_back) when it began.
    given_back: u64,
    took: Duration,
    budget: BudgetReading,
    working_set: Option<u64>,
}

/// A call that waits for a reading.
struct Waiting {
    arrived: Instant,
    wish: Wish,
}

enum Wish {
    Reserve(Claim, Reply<Reserve>),
    Sample(Sample, Reply<Sample>),
}

/// The last publication of the level.
struct Published {
    epoch: u64,
    at: Instant,
    wanted: u64,
    /// Answers are still waited for.
    open: bool,
}

/// What comes back from the thread that read.
type Outcome = (Sampler, Result<Reading, SampleError>);

/// When a reading began.
#[derive(Clone, Copy)]
struct Mark {
    began: Instant,
    given_back: u64,
}

impl MemorySupervisor {
    pub(super) fn new(shared: Arc<Shared>, system: System) -> Self {
        Self {
            sampler: Some(Sampler::new(&system)),
            shared,
            system,
            last: None,
            waiting: Vec::new(),
            timer: None,
            published: None,
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
        let sampler = sampler.unwrap_or_else(|| Sampler::new(&self.system));
        let read = wrap_future::<_, Self>(read(sampler, config));
        Box::pin(read.map(move |outcome, actor, context| {
            let ended = actor.take_back(mark, outcome, context);
            actor.schedule(context);
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
    pub claim: Claim,
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
            && let Ok(reservation) = self.grant(&claim)
        {
            reply.send(Ok(reservation));
            // A load is under way now.
            self.schedule(context);
            return;
        }
        self.wait_for_reading(Wish::Reserve(claim, reply), context);
    }
}

/// Asks for the state, no older than 50 ms. Older only when memory cannot be read; `None` when it
/// never could.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// How many of the latest changes of the level to tell.
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
            self.wait_for_reading(Wish::Sample(sample, reply), context);
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

/// Reading memory.
impl MemorySupervisor {
    fn mark(&self) -> Mark {
        Mark {
            began: Instant::now(),
            given_back: self.shared.ledger.lock().given_back(),
        }
    }

    /// Whether the last reading still tells how much may be granted.
    fn is_fresh(&self) -> bool {
        self.last.as_ref().is_some_and(|last| {
            last.began.elapsed() <= FRESH
                && last.given_back == self.shared.ledger.lock().given_back()
        })
    }

    fn wait_for_reading(&mut self, wish: Wish, context: &mut Context<Self>) {
        self.waiting.push(Waiting {
            arrived: Instant::now(),
            wish,
        });
        self.begin_reading(context);
    }

    /// Reads, unless a reading is under way.
    fn begin_reading(&mut self, context: &mut Context<Self>) {
        let Some(sampler) = self.sampler.take() else {
            return;
        };
        if let Some(timer) = self.timer.take() {
            context.cancel_future(timer);
        }
        let mark = self.mark();
        let read = wrap_future::<_, Self>(read(sampler, self.shared.config()));
        context.spawn(read.map(move |outcome, actor, context| {
            // A failure was told to whoever waited, and to the log.
            let known = actor.take_back(mark, outcome, context).is_ok();
            actor.answer(mark, known);
            if actor.waiting.is_empty() {
                actor.schedule(context);
            } else {
                actor.begin_reading(context);
            }
        }));
    }

    /// Reads again after the pause that the situation asks for.
    fn schedule(&mut self, context: &mut Context<Self>) {
        if self.sampler.is_none() {
            // A reading is under way; its end comes back here.
            return;
        }
        if let Some(timer) = self.timer.take() {
            context.cancel_future(timer);
        }
        let timer = context.run_later(self.pause(), |actor, context| {
            actor.timer = None;
            actor.begin_reading(context);
        });
        self.timer = Some(timer);
    }

    fn pause(&self) -> Duration {
        let config = self.shared.config();
        let is_short = self.shared.history().level() > Level::Normal;
        let interval = if is_short || self.shared.ledger.lock().is_loading() {
            config.sample_interval_fast
        } else {
            config.sample_interval
        };
        let took = self.last.as_ref().map_or(Duration::ZERO, |last| last.took);
        interval.max(took.saturating_mul(PAUSE_PER_READING))
    }

    /// Takes over what a reading found.
    fn take_back(
        &mut self,
        mark: Mark,
        outcome: Option<Outcome>,
        context: &mut Context<Self>,
    ) -> Result<(), SampleError> {
        let (sampler, outcome) = match outcome {
            Some((sampler, outcome)) => (sampler, outcome),
            None => (Sampler::new(&self.system), Err(SampleError::Panicked)),
        };
        self.sampler = Some(sampler);
        match outcome {
            Ok(reading) => {
                self.failing = false;
                self.take_over(mark, reading, context);
                Ok(())
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(error = chain(&error), "memory cannot be read");
                }
                Err(error)
            }
        }
    }

    fn take_over(&mut self, mark: Mark, reading: Reading, context: &mut Context<Self>) {
        let before = self.last.as_ref().map(|last| &last.budget);
        if before.is_none_or(|before| before.bytes != reading.budget.bytes) {
            tracing::info!(
                budget_bytes = reading.budget.bytes,
                source = reading.budget.source.label(),
                considered = reading.budget.describe(),
                "memory budget"
            );
        }
        let used = reading.usage.total();
        {
            let mut ledger = self.shared.ledger.lock();
            ledger.set_budget(reading.budget.bytes);
            ledger.measure(reading.usage);
        }
        let took = reading.took;
        self.shared.history().verify(mark.began, used);
        self.set_level(used, reading.budget.bytes, context);
        let level = self.shared.history().level();
        metrics::reading(&self.shared.ledger.lock(), used, level, took);
        self.last = Some(Last {
            began: mark.began,
            given_back: mark.given_back,
            took,
            budget: reading.budget,
            working_set: reading.working_set,
        });
    }
}

/// Granting claims.
impl MemorySupervisor {
    fn grant(&self, claim: &Claim) -> Result<Reservation, BudgetError> {
        {
            // The level may be held by its dwell; what counts here is what is used now.
            let ledger = self.shared.ledger.lock();
            let share = used_share(ledger.usage().total(), ledger.budget());
            if share >= self.shared.config().levels.exhausted {
                return Err(BudgetError::Short {
                    need: claim.bytes,
                    free: 0,
                    budget: ledger.budget(),
                });
            }
        }
        self.shared.ledger.reserve(claim)
    }

    /// Answers what a reading that began at `mark` can answer.
    fn answer(&mut self, mark: Mark, known: bool) {
        for waiting in std::mem::take(&mut self.waiting) {
            let began_after = waiting.arrived <= mark.began;
            match waiting.wish {
                Wish::Sample(sample, reply) if began_after => {
                    reply.send(self.status(sample.events));
                }
                Wish::Reserve(_, reply) if began_after && !known => {
                    reply.send(Err(BudgetError::Unavailable));
                }
                Wish::Reserve(claim, reply) if known => match self.grant(&claim) {
                    Err(refusal) if began_after => {
                        metrics::refusal();
                        reply.send(Err(refusal));
                    }
                    Err(_) => self.waiting.push(Waiting {
                        arrived: waiting.arrived,
                        wish: Wish::Reserve(claim, reply),
                    }),
                    granted => reply.send(granted),
                },
                wish => self.waiting.push(Waiting { wish, ..waiting }),
            }
        }
    }
}

/// Publishing the level.
impl MemorySupervisor {
    fn set_level(&mut self, used: u64, budget: u64, context: &mut Context<Self>) {
        let levels = self.shared.config().levels;
        let (from, to, wanted) = {
            let mut history = self.shared.history();
            let from = history.level();
            let to = next_level(from, used_share(used, budget), history.held(), &levels);
            let wanted = wanted_bytes(to, used, budget, &levels);
            if to != from {
                history.change(to, used, wanted);
            }
            (from, to, wanted)
        };
        if to != from {
            metrics::level_change(to);
            tracing::info!(
                from = from.label(),
                to = to.label(),
                used_bytes = used,
                budget_bytes = budget,
                wanted_bytes = wanted,
                "memory level changed"
            );
            self.publish(to, wanted, context);
        } else if self.is_due_again(to, wanted, budget) {
            self.publish(to, wanted, context);
        }
    }

    /// Whether a level that lasts must be published again: it is high, what was asked for last was
    /// answered, and either something else is wanted now or some time has passed.
    fn is_due_again(&self, level: Level, wanted: u64, budget: u64) -> bool {
        if level < Level::High || wanted == 0 {
            return false;
        }
        self.published.as_ref().is_none_or(|published| {
            let is_material = wanted.abs_diff(published.wanted) > budget / MATERIAL_PART;
            !published.open && (is_material || published.at.elapsed() >= REPUBLISH_AFTER)
        })
    }

    fn publish(&mut self, level: Level, wanted: u64, context: &mut Context<Self>) {
        let epoch = self.shared.writer.publish(level, wanted);
        self.published = Some(Published {
            epoch,
            at: Instant::now(),
            wanted,
            open: wanted > 0,
        });
        if wanted == 0 {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let answers = async move {
            let writer = &shared.writer;
            writer.acknowledgements(epoch, ACKNOWLEDGE_WITHIN).await
        };
        context.spawn(wrap_future::<_, Self>(answers).map(
            move |(came, silent), actor, context| {
                actor.answered(epoch, &came, silent, context);
            },
        ));
    }

    fn answered(
        &mut self,
        epoch: u64,
        came: &[Acknowledgement],
        silent: Vec<String>,
        context: &mut Context<Self>,
    ) {
        match &mut self.published {
            Some(published) if published.epoch == epoch => published.open = false,
            // The level has changed since; these answers are about another one.
            _ => return,
        }
        if !silent.is_empty() {
            tracing::warn!(?silent, "no answer to memory pressure");
        }
        self.shared.history().acknowledge(came, silent);
        if came.iter().any(|answer| answer.bytes > 0) {
            // What was promised back is believed when it is seen.
            self.begin_reading(context);
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
            used_bytes: usage.total(),
            baseline_bytes: ledger.baseline(),
            reserved_bytes: ledger.reserved_total(),
            projected_bytes: ledger.projected(),
            free_bytes: ledger.free(),
            level: history.level(),
            level_for_seconds: history.held().as_secs_f64(),
            kinds: KindUsage::of(usage),
            shared_file_bytes: usage.shared_files,
            working_set_bytes: last.working_set,
            read_seconds_ago: last.began.elapsed().as_secs_f64(),
            reading_seconds: last.took.as_secs_f64(),
            entries: ledger.entries(),
            events: history.latest(events),
        })
    }
}

/// Reads on a thread that may block. `None` when that panicked.
async fn read(mut sampler: Sampler, config: MemoryConfig) -> Option<Outcome> {
    let read = move || {
        let reading = sampler.read(&config);
        (sampler, reading)
    };
    tokio::task::spawn_blocking(read).await.ok()
}
