//! Collections of slack, the free memory that allocators keep: when they are due, and their record. One
//! that is requested can ask for caches or idle connections instead.
//!
//! A collection runs on request, on a schedule at rest, after many buffers were released, and when
//! tasks stall.

use std::time::Duration;

use actix::{Context, Handler};
use tokio::time::Instant;

use super::super::history::{CollectionReason, EventKind, gained_bytes};
use super::super::metrics;
use super::super::status::label;
use super::MemorySupervisor;
use super::clean_up::NOTEWORTHY;
use super::rounds::{Request, RoundKind, RoundReport};
use crate::kernel::pressure::Stage;
use crate::kernel::{Call, Message, Reply};

/// How long hosts may take to acknowledge. A collection is not urgent, so this is longer than in a
/// clean-up. A host that runs a request acknowledges before its trim.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(10);

/// A collection follows when at least this many bytes of buffers were released.
const BIG_RELEASE: u64 = 64 << 20;

/// Time between two collections because of stalls.
const STALL_PAUSE: Duration = Duration::from_secs(10);

/// The last stage that a collection may ask. Later ones cost users loads.
const STAGE_MAX: Stage = Stage::Connections;

/// Collects now what costs users little: asks the subscribers of one stage for all that they can give, and
/// purges the server's allocator, which shows what they gave.
#[derive(Debug, Clone, Copy)]
pub struct Collect {
    /// The stage. Resources are never asked for: a later stage than [`Stage::Connections`] counts as this
    /// one.
    pub stage: Stage,
}

impl Message for Collect {
    type Reply = RoundReport;
}

/// A call that the next collection answers.
pub(super) struct CollectCall {
    stage: Stage,
    reply: Reply<Collect>,
}

impl Handler<Call<Collect>> for MemorySupervisor {
    type Result = ();

    fn handle(&mut self, call: Call<Collect>, context: &mut Context<Self>) {
        if let Some((Collect { stage }, reply)) = call.accept() {
            let stage = stage.min(STAGE_MAX);
            self.collect_calls.push(CollectCall { stage, reply });
            self.collect_if_due(context);
        }
    }
}

impl MemorySupervisor {
    /// Begins a collection if one is due and no round is open.
    pub(super) fn collect_if_due(&mut self, context: &mut Context<Self>) {
        if self.round.is_some() {
            return;
        }
        let interval = self.shared.config().gc_interval;
        let reason = if !self.collect_calls.is_empty() {
            CollectionReason::Request
        } else if self.shared.ledger().take_released(BIG_RELEASE) {
            CollectionReason::Release
        } else if self.collected_at.elapsed() >= interval {
            CollectionReason::Schedule
        } else {
            return;
        };
        self.collect(reason, context);
    }

    /// Begins a collection because tasks stall, unless a round is open.
    pub(super) fn collect_on_stall(&mut self, context: &mut Context<Self>) {
        let last = self.collected_on_stall_at;
        if self.round.is_none() && last.is_none_or(|last| last.elapsed() >= STALL_PAUSE) {
            self.collected_on_stall_at = Some(Instant::now());
            self.collect(CollectionReason::Stall, context);
        }
    }

    fn collect(&mut self, reason: CollectionReason, context: &mut Context<Self>) {
        self.collected_at = Instant::now();
        let calls = std::mem::take(&mut self.collect_calls);
        let stages = || calls.iter().map(|call| call.stage);
        let (min_stage, max_stage) = (stages().min(), stages().max());
        let (min_stage, max_stage) = min_stage.zip(max_stage).unwrap_or_default();
        // Hosts trim themselves at rest. Only a request or a stall asks them.
        let asks_hosts = matches!(reason, CollectionReason::Request | CollectionReason::Stall);
        let request = asks_hosts.then(|| Request {
            level: self.shared.history().level,
            min_stage,
            max_stage,
            // Slack is given whole. The others give as much as is wanted.
            wanted_bytes: if max_stage > Stage::Slack {
                u64::MAX
            } else {
                0
            },
            within: ACKNOWLEDGE_WITHIN,
        });
        let kind = RoundKind::Collection {
            reason,
            max_stage,
            calls,
        };
        self.begin_round(kind, request, true, context);
    }

    /// Records a collection that has ended, and answers its calls.
    pub(super) fn record_collection(
        &self,
        reason: CollectionReason,
        max_stage: Stage,
        calls: Vec<CollectCall>,
        report: RoundReport,
    ) {
        let gained = gained_bytes(&report.actors);
        metrics::gc(reason, &report.actors);
        if reason == CollectionReason::Request || gained >= NOTEWORTHY {
            let (before, after) = (report.used_before_bytes, report.used_after_bytes);
            tracing::info!(
                reason = label(reason),
                used_before_bytes = before,
                used_after_bytes = after,
                gained_bytes = gained,
                "allocators were purged"
            );
            let kind = EventKind::Gc {
                reason,
                max_stage,
                actions: report.actors.clone(),
                silent: report.silent.clone(),
            };
            self.shared.history().record(before, after, kind);
        }
        for call in calls {
            call.reply.send(report.clone());
        }
    }
}
