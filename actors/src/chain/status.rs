//! What the API and the page show of a chain.

use serde::Serialize;
use utoipa::ToSchema;

/// The state of a chain that is open.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChainStatus {
    /// The number of the newest block that its providers agree on.
    pub head: Option<u64>,
    /// The hash of this block.
    pub head_hash: Option<String>,
    /// The number of the newest final block.
    pub finalized: Option<u64>,
    /// Seconds since a provider told this head first.
    pub head_age_seconds: Option<f64>,
    /// Its providers, best first.
    pub providers: Vec<ProviderPlace>,
}

/// A provider as the chain sees it.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct ProviderPlace {
    /// Its name.
    pub name: String,
    /// The scheme, host and port of its URL.
    pub url: String,
    /// Whether it is used now.
    pub is_used: bool,
    /// Why it is not used.
    pub reason: Option<String>,
    /// Its score, if it is used: 0 is best.
    pub score: Option<f64>,
    /// How many blocks it is behind the chain's head.
    pub lag_blocks: Option<u64>,
    /// Its newest block.
    pub head: Option<u64>,
    /// The average time of an answer, in seconds.
    pub latency_seconds: Option<f64>,
    /// The time in which 95 of 100 light calls were answered, in seconds.
    pub latency_p95_seconds: Option<f64>,
    /// The share of calls that failed lately.
    pub error_rate: f64,
    /// The share of calls that were throttled lately.
    pub throttle_rate: f64,
    /// Calls that it has now.
    pub in_flight: u32,
}
