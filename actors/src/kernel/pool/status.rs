//! The status of a pool, as the API shows it.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::histogram::Quantiles;

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// Its lifetime ended.
    Lifetime,
    /// It was idle for too long.
    Idle,
    /// It failed, its user marked it broken, or it could not be reset.
    Broken,
    /// It did not pass a check.
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

    /// The name of the reason in metrics, and in the API.
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

/// A place in the code that holds leases.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Holder {
    /// File and line.
    pub place: String,
    /// The number of leases that it holds.
    pub leases: u32,
    /// How long it has held the oldest of them.
    pub since_seconds: f64,
}

/// The state of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// Connections are opened as needed.
    Closed,
    /// No connection is opened until the next try is due.
    Open,
    /// One connection is being tried, or will be for the next caller.
    HalfOpen,
}

/// The circuit in front of the server.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct CircuitStatus {
    /// Its state.
    pub state: CircuitState,
    /// The number of failed connects in a row.
    pub failures: u32,
    /// The time since the first of them.
    pub failing_for_seconds: Option<f64>,
    /// The time until the next connect, if it has to wait.
    pub next_try_seconds: Option<f64>,
}

/// A pool at one moment. Counters start at zero with each incarnation of its actor.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PoolStatus {
    /// The pool's name. It is not part of the JSON, since whoever shows a pool names it.
    #[serde(skip)]
    pub name: String,
    /// Open connections.
    pub size: u32,
    /// Open connections without a lease.
    pub idle: u32,
    /// Open connections that are leased, checked or reset.
    pub in_use: u32,
    /// Open connections in shared use.
    pub shared: u32,
    /// Leases on shared connections.
    pub shared_in_flight: u32,
    /// Callers that wait.
    pub waiting: u32,
    /// Connections that are being opened.
    pub opening: u32,
    /// Closed connections that the server has not let go of. They count against the maximum.
    pub retiring: u32,
    /// Connections opened so far.
    #[serde(rename = "opened_total")]
    pub opened: u64,
    /// Connections closed so far, by reason.
    #[serde(rename = "closed_total")]
    pub closed: BTreeMap<CloseReason, u64>,
    /// Leases granted so far.
    #[serde(rename = "checkouts_total")]
    pub checkouts: u64,
    /// Leases on a connection that had been leased before.
    #[serde(rename = "reused_total")]
    pub reused: u64,
    /// The share of checkouts that got a connection that had been leased before, 0 to 1.
    #[serde(rename = "reuse_ratio")]
    pub reuse_rate: f64,
    /// How long callers waited for their lease.
    pub wait: Quantiles,
    /// How long leases lasted.
    pub usage: Quantiles,
    /// How long connects took.
    pub connect: Quantiles,
    /// Checkouts that were refused: the queue was full, the circuit was open, or there was no server.
    #[serde(rename = "refused_total")]
    pub refused: u64,
    /// Checkouts whose deadline passed while they waited.
    #[serde(rename = "timed_out_total")]
    pub timed_out: u64,
    /// Connects that failed.
    #[serde(rename = "failed_total")]
    pub failed: u64,
    /// Connects that were tried after a failed one.
    #[serde(rename = "retries_total")]
    pub retries: u64,
    /// Leases that lasted too long, so far.
    #[serde(rename = "leaks_total")]
    pub leaks: u64,
    /// The places that hold a lease for too long now.
    pub leaked: Vec<Holder>,
    /// The circuit.
    pub circuit: CircuitStatus,
    /// Why the last failed connect failed.
    pub last_error: Option<String>,
}
