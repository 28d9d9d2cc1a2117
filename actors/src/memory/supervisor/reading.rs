//! When memory is read, and what becomes of a reading. At most one is under way: what it needs
//! travels with it.

use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use tokio::time::Instant;

use super::super::allocator::AllocatorStats;
use super::super::budget::BudgetReading;
use super::super::config::MemoryConfig;
use super::super::history::EventKind;
use super::super::metrics;
use super::super::probe::{GroupUsage, Health, KernelKills, SourceStatus, StallReading};
use super::super::sampler::{Reading, SampleError, Sampler};
use super::{MemorySupervisor, PendingRequest, Waiting};
use crate::kernel::chain;
use crate::kernel::pressure::Level;

/// A reading is good for a grant this long. (Never for a refusal.)
const FRESH: Duration = Duration::from_millis(50);

/// The pause after a reading is at least this many times as long as the reading took.
const PAUSE_PER_READING: u32 = 9;

/// The last reading, apart from what the ledger took over.
pub(in crate::memory) struct Last {
    pub(in crate::memory) mark: Mark,
    pub(in crate::memory) took: Duration,
    pub(in crate::memory) budget: BudgetReading,
    pub(in crate::memory) group: Option<GroupUsage>,
    pub(in crate::memory) stalls: Option<StallReading>,
    pub(in crate::memory) allocator: Option<AllocatorStats>,
    pub(in crate::memory) kernel_kills: Option<KernelKills>,
    pub(in crate::memory) sources: Vec<SourceStatus>,
}

/// When a reading began.
#[derive(Clone, Copy)]
pub(in crate::memory) struct Mark {
    pub(super) began: Instant,
    /// [`Ledger::given_back`](super::super::Ledger::given_back) at that moment.
    given_back: u64,
}

/// What comes back from the thread that read.
pub(super) type Outcome = (Sampler, Result<Reading, SampleError>);

impl MemorySupervisor {
    pub(super) fn mark(&self) -> Mark {
        let mut ledger = self.shared.ledger.lock();
        ledger.begin_measurement();
        Mark {
            began: Instant::now(),
            given_back: ledger.given_back(),
        }
    }

    /// Whether the last reading still tells how much may be granted.
    pub(super) fn is_fresh(&self) -> bool {
        self.last.as_ref().is_some_and(|last| {
            last.mark.began.elapsed() <= FRESH
                && last.mark.given_back == self.shared.ledger.lock().given_back()
        })
    }

    pub(super) fn wait_for_reading(
        &mut self,
        request: PendingRequest,
        context: &mut Context<Self>,
    ) {
        self.waiting.push(Waiting {
            arrived: Instant::now(),
            request,
        });
        self.begin_reading(context);
    }

    /// Reads, unless a reading is under way.
    pub(super) fn begin_reading(&mut self, context: &mut Context<Self>) {
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
    pub(super) fn schedule(&mut self, context: &mut Context<Self>) {
        self.read_in(self.pause(), context);
    }

    /// Reads again as soon as the shortest pause since the last reading is over.
    pub(super) fn read_soon(&mut self, context: &mut Context<Self>) {
        let pause = self.pause_of(self.shared.config().sample_interval_fast);
        let since = self.read_at.map_or(pause, |at| at.elapsed());
        self.read_in(pause.saturating_sub(since), context);
    }

    fn read_in(&mut self, pause: Duration, context: &mut Context<Self>) {
        if self.sampler.is_none() {
            // A reading is under way; its end schedules the next.
            return;
        }
        if let Some(timer) = self.timer.take() {
            context.cancel_future(timer);
        }
        let timer = context.run_later(pause, |actor, context| {
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
        self.pause_of(interval)
    }

    /// The pause for an `interval`: never so short that readings take much of a core.
    fn pause_of(&self, interval: Duration) -> Duration {
        let took = self.last.as_ref().map_or(Duration::ZERO, |last| last.took);
        interval.max(took.saturating_mul(PAUSE_PER_READING))
    }

    /// Takes over what a reading found.
    pub(super) fn take_back(
        &mut self,
        mark: Mark,
        outcome: Option<Outcome>,
        context: &mut Context<Self>,
    ) -> Result<(), SampleError> {
        let (sampler, outcome) = match outcome {
            Some((sampler, outcome)) => (sampler, outcome),
            None => (self.fresh_sampler(), Err(SampleError::Panicked)),
        };
        self.sampler = Some(sampler);
        self.read_at = Some(Instant::now());
        match outcome {
            Ok(reading) => {
                self.failing = false;
                self.shared.last_reading.renew();
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
            if let Some(limit) = reading.budget.too_much() {
                tracing::warn!(
                    limit_bytes = limit,
                    budget_bytes = reading.budget.bytes,
                    source = reading.budget.source.label(),
                    "memory.limit is more than there is; the smaller one is the budget"
                );
            }
        }
        let used = {
            let mut ledger = self.shared.ledger.lock();
            ledger.set_budget(reading.budget.bytes);
            ledger.measure(reading.usage, reading.counted);
            ledger.used()
        };
        let took = reading.took;
        let mut sources = reading.sources;
        sources.extend(self.stalls.status());
        self.tell_sources(&sources, used);
        if let Some(stalls) = &reading.stalls {
            self.heed_samples(stalls, context);
        }
        self.follow(mark.began, used, reading.budget.bytes, context);
        self.collect(mark.began, used, context);
        let level = self.shared.history().level();
        let last = Last {
            mark,
            took,
            budget: reading.budget,
            group: reading.group,
            stalls: reading.stalls,
            allocator: reading.allocator,
            kernel_kills: reading.kernel_kills,
            sources,
        };
        metrics::reading(&self.shared.ledger.lock(), used, level, &last);
        self.last = Some(last);
    }

    /// Tells which sources began or ceased to fail or to mislead.
    fn tell_sources(&self, now: &[SourceStatus], used: u64) {
        let before = self.last.as_ref().map_or(&[][..], |last| &last.sources);
        for status in SourceStatus::changes(before, now) {
            let (source, detail) = (status.source.label(), &status.detail);
            match status.health {
                Health::Healthy | Health::Absent => {
                    tracing::info!(source, detail, "a source of memory figures is well again");
                }
                Health::Failing => {
                    tracing::warn!(source, detail, "a source of memory figures fails")
                }
                Health::Misleading => {
                    tracing::warn!(source, detail, "a source of memory figures misleads");
                }
            }
            let kind = EventKind::Source(status.clone());
            self.shared.history().record(used, used, kind);
        }
    }
}

/// Reads on a thread that may block. `None` when that panicked.
pub(super) async fn read(mut sampler: Sampler, config: MemoryConfig) -> Option<Outcome> {
    let read = move || {
        let reading = sampler.read(&config);
        (sampler, reading)
    };
    tokio::task::spawn_blocking(read).await.ok()
}
