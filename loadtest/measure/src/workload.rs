//! What callers do: how many, how often, for how long, and at which pace.

use std::time::Duration;

/// When the next operation of a caller begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// A closed loop: each caller begins an operation when its last one has ended. A slow operation delays
    /// the next one, so the latencies are those of exactly this number of callers, and not of users who
    /// come at a rate of their own.
    Closed,
    /// An open loop: operations are due at a fixed rate, whether earlier ones have ended or not. One that is
    /// due while every caller is busy, or while the process is held up, begins late, and the delay counts as
    /// part of its latency. So a pause of the server is in the latency of every operation that it held up
    /// (there is no coordinated omission). Only the coarseness of timers, 2 ms, does not count.
    Open {
        /// Operations that are due each second.
        per_second: f64,
    },
}

/// What callers do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workload {
    /// Callers, and so the most operations at once.
    pub callers: u32,
    /// Operations of all callers together.
    pub operations: u64,
    /// No operation begins after this time.
    pub time: Duration,
    /// How long one operation may take. A longer one is dropped and has failed.
    pub each: Duration,
    /// When the next operation begins.
    pub pace: Pace,
}
