//! Counters of one actor. They outlive its incarnations, so a restart hides nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

/// What became of a call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Handled,
    Failed,
    Cancelled,
    Lost,
    RefusedBusy,
    RefusedUnavailable,
    TimedOut,
}

impl Outcome {
    pub(super) const ALL: [Self; 7] = [
        Self::Handled,
        Self::Failed,
        Self::Cancelled,
        Self::Lost,
        Self::RefusedBusy,
        Self::RefusedUnavailable,
        Self::TimedOut,
    ];

    /// The label in metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
            Self::RefusedBusy => "refused_busy",
            Self::RefusedUnavailable => "refused_unavailable",
            Self::TimedOut => "timed_out",
        }
    }
}

/// Counters of one actor, written by its handle, its calls and its incarnations.
#[derive(Debug, Default)]
pub struct Stats {
    queued: AtomicU64,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    busy_nanos: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StatsSnapshot {
    /// Calls admitted that the actor has not yet looked at.
    pub mailbox_depth: u64,
    /// Answers given.
    pub handled: u64,
    /// Answers given that count as failures.
    pub failed: u64,
    /// Calls dropped because their callers had gone away.
    pub cancelled: u64,
    /// Calls admitted and never answered: the actor ended first, or dropped the reply.
    pub lost: u64,
    /// Calls refused because the actor was at its capacity.
    pub refused_busy: u64,
    /// Calls refused because the actor was not running.
    pub refused_unavailable: u64,
    /// Calls whose deadline passed first.
    pub timed_out: u64,
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

    pub(super) fn counted(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Relaxed)
    }

    pub(super) fn add_busy(&self, time: Duration) {
        let nanos = time.as_nanos().try_into().unwrap_or(u64::MAX);
        self.busy_nanos.fetch_add(nanos, Relaxed);
    }

    /// Reads all counters. Each is exact; together they may be a few calls apart.
    pub fn snapshot(&self) -> StatsSnapshot {
        StatsSnapshot {
            mailbox_depth: self.queued.load(Relaxed),
            handled: self.counted(Outcome::Handled),
            failed: self.counted(Outcome::Failed),
            cancelled: self.counted(Outcome::Cancelled),
            lost: self.counted(Outcome::Lost),
            refused_busy: self.counted(Outcome::RefusedBusy),
            refused_unavailable: self.counted(Outcome::RefusedUnavailable),
            timed_out: self.counted(Outcome::TimedOut),
            busy_seconds: Duration::from_nanos(self.busy_nanos.load(Relaxed)).as_secs_f64(),
        }
    }
}
