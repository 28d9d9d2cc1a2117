//! When free memory that allocators keep is purged, and the record of that.
//!
//! A collection runs on request, on a schedule at rest, after many buffers were released, and when
//! tasks stall.

use std::time::Duration;

use tokio::time::Instant;

use super::super::history::{CollectionReason, EventKind, gained_bytes};
use super::super::metrics;
use super::super::shared::Shared;
use super::clean_up::NOTEWORTHY;
use super::messages::{CollectSlack, RoundReport};
use crate::kernel::Reply;

/// A collection follows when at least this many bytes of buffers were released.
const BIG_RELEASE: u64 = 64 << 20;

/// Time between two collections because of stalls.
const STALL_PAUSE: Duration = Duration::from_secs(10);

/// Decides when collections begin.
pub(super) struct Collector {
    /// Calls that the next collection answers.
    waiting: Vec<Reply<CollectSlack>>,
    last_began: Instant,
    last_for_stall: Option<Instant>,
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            last_began: Instant::now(),
            last_for_stall: None,
        }
    }
}

impl Collector {
    pub(super) fn request(&mut self, reply: Reply<CollectSlack>) {
        self.waiting.push(reply);
    }

    /// Whether and why a collection must begin.
    pub(super) fn due(&self, shared: &Shared) -> Option<CollectionReason> {
        if !self.waiting.is_empty() {
            Some(CollectionReason::Request)
        } else if shared.ledger().buffers.take_released(BIG_RELEASE) {
            Some(CollectionReason::Release)
        } else {
            let is_due = self.last_began.elapsed() >= shared.config().gc_interval;
            is_due.then_some(CollectionReason::Schedule)
        }
    }

    /// Whether a stall must begin a collection.
    pub(super) fn is_due_on_stall(&self) -> bool {
        let last = self.last_for_stall;
        last.is_none_or(|last| last.elapsed() >= STALL_PAUSE)
    }

    /// Takes note of a collection that begins now. Returns the calls that it answers.
    pub(super) fn begin(&mut self, reason: CollectionReason) -> Vec<Reply<CollectSlack>> {
        self.last_began = Instant::now();
        match reason {
            CollectionReason::Request => return std::mem::take(&mut self.waiting),
            CollectionReason::Stall => self.last_for_stall = Some(self.last_began),
            CollectionReason::Release | CollectionReason::Schedule => {}
        }
        Vec::new()
    }
}

/// Records a collection that has ended, and answers its calls.
pub(super) fn record_collection(
    reason: CollectionReason,
    replies: Vec<Reply<CollectSlack>>,
    report: RoundReport,
    shared: &Shared,
) {
    let gained = gained_bytes(&report.actors);
    metrics::gc(reason, &report.actors);
    if reason == CollectionReason::Request || gained >= NOTEWORTHY {
        let (before, after) = (report.used_before_bytes, report.used_after_bytes);
        tracing::info!(
            reason = reason.label(),
            used_before_bytes = before,
            used_after_bytes = after,
            gained_bytes = gained,
            "allocators were purged"
        );
        let kind = EventKind::Gc {
            reason,
            actions: report.actors.clone(),
            silent: report.silent.clone(),
        };
        shared.history().record(before, after, kind);
    }
    for reply in replies {
        reply.send(report.clone());
    }
}
