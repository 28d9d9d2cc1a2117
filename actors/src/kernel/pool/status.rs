//! What a pool shows of itself.

use std::collections::BTreeMap;

use serde::Serialize;

use super::histogram::Quantiles;

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// It had lived for as long as it may.
    Lifetime,
    /// Nobody had used it for long.
    Idle,
    /// It died, or its user said so.
    Broken,
    /// It was not well when it was asked.
    Check,
    /// Memory is short.
    Pressure,
    /// The pool stops.
    Shutdown,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Lifetime,
        Self::Idle,
        Self::Broken,
        Self::Check,
        Self::Pressure,
        Self::Shutdown,
    ];

    /// A fixed word for metrics, the same as in answers.
    pub fn label(self) -> &'static str {
        match self {
            Self::Lifetime => "lifetime",
            Self::Idle => "idle",
            Self::Broken => "broken",
            Self::Check => "check",
            Self::Pressure => "pressure",
            Self::Shutdown => "shutdown",
        }
    }
}

/// A place in the code that holds connections.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Holder {
    /// File and line.
    pub place: String,
    /// Leases that it holds.
    pub leases: u32,
    /// Since when it holds the oldest of them.
    pub since_seconds: f64,
}

/// Where the circuit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// Connections are opened as needed.
    Closed,
    /// None is opened until the next try.
    Open,
    /// One is being tried, or will be for the next caller.
    HalfOpen,
}

/// The circuit in front of the server.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CircuitStatus {
    /// Where it stands.
    pub state: CircuitState,
    /// Failed connects in a row.
    pub failures: u32,
    /// Time until the next connect may be tried, when it has to wait.
    pub next_try_seconds: Option<f64>,
}

/// A pool at one moment. Counters begin with the incarnation of its owner.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PoolStatus {
    /// The pool's name.
    pub name: String,
    /// Connections that are open.
    pub size: u32,
    /// Of these, those that nobody uses.
    pub idle: u32,
    /// Of these, those that somebody uses, and those being checked or cleaned.
    pub in_use: u32,
    /// Of those in use, those in shared use.
    pub shared: u32,
    /// Leases on the shared ones.
    pub shared_in_flight: u32,
    /// Callers that wait.
    pub waiting: u32,
    /// Connections being opened.
    pub opening: u32,
    /// Connections ever opened.
    pub opened: u64,
    /// Connections ever closed, by reason.
    pub closed: BTreeMap<CloseReason, u64>,
    /// Leases ever granted.
    pub checkouts: u64,
    /// Of these, those over a connection that had been used before.
    pub reused: u64,
    /// Share of checkouts that opened no connection.
    pub reuse_rate: f64,
    /// How long callers waited that got a lease.
    pub wait: Quantiles,
    /// How long leases were held.
    pub usage: Quantiles,
    /// How long it took to open connections.
    pub connect: Quantiles,
    /// Checkouts refused: queue full, circuit open, or nothing to connect to.
    pub refused: u64,
    /// Checkouts whose deadline passed in the queue.
    pub timed_out: u64,
    /// Connects that failed.
    pub failed: u64,
    /// Connects tried after one that failed.
    pub retries: u64,
    /// Leases ever found to be held for too long.
    pub leaks: u64,
    /// Those who hold one for too long now.
    pub leaked: Vec<Holder>,
    /// The circuit.
    pub circuit: CircuitStatus,
    /// Why the last failed connect failed.
    pub last_error: Option<String>,
}
