//! Counters of one actor. They outlive its incarnations, so a restart hides nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

/// Counters of one actor, written by its handle, its calls and its incarnations.
#[derive(Debug, Default)]
pub struct Stats {
    queued: AtomicU64,
    handled: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    lost: AtomicU64,
    busy: AtomicU64,
    timed_out: AtomicU64,
    unavailable: AtomicU64,
    busy_nanos: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StatsSnapshot {
    /// Messages admitted that the actor has not yet looked at.
    pub mailbox_depth: u64,
    /// Answers given.
    pub handled: u64,
    /// Answers given that count as failures.
    pub failed: u64,
    /// Messages dropped because their callers had gone away.
    pub cancelled: u64,
    /// Messages admitted whose reply was dropped: the actor died first, or forgot.
    pub lost: u64,
    /// Messages refused because the actor was full.
    pub refused_busy: u64,
    /// Messages refused because the actor was not running.
    pub refused_unavailable: u64,
    /// Callers whose deadline passed first.
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

    pub(super) fn handled(&self) {
        self.handled.fetch_add(1, Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub(super) fn cancelled(&self) {
        self.cancelled.fetch_add(1, Relaxed);
    }

    pub(super) fn lost(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    pub(super) fn refused_busy(&self) {
        self.busy.fetch_add(1, Relaxed);
    }

    pub(super) fn refused_unavailable(&self) {
        self.unavailable.fetch_add(1, Relaxed);
    }

    pub(super) fn timed_out(&self) {
        self.timed_out.fetch_add(1, Relaxed);
    }

    pub(super) fn busy_for(&self, time: Duration) {
        self.busy_nanos
            .fetch_add(time.as_nanos().try_into().unwrap_or(u64::MAX), Relaxed);
    }

    /// Reads all counters. Each is exact; together they may be a few messages apart.
    pub fn snapshot(&self) -> StatsSnapshot {
        StatsSnapshot {
            mailbox_depth: self.queued.load(Relaxed),
            handled: self.handled.load(Relaxed),
            failed: self.failed.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            lost: self.lost.load(Relaxed),
            refused_busy: self.busy.load(Relaxed),
            refused_unavailable: self.unavailable.load(Relaxed),
            timed_out: self.timed_out.load(Relaxed),
            busy_seconds: Duration::from_nanos(self.busy_nanos.load(Relaxed)).as_secs_f64(),
        }
    }
}
