//! When memory is read, and what happens with a reading. At most one is under way, since there is one
//! sampler.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, ResponseActFuture};
use serde_json::Value;

use super::super::budget::describe;
use super::super::history::EventKind;
use super::super::ledger::ReadingStart;
use super::super::metrics;
use super::super::probe::{Health, SourceStatus, StallTrigger};
use super::super::sampler::{Reading, ReadingError, Sampler, SourceReport};
use super::super::status::label;
use super::super::timeline::Sample;
use super::MemorySupervisor;
use crate::kernel::pressure::Level;
use crate::kernel::{Child, Exit, chain};

/// A grant may follow from a reading of at most this age.
const FRESH_FOR: Duration = Duration::from_millis(50);

/// The pause after a reading is at least this many times as long as the reading took.
const PAUSE_PER_READING: u32 = 9;

/// Events that the state for operators shows.
const EVENTS_OBSERVED: usize = 10;

impl Actor for MemorySupervisor {
    type Context = Context<Self>;
}

impl Child for MemorySupervisor {
    /// The actor is ready after its first reading.
    fn start(&mut self, _context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let first = self.read(self.new_sampler());
        Box::pin(first.map(|outcome, actor, context| {
            actor.watch_stalls(StallTrigger::open(&actor.system), context);
            actor.subscribe_to_notices(context);
            outcome.map_err(Exit::error)
        }))
    }

    fn observe(&self) -> Value {
        let status = self.shared.status(EVENTS_OBSERVED);
        serde_json::to_value(status).unwrap_or(Value::Null)
    }
}

impl MemorySupervisor {
    fn new_sampler(&self) -> Sampler {
        Sampler::new(&self.system, Arc::clone(&self.shared.allocator))
    }

    /// Whether grants may follow from the last reading.
    pub(super) fn is_fresh(&self) -> bool {
        let ledger = self.shared.ledger();
        ledger.last_reading.is_some_and(|last| {
            last.began.elapsed() <= FRESH_FOR && last.given_back == ledger.given_back
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
        context.spawn(self.read(sampler).map(|_, _, _| ()));
    }

    /// Takes a reading on a thread that may block. Applies it, or logs why there is none, and begins
    /// or schedules the next one.
    fn read(&self, mut sampler: Sampler) -> ResponseActFuture<Self, Result<(), ReadingError>> {
        let start = self.shared.ledger().begin_reading();
        let config = self.shared.config();
        let read = tokio::task::spawn_blocking(move || {
            let reading = sampler.read(&config);
            (sampler, reading)
        });
        Box::pin(
            wrap_future::<_, Self>(read).map(move |read, actor, context| {
                let (sampler, reading) =
                    read.unwrap_or_else(|_| (actor.new_sampler(), Err(ReadingError::Panicked)));
                actor.sampler = Some(sampler);
                let was_failing = std::mem::replace(&mut actor.is_failing, reading.is_err());
                let outcome = reading.map(|reading| actor.apply_reading(start, reading, context));
                if let Err(error) = &outcome
                    && !was_failing
                {
                    tracing::error!(error = chain(error), "memory cannot be read");
                }
                actor.answer_pending(start.began, outcome.is_ok());
                if actor.pending.is_empty() {
                    actor.schedule_reading(context);
                } else {
                    actor.begin_reading(context);
                }
                outcome
            }),
        )
    }

    /// Reads memory again after a pause: a short one while memory is short or a load is under way.
    pub(super) fn schedule_reading(&mut self, context: &mut Context<Self>) {
        let config = self.shared.config();
        let is_short = self.shared.history().level > Level::Normal;
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
        let elapsed = match (self.shared.ledger().last_reading, self.is_failing) {
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
        let report = self.shared.report();
        Duration::from_secs_f64(report.map_or(0.0, |report| report.reading_seconds))
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
            ledger.last_reading = Some(start);
            (used_before, ledger.used())
        };
        self.report_source_changes(&report.sources, used);
        let last = self.shared.replace_report(report);
        let used_before = last.map_or(used, |_| used_before);
        self.check_stalls(context);
        self.update_level(start.began, used_before, used, context);
        self.collect_if_due(context);
        if let Some(report) = &self.shared.report() {
            let level = self.shared.history().level;
            let ledger = self.shared.ledger();
            metrics::reading(&ledger, used, level, report);
            let sample = Sample {
                used,
                projected: ledger.projected(),
                budget: ledger.budget,
                level,
            };
            drop(ledger);
            self.shared.timeline().add(sample);
        }
    }

    /// Logs a budget that changed.
    fn log_budget(&self, report: &SourceReport) {
        let budget = &report.budget;
        let last = self.shared.report().map(|last| last.budget.bytes);
        if last == Some(budget.bytes) {
            return;
        }
        let source = label(budget.source);
        tracing::info!(
            budget_bytes = budget.bytes,
            source,
            considered = describe(&budget.candidates),
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
        let last = self.shared.report();
        let before = last.as_ref().map_or(&[][..], |last| &last.sources);
        for status in SourceStatus::changes(before, sources) {
            let (source, detail) = (label(status.source), &status.detail);
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
