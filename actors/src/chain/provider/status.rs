//! What operators see of a provider.

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::fault::Unused;
use super::figures::{CallCounts, Latencies};
use super::shared::Shared;
use super::view::Head;
use crate::chain::methods::Weight;
use crate::kernel::{Clock, Timestamp};

/// Whether a provider is used, or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderState {
    /// It is used.
    Ready,
    /// An operator has taken it out of use.
    Drained,
    /// It serves another chain.
    WrongChain,
    /// It has not told its chain yet.
    Unchecked,
    /// Too many calls failed.
    CircuitOpen,
    /// It is synchronising.
    Syncing,
    /// It throttles, or its rate is used up.
    Throttled,
    /// It has as many requests as it may have.
    Full,
}

impl From<&Unused> for ProviderState {
    fn from(unused: &Unused) -> Self {
        match unused {
            Unused::Drained => Self::Drained,
            Unused::WrongChain { .. } => Self::WrongChain,
            Unused::Unchecked { .. } => Self::Unchecked,
            Unused::CircuitOpen { .. } => Self::CircuitOpen,
            Unused::Syncing => Self::Syncing,
            Unused::Throttled { .. } => Self::Throttled,
            Unused::Full => Self::Full,
            // What a call or the chain needs, not the provider.
            Unused::Unsupported | Unused::Behind { .. } | Unused::OtherBranch | Unused::Pruned => {
                Self::Ready
            }
        }
    }
}

/// The newest block of a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct HeadStatus {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: String,
    /// When the provider told it.
    pub seen_at: Timestamp,
}

impl HeadStatus {
    fn of(head: &Head, clock: &Clock) -> Self {
        Self {
            number: head.block.number,
            hash: head.block.hash.to_string(),
            seen_at: clock.time_of(head.seen_at),
        }
    }
}

/// How long calls take, by their weight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
pub struct LatenciesByWeight {
    /// Of look-ups, such as `eth_blockNumber`.
    pub light: Latencies,
    /// Of some work, such as `eth_call`.
    pub middle: Latencies,
    /// Of searches and traces, such as `eth_getLogs`.
    pub heavy: Latencies,
}

/// The rate of calls, in weight per second: a look-up counts 1, an `eth_call` 2, a search or a trace 8.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
pub struct RateStatus {
    /// The rate that holds. `null`: unlimited, until the provider refuses calls.
    pub now: Option<f64>,
    /// The rate of the settings.
    pub configured: Option<f64>,
    /// The rate that refusals of the provider taught. It rises again.
    pub learned: Option<f64>,
    /// The weight that can be sent at once now.
    pub left: Option<f64>,
    /// Time until the provider gets calls again, if it gets none.
    pub paused_seconds: Option<f64>,
}

/// What the provider was found not to have. Forgotten after an hour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Limits {
    /// Methods that it does not offer.
    pub unsupported_methods: Vec<String>,
    /// The oldest block whose state it may have.
    pub oldest_state: Option<u64>,
    /// The most blocks of one `eth_getLogs`.
    pub logs_range_max: Option<u64>,
    /// The most calls of one request.
    pub batch_max: usize,
}

/// The state of one provider.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ProviderStatus {
    /// Its name.
    pub name: String,
    /// The scheme, host and port of its URL.
    pub url: String,
    /// Whether it is used.
    pub state: ProviderState,
    /// Why it is not used.
    pub why: Option<String>,
    /// Why the last call failed that did. Kept when later ones succeed.
    pub last_fault: Option<String>,
    /// Its newest block.
    pub head: Option<HeadStatus>,
    /// Whether it tells new blocks by itself, over its WebSocket.
    pub subscribed: bool,
    /// The number of its newest final block, if it tells it.
    pub finalized: Option<u64>,
    /// How long calls take.
    pub latency: LatenciesByWeight,
    /// The share of calls of the last minute that failed, 0 to 1.
    pub error_rate: f64,
    /// The share of calls of the last minute that were throttled, 0 to 1.
    pub throttle_rate: f64,
    /// The calls of the last minute.
    pub last_minute: CallCounts,
    /// The calls since it was opened.
    pub total: CallCounts,
    /// Calls that it has now.
    pub calls_in_flight: u32,
    /// Requests that it has now.
    pub requests_in_flight: u32,
    /// Connections that were made.
    pub connects: u64,
    /// How many calls it may get.
    pub rate: RateStatus,
    /// What it was found not to have.
    pub limits: Limits,
}

impl Shared {
    pub(super) fn status(&self, now: Instant) -> ProviderStatus {
        let batch_max = self.batch_max(now);
        let (state, clock) = (self.state(), Clock::now());
        let mut unused = state.unused(now);
        if unused.is_none() && state.requests >= self.config.in_flight_max {
            unused = Some(Unused::Full);
        }
        let (error_rate, throttle_rate) = state.figures.rates();
        let (last_minute, total) = state.figures.counts();
        let paused = state.budget.refuses_until(now);
        let paused = paused.map(|until| until.saturating_duration_since(now).as_secs_f64());
        let unsupported = state.learned.unsupported_methods(now);
        ProviderStatus {
            name: self.config.name.clone(),
            url: self.config.url.shown(),
            state: unused.as_ref().map_or(ProviderState::Ready, Into::into),
            why: unused.as_ref().map(ToString::to_string),
            last_fault: state.last_fault.clone(),
            head: state.head.as_ref().map(|head| HeadStatus::of(head, &clock)),
            subscribed: state.subscribed,
            finalized: state.finalized,
            latency: LatenciesByWeight {
                light: state.figures.latencies(Weight::Light),
                middle: state.figures.latencies(Weight::Middle),
                heavy: state.figures.latencies(Weight::Heavy),
            },
            error_rate,
            throttle_rate,
            last_minute,
            total,
            calls_in_flight: state.calls,
            requests_in_flight: state.requests,
            connects: self.connects.load(std::sync::atomic::Ordering::SeqCst),
            rate: RateStatus {
                now: state.budget.rate(),
                configured: self.config.rate_max,
                learned: state.budget.learned(),
                left: state.budget.left(now),
                paused_seconds: paused,
            },
            limits: Limits {
                unsupported_methods: unsupported.map(ToString::to_string).collect(),
                oldest_state: state.oldest_state(now),
                logs_range_max: state.logs_range_max(&self.config, now),
                batch_max,
            },
        }
    }
}
