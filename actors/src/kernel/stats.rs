//! Counters of one actor. They outlive its incarnations, so a restart hides nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

/// What became of a call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    /// Answered.
    Handled,
    /// Answered with what counts as a failure.
    Failed,
    /// Dropped because its caller had gone away.
    Cancelled,
    /// Admitted and never answered: the actor ended first, or dropped the reply.
    Lost,
    /// Refused because the actor was at its capacity.
    RefusedBusy,
    /// Refused because the actor was not running.
    RefusedUnavailable,
    /// Its deadline passed first.
    TimedOut,
}

/// The names of what can become of a call, in answers and metrics.
// In the order of `Outcome`.
pub const OUTCOMES: [&str; 7] = [
    "handled",
    "failed",
    "cancelled",
    "lost",
    "refused_busy",
    "refused_unavailable",
    "timed_out",
];

/// Counters of one actor, written by its handle, its calls and its incarnations.
#[derive(Debug, Default)]
pub struct Stats {
    queued: AtomicU64,
    outcomes: [AtomicU64; OUTCOMES.len()],
    busy_nanos: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = CallCounts)]
pub struct StatsSnapshot {
    /// Calls admitted that the actor has not yet looked at.
    pub mailbox_depth: u64,
    /// Calls by outcome: `handled`, `failed`, `cancelled`, `lost`, `refused_busy`,
    /// `refused_unavailable` and `timed_out`.
    #[serde(flatten)]
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Time spent inside the actor's code.
    pub busy_seconds: f64,
}

impl Stats {
    pub(super) fn enqueued(&self) {
        self.queued.fetch_add(1, Relaxed);
    }

    pub(super) fn dequeued(&self) {
        self.queued.fetch_sub(1, Relaxed);
    }

    pub(super) fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn add_busy(&self, time: Duration) {
        let nanos = time.as_nanos().try_into().unwrap_or(u64::MAX);
        self.busy_nanos.fetch_add(nanos, Relaxed);
    }

    /// Reads all counters. Each is exact; together they may be a few calls apart.
    pub fn snapshot(&self) -> StatsSnapshot {
        let counts = self.outcomes.iter().map(|count| count.load(Relaxed));
        StatsSnapshot {
            mailbox_depth: self.queued.load(Relaxed),
            outcomes: OUTCOMES.into_iter().zip(counts).collect(),
            busy_seconds: Duration::from_nanos(self.busy_nanos.load(Relaxed)).as_secs_f64(),
        }
    }
}
