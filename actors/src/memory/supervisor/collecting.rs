//! Garbage, as far as there is any without a collector: memory that is free already and that an
//! allocator keeps. It is taken on request, on a schedule at rest, after much was given back at
//! once, and when the kernel says that tasks stall.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context, Handler};
use serde::Serialize;
use tokio::time::Instant;

use super::super::history::{ActionRecord, EventKind, GcReason};
use super::super::metrics;
use super::super::room::Shared;
use super::MemorySupervisor;
use super::epoch::{Ask, Purpose};
use crate::kernel::pressure::{Acknowledgement, Action, Stage};
use crate::kernel::{Call, Message, Reply};

/// How long a model host may take for it: it finishes its forward first.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Much given back at once is at least this many bytes.
const BIG_RELEASE: u64 = 64 << 20;

/// What a purge that nobody asked for, or a clean-up that is repeated, must give to be worth an event.
pub(super) const NOTEWORTHY: u64 = 1 << 20;

/// Time between two purges because of stalls.
const STALL_PAUSE: Duration = Duration::from_secs(10);

/// Takes free memory from every allocator now: the server's, and those of all model hosts.
#[derive(Debug, Clone, Copy)]
pub struct CollectGarbage;

/// What that gave. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GcReport {
    /// Used by the whole tree before.
    pub used_before_bytes: u64,
    /// Used by the whole tree afterwards.
    pub used_after_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// What each actor gave.
    pub actors: Vec<ActionRecord>,
    /// Who did not answer in time.
    pub silent: Vec<String>,
}

impl Message for CollectGarbage {
    type Reply = GcReport;
}

/// What is under way, and when it was last done.
pub(super) struct Collector {
    waiting: Vec<Reply<CollectGarbage>>,
    running: Option<Running>,
    last: Instant,
    last_stall: Option<Instant>,
}

struct Running {
    reason: GcReason,
    began: Instant,
    used_before: u64,
    replies: Vec<Reply<CollectGarbage>>,
    /// What came, and when; a reading that begins later shows what it gave.
    answered: Option<(Instant, Vec<Acknowledgement>, Vec<String>)>,
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            running: None,
            last: Instant::now(),
            last_stall: None,
        }
    }
}

impl Handler<Call<CollectGarbage>> for MemorySupervisor {
    type Result = ();

    fn handle(&mut self, call: Call<CollectGarbage>, context: &mut Context<Self>) {
        let Some((CollectGarbage, reply)) = call.accept() else {
            return;
        };
        self.collector.waiting.push(reply);
        self.collect_if_asked(context);
    }
}

impl MemorySupervisor {
    /// To be called after every reading.
    pub(super) fn collect(&mut self, began: Instant, used: u64, context: &mut Context<Self>) {
        self.report(began, used);
        self.collect_if_asked(context);
        if self.collector.running.is_some() || self.is_cleaning_up() {
            return;
        }
        let released = self.shared.ledger.lock().take_released(BIG_RELEASE);
        if released {
            self.begin(GcReason::Release, used, context);
        } else if self.collector.last.elapsed() >= self.shared.config().gc_interval {
            self.begin(GcReason::Schedule, used, context);
        }
    }

    /// Tasks stalled for want of memory. A clean-up that is under way asks for the same and more.
    pub(super) fn collect_on_stall(&mut self, context: &mut Context<Self>) {
        let paused = self.collector.last_stall;
        if self.collector.running.is_none()
            && !self.is_cleaning_up()
            && paused.is_none_or(|last| last.elapsed() >= STALL_PAUSE)
            && let Some(used) = self.used_last
        {
            self.collector.last_stall = Some(Instant::now());
            self.begin(GcReason::Stall, used, context);
        }
    }

    fn collect_if_asked(&mut self, context: &mut Context<Self>) {
        if self.collector.waiting.is_empty() || self.is_cleaning_up() {
            return;
        }
        // A purge under way began before the request; it does not count for it.
        if let (None, Some(used)) = (&self.collector.running, self.used_last) {
            self.begin(GcReason::Request, used, context);
        }
    }

    fn begin(&mut self, reason: GcReason, used: u64, context: &mut Context<Self>) {
        let collector = &mut self.collector;
        collector.last = Instant::now();
        collector.running = Some(Running {
            reason,
            began: Instant::now(),
            used_before: used,
            replies: match reason {
                GcReason::Request => std::mem::take(&mut collector.waiting),
                _ => Vec::new(),
            },
            answered: None,
        });
        // Hosts trim themselves when they come to rest; only a request or a stall asks them.
        if matches!(reason, GcReason::Request | GcReason::Stall) {
            let ask = Ask {
                purpose: Purpose::Collection,
                level: self.shared.history().level(),
                max_stage: Stage::Slack,
                wanted_bytes: 0,
                within: ANSWER_WITHIN,
                purges: true,
            };
            if !self.open_epoch(&ask, context) {
                // The clean-up under way asks for the same and more.
                self.collected(Vec::new(), Vec::new());
            }
            return;
        }
        let shared = Arc::clone(&self.shared);
        let purge = async move { shared.purge().await };
        context.spawn(wrap_future::<_, Self>(purge).map(|own, actor, context| {
            actor.collected(own.into_iter().collect(), Vec::new());
            actor.begin_reading(context);
        }));
    }

    /// All answers of the purge under way that will come have come.
    pub(super) fn collected(&mut self, came: Vec<Acknowledgement>, silent: Vec<String>) {
        if let Some(running) = &mut self.collector.running {
            running.answered = Some((Instant::now(), came, silent));
        }
    }

    /// Tells what a purge gave, if a reading that began at `began` shows it.
    fn report(&mut self, began: Instant, used: u64) {
        let shown = |running: &mut Running| {
            let answered = running.answered.as_ref();
            answered.is_some_and(|(at, ..)| *at <= began)
        };
        let Some(running) = self.collector.running.take_if(shown) else {
            return;
        };
        let (_, came, silent) = running.answered.unwrap_or((began, Vec::new(), Vec::new()));
        let actors = ActionRecord::all(came);
        let gained: u64 = actors
            .iter()
            .map(|record| record.action.gained_bytes())
            .sum();
        metrics::gc(running.reason, &actors);
        if running.reason == GcReason::Request || gained >= NOTEWORTHY {
            tracing::info!(
                reason = running.reason.label(),
                used_before_bytes = running.used_before,
                used_after_bytes = used,
                gained_bytes = gained,
                "free memory was taken from allocators"
            );
            let kind = EventKind::Gc {
                reason: running.reason,
                actions: actors.clone(),
                silent: silent.clone(),
            };
            let before = running.used_before;
            self.shared.history().record(before, used, kind);
        }
        let report = GcReport {
            used_before_bytes: running.used_before,
            used_after_bytes: used,
            seconds: running.began.elapsed().as_secs_f64(),
            actors,
            silent,
        };
        for reply in running.replies {
            reply.send(report.clone());
        }
    }
}

impl Shared {
    /// Takes what is free from the allocator of this process. `None` where that cannot be done.
    pub(super) async fn purge(&self) -> Option<Acknowledgement> {
        let allocator = Arc::clone(&self.allocator);
        let purge = move || {
            let purgeable = allocator.stats().ok()?.purgeable();
            let purged = allocator.purge().ok()?;
            Some((purgeable, purged))
        };
        let (promised_bytes, purged) = tokio::task::spawn_blocking(purge).await.ok()??;
        Some(Acknowledgement {
            name: "memory".to_owned(),
            actions: vec![Action {
                what: "server".to_owned(),
                promised_bytes,
                before_bytes: purged.before,
                after_bytes: purged.after,
            }],
        })
    }
}
