//! The protocol with a peer's process: it reads its plan and prints its outcome, one line of JSON each.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    /// Select a row of PostgreSQL by its primary key.
    Select,
    /// Get the value of a key of Redis.
    Get,
    /// Set the value of a key of Redis.
    Set,
}

/// What a peer reads from standard input. Arguments would show the password in the list of processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The server's URL, with the password.
    pub(super) url: String,
    pub(super) operation: Operation,
    /// The number of callers. Each sends a request, waits for the answer, and sends the next one.
    pub(super) callers: u64,
    /// Keys are from 1 to this number.
    pub(super) keys: u32,
    pub(super) connections_max: u32,
    pub(super) warm_up_ms: u64,
    pub(super) measured_ms: u64,
    /// How long each request may take.
    pub(super) deadline_ms: u64,
    pub(super) seed: u64,
}

impl Plan {
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}

/// What a peer prints when the measured time begins.
pub(super) const BEGIN: &str = "begin";

/// What a peer prints at the end, with its connections still open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// Correct answers within the measured time.
    pub(super) answers: u64,
    /// Requests without an answer or with a wrong one, the warm-up included.
    pub(super) failures: u64,
    /// Why the first of these failed.
    pub(super) first_failure: Option<String>,
    /// Correct answers, the warm-up included.
    pub(super) requests: u64,
    /// The measured time.
    pub(super) seconds: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    pub(super) max_ms: f64,
}

/// The value of a key. It follows from the key, so that every answer can be checked.
pub(super) fn value(key: i64) -> String {
    format!("{key:0>VALUE_BYTES$}")
}

/// Bytes of each value.
pub(super) const VALUE_BYTES: usize = 100;

/// The name of a key in Redis.
pub(super) fn name(key: i64) -> String {
    format!("item:{key}")
}
