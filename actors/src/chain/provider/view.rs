//! What others may know of a provider without a call.

use std::time::Duration;

use tokio::time::Instant;

use super::fault::Unused;
use crate::chain::block::Block;
use crate::chain::methods::Weight;

/// The newest block of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The block.
    pub block: Block,
    /// When the provider told it.
    pub seen_at: Instant,
}

/// How a provider does, for calls of one weight. What is not known yet is `None`.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// The average time of an answer, of which newer ones count more.
    pub latency: Option<Duration>,
    /// The time in which 95 of 100 calls were answered.
    pub p95: Option<Duration>,
    /// The share of calls that failed lately, 0 to 1.
    pub error_rate: f64,
    /// The share of calls that were throttled lately, 0 to 1.
    pub throttle_rate: f64,
    /// Calls that it has now.
    pub in_flight: u32,
    /// Its newest block.
    pub head: Option<Head>,
    /// The oldest block whose state it is known to have. `None` while it was never found lacking.
    pub oldest_state: Option<u64>,
}

/// What is known of a provider whether or not somebody wants to use it.
#[derive(Debug, Clone)]
pub struct Glance {
    /// Why no call may be sent to it.
    pub unused: Option<Unused>,
    /// The number of its newest final block, if it tells it.
    pub finalized: Option<u64>,
}

/// What others may know of a provider without a call. Clones share it.
pub trait View: Send + Sync {
    /// Somebody wants to use it: it is looked after from now on.
    fn touch(&self, now: Instant);

    /// Somebody needs it, since no other provider serves the chain: if it is not used because it has failed, it is checked
    /// soon.
    fn hurry(&self, now: Instant);

    /// What is known of it. It is not looked after because of that.
    fn glance(&self, now: Instant) -> Glance;

    /// Whether a call of `method` may be sent to it now, and how it does with such calls. It is looked after from now on.
    ///
    /// # Errors
    /// Why it may not.
    fn standing(&self, method: &str, weight: Weight, now: Instant) -> Result<Standing, Unused>;
}
