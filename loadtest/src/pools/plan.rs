//! What a peer is told, and what it tells: one line of JSON each, whatever it is written in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// A row of PostgreSQL by its primary key.
    Select,
    /// The value of a key in Redis.
    Get,
    /// A new value for a key in Redis.
    Set,
}

/// What a peer reads from its input before it does anything. Arguments would show the password in
/// the list of processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Where the server is, with the password.
    pub(super) url: String,
    pub(super) ask: Ask,
    /// Who ask at once: each waits for its answer, then asks again.
    pub(super) callers: u64,
    /// Keys are from 1 to this.
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

/// What a peer writes when the measured time begins.
pub(super) const BEGIN: &str = "begin";

/// What a peer writes when it is over, with its connections still open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// Right answers within the measured time.
    pub(super) answers: u64,
    /// Requests without one, or with a wrong one, at any time.
    pub(super) failures: u64,
    /// Why the first of these failed.
    pub(super) first_failure: Option<String>,
    /// Right answers, those of the warm-up included.
    pub(super) requests: u64,
    /// How long was measured.
    pub(super) seconds: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    pub(super) max_ms: f64,
}

/// The value of a key: what it is can be told from the key, so that every answer can be checked.
pub(super) fn value(key: i64) -> String {
    format!("{key:0>VALUE_BYTES$}")
}

/// Bytes of each value.
pub(super) const VALUE_BYTES: usize = 100;

/// The name of a key in Redis.
pub(super) fn name(key: i64) -> String {
    format!("item:{key}")
}
