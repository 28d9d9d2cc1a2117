//! When memory is read, and what happens with a reading. At most one is under way, since there is one
//! sampler.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, ResponseActFuture};
use serde_json::Value;

use super::super::config::MemoryConfig;
use super::super::history::EventKind;
use super::super::metrics;
use super::super::probe::{Health, SourceStatus};
use super::super::sampler::{Reading, ReadingError, Sampler, SourceReport};
use super::super::shared::ReadingStart;
use super::state::MemorySupervisor;
use crate::kernel::pressure::Level;
use crate::kernel::{Child, Exit, chain};
use tokio::time::Instant;

/// A grant may follow from a reading of at most this age.
const FRESH_FOR: Duration = Duration::from_millis(50);

/// The pause after a reading is at least this many times as long as the reading took.
const PAUSE_PER_READING: u32 = 9;

/// Events that the state for operators shows.
const EVENTS_OBSERVED: usize = 10;

/// The sampler and its reading, as they come back from the thread that read.
type ReadResult = (Sampler, Result<Reading, ReadingError>);

impl Actor for MemorySupervisor {
    type Context = Context<Self>;
}

impl Child for MemorySupervisor {
    /// The actor is ready after its first reading.
    fn start(&mut self, _context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let start = self.reading_start();
        let read = read(self.new_sampler(), self.shared.config());
        let read = wrap_future::<_, Self>(read);
        Box::pin(read.map(move |result, actor, context| {
            let outcome = actor.finish_reading(start, result, context);
            actor.schedule_reading(context);
            actor.watch_stalls(context);
            actor.subscribe_to_notices(context);
            outcome.map_err(Exit::error)
        }))
    }

    fn observe(&self) -> Value {
        let status = self.status(EVENTS_OBSERVED);
        serde_json::to_value(status).unwrap_or(Value::Null)
    }
}

impl MemorySupervisor {
    fn new_sampler(&self) -> Sampler {
        Sampler::new(&self.system, Arc::clone(&self.shared.allocator))
    }

    fn reading_start(&self) -> ReadingStart {
        let mut ledger = self.shared.ledger();
        ledger.buffers.mark_reading();
        ReadingStart {
            began: Instant::now(),
            given_back: ledger.given_back(),
        }
    }

    /// Whether grants may follow from the last reading.
    pub(super) fn is_fresh(&self) -> bool {
        self.shared.last_reading().is_some_and(|last| {
            last.began.elapsed() <= FRESH_FOR
                && last.given_back == self.shared.ledger().given_back()
        })
    }

    /// Reads memory now, unless a reading is under way.
    pub(super) fn begin_reading(&mut self, context: &mut Context<Self>) {
        let Some(sampler) = self.sampler.take() else {
            return;
        };
        if let Some(timer) = self.timer.take() {
            context.cancel_future(timer);
        }
        let start = self.reading_start();
        let read = wrap_future::<_, Self>(read(sampler, self.shared.config()));
        context.spawn(read.map(move |result, actor, context| {
            // `finish_reading` has logged a failure.
            let is_known = actor.finish_reading(start, result, context).is_ok();
            actor.answer_pending(start.began, is_known);
            if actor.pending.is_empty() {
                actor.schedule_reading(context);
            } else {
                actor.begin_reading(context);
            }
        }));
    }

    /// Reads memory again after a pause: a short one while memory is short or a load is under way.
    pub(super) fn schedule_reading(&mut self, context: &mut Context<Self>) {
        let config = self.shared.config();
        let is_short = self.shared.history().level() > Level::Normal;
        let interval = if is_short || self.shared.ledger().is_loading() {
            config.sample_interval_fast
        } else {
            config.sample_interval
        };
        self.read_in(self.pause(interval), context);
    }

    /// Reads memory again as soon as the shortest pause after the last reading is over.
    pub(super) fn read_soon(&mut self, context: &mut Context<Self>) {
        let pause = self.pause(self.shared.config().sample_interval_fast);
        let elapsed = match (self.shared.last_reading(), self.is_failing) {
            (Some(last), false) => last.began.elapsed().saturating_sub(self.last_took()),
            _ => Duration::ZERO,
        };
        self.read_in(pause.saturating_sub(elapsed), context);
    }

    fn read_in(&mut self, pause: Duration, context: &mut Context<Self>) {
        if self.sampler.is_none() {
            // A reading is under way. Its end schedules the next one.
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

    /// The pause for an interval. It is long enough for readings to take at most a tenth of one core.
    fn pause(&self, interval: Duration) -> Duration {
        interval.max(self.last_took().saturating_mul(PAUSE_PER_READING))
    }

    /// How long the last successful reading took.
    fn last_took(&self) -> Duration {
        self.report
            .as_ref()
            .map_or(Duration::ZERO, |report| report.took)
    }

    /// Takes the sampler back, and applies its reading or logs why there is none.
    fn finish_reading(
        &mut self,
        start: ReadingStart,
        result: Option<ReadResult>,
        context: &mut Context<Self>,
    ) -> Result<(), ReadingError> {
        let (sampler, reading) =
            result.unwrap_or_else(|| (self.new_sampler(), Err(ReadingError::Panicked)));
        self.sampler = Some(sampler);
        let was_failing = std::mem::replace(&mut self.is_failing, reading.is_err());
        match reading {
            Ok(reading) => {
                self.apply_reading(start, reading, context);
                Ok(())
            }
            Err(error) => {
                if !was_failing {
                    tracing::error!(error = chain(&error), "memory cannot be read");
                }
                Err(error)
            }
        }
    }

    fn apply_reading(
        &mut self,
        start: ReadingStart,
        reading: Reading,
        context: &mut Context<Self>,
    ) {
        let mut report = reading.report;
        report.sources.extend(self.stall_trigger.clone());
        self.log_budget(&report);
        let (used_before, used) = {
            let mut ledger = self.shared.ledger();
            let used_before = ledger.used();
            ledger.budget = report.budget.bytes;
            ledger.apply_reading(reading.usage, reading.group_usage);
            (used_before, ledger.used())
        };
        self.shared.set_last_reading(start);
        self.report_source_changes(&report.sources, used);
        let last = self.report.replace(report);
        let used_before = last.map_or(used, |_| used_before);
        self.check_stalls(context);
        self.update_level(start.began, used_before, used, context);
        self.collect_if_due(context);
        if let Some(report) = &self.report {
            let level = self.shared.history().level();
            metrics::reading(&self.shared.ledger(), used, level, report);
        }
    }

    /// Logs a budget that changed.
    fn log_budget(&self, report: &SourceReport) {
        let budget = &report.budget;
        let last = self.report.as_ref().map(|last| last.budget.bytes);
        if last == Some(budget.bytes) {
            return;
        }
        let source = budget.source.label();
        tracing::info!(
            budget_bytes = budget.bytes,
            source,
            considered = budget.describe(),
            "memory budget"
        );
        if let Some(limit) = budget.ineffective_limit() {
            tracing::warn!(
                limit_bytes = limit,
                budget_bytes = budget.bytes,
                source,
                "memory.limit is more than is available, so it has no effect; lower it"
            );
        }
    }

    /// Logs and records the sources whose health changed since the last reading.
    fn report_source_changes(&self, sources: &[SourceStatus], used: u64) {
        let before = self.report.as_ref().map_or(&[][..], |last| &last.sources);
        for status in SourceStatus::changes(before, sources) {
            let (source, detail) = (status.source.label(), &status.detail);
            match status.health {
                Health::Healthy | Health::Absent => {
                    tracing::info!(source, detail, "a source of memory figures has recovered");
                }
                Health::Failing => {
                    tracing::warn!(source, detail, "a source of memory figures cannot be read");
                }
                Health::Misleading => {
                    tracing::warn!(source, detail, "a source of memory figures is misleading");
                }
            }
            let kind = EventKind::Source(status.clone());
            self.shared.history().record(used, used, kind);
        }
    }
}

/// Takes a reading on a thread that may block. `None` if that panics.
async fn read(mut sampler: Sampler, config: MemoryConfig) -> Option<ReadResult> {
    let read = move || {
        let reading = sampler.read(&config);
        (sampler, reading)
    };
    tokio::task::spawn_blocking(read).await.ok()
}
