//! What the incarnations of a provider's actor and its [`View`] share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::circuit::Circuit;
use super::fault::Unused;
use super::figures::Figures;
use super::learned::Learned;
use super::metrics::Meters;
use super::rate::RateBudget;
use super::view::{Glance, Head, Standing, View};
use crate::chain::config::ProviderConfig;
use crate::chain::methods::Weight;

/// A provider that nobody asked about for so long is not looked after, until somebody does.
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(60);

/// How often a provider that has failed is checked while no other one serves the chain.
const HURRIED_EVERY: Duration = Duration::from_millis(250);

/// A secret that is shorter could be a part of any text.
const SECRET_MIN: usize = 6;

/// What is known of the chain that a provider serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    Unknown,
    Right,
    Wrong(u64),
}

#[derive(Debug)]
pub(super) struct State {
    drained: Arc<AtomicBool>,
    pub(super) served: Served,
    /// The connections that were there before the provider last told its chain.
    pub(super) verified: u64,
    pub(super) syncing: bool,
    pub(super) head: Option<Head>,
    pub(super) finalized: Option<u64>,
    pub(super) budget: RateBudget,
    pub(super) circuit: Circuit,
    pub(super) figures: Figures,
    pub(super) learned: Learned,
    pub(super) calls: u32,
    pub(super) requests: u32,
    /// Whether calls wait for others that go with them.
    pub(super) gathers: bool,
    /// Whether its WebSocket tells new blocks.
    pub(super) subscribed: bool,
    pub(super) used_at: Instant,
    /// When the last check of it has ended.
    pub(super) checked_at: Option<Instant>,
    pub(super) last_fault: Option<String>,
}

/// See the module.
pub(super) struct Shared {
    pub(super) chain: Arc<str>,
    pub(super) config: ProviderConfig,
    pub(super) chain_id: u64,
    pub(super) block_time: Duration,
    pub(super) drained: Arc<AtomicBool>,
    pub(super) heads: watch::Sender<Option<Head>>,
    /// Connections since the server started.
    pub(super) connects: Arc<AtomicU64>,
    /// Held while the provider is asked for its chain.
    pub(super) checking: tokio::sync::Mutex<()>,
    /// Wakes the one who looks after the provider.
    pub(super) woken: Notify,
    /// Wakes the one who follows its WebSocket.
    pub(super) used_again: Notify,
    pub(super) meters: Meters,
    /// Parts of the URL and of headers that no text may contain.
    pub(super) secrets: Vec<String>,
    next_id: AtomicU64,
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new(
        chain: Arc<str>,
        config: ProviderConfig,
        chain_id: u64,
        block_time: Duration,
        drained: Arc<AtomicBool>,
        heads: watch::Sender<Option<Head>>,
    ) -> Self {
        let now = Instant::now();
        let state = State {
            drained: Arc::clone(&drained),
            served: Served::Unknown,
            verified: 0,
            syncing: false,
            head: None,
            finalized: None,
            budget: RateBudget::new(config.rate_max, now),
            circuit: Circuit::default(),
            figures: Figures::new(),
            learned: Learned::default(),
            calls: 0,
            requests: 0,
            gathers: false,
            subscribed: false,
            used_at: now,
            checked_at: None,
            last_fault: None,
        };
        Self {
            meters: Meters::new(&chain, &config.name),
            secrets: secrets(&config),
            chain,
            config,
            chain_id,
            block_time,
            drained,
            heads,
            connects: Arc::default(),
            checking: tokio::sync::Mutex::new(()),
            woken: Notify::new(),
            used_again: Notify::new(),
            next_id: AtomicU64::new(1),
            state: Mutex::new(state),
        }
    }

    /// Each use is complete in itself, so a panic elsewhere harms nothing.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first of so many ids that no other call has.
    pub(super) fn ids(&self, count: usize) -> u64 {
        self.next_id.fetch_add(count as u64, SeqCst)
    }

    /// Takes a place, and the weight from the rate, for a call that is about to be sent. Nothing waits.
    ///
    /// # Errors
    /// Why it may not be sent.
    pub(super) fn admit(
        self: &Arc<Self>,
        method: &str,
        weight: Weight,
        now: Instant,
    ) -> Result<CallGuard, Unused> {
        self.touch(now);
        let mut state = self.state();
        state.refusal(method, self.config.in_flight_max, now)?;
        let taken = state.budget.take(weight, now);
        taken.map_err(|until| Unused::Throttled { until })?;
        state.calls += 1;
        self.meters.in_flight(state.calls);
        Ok(CallGuard(Arc::clone(self)))
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn begin_request(self: &Arc<Self>) -> RequestGuard {
        self.state().requests += 1;
        RequestGuard(Arc::clone(self))
    }

    pub(super) fn wake(&self) {
        self.woken.notify_one();
        self.used_again.notify_one();
    }

    /// The circuit has opened, because of this fault.
    pub(super) fn circuit_has_opened(&self, fault: &str) {
        let (chain, provider) = (&*self.chain, &*self.config.name);
        tracing::warn!(
            chain,
            provider,
            fault,
            "too many calls fail: a provider is not used"
        );
        // It is probed when that is due, and not with the next block.
        self.woken.notify_one();
    }

    /// The most calls of one batch now.
    pub(super) fn batch_max(&self, now: Instant) -> usize {
        let learned = self.state().learned.batch_max(now).unwrap_or(u32::MAX);
        self.config.batch_max.min(learned).max(1) as usize
    }
}

impl State {
    pub(super) fn is_drained(&self) -> bool {
        self.drained.load(SeqCst)
    }

    pub(super) fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used_at) > IDLE_AFTER
    }

    /// Why a call of `method` may not be sent.
    pub(super) fn refusal(
        &self,
        method: &str,
        in_flight_max: u32,
        now: Instant,
    ) -> Result<(), Unused> {
        self.unused(now).map_or(Ok(()), Err)?;
        // A call that goes with others needs no request of its own.
        if self.requests >= in_flight_max && !self.gathers {
            return Err(Unused::Full);
        }
        if self.learned.is_unsupported(method, now) {
            return Err(Unused::Unsupported);
        }
        Ok(())
    }

    /// Why the provider is not used for any call.
    pub(super) fn unused(&self, now: Instant) -> Option<Unused> {
        if self.is_drained() {
            return Some(Unused::Drained);
        }
        match self.served {
            Served::Wrong(found) => return Some(Unused::WrongChain { found }),
            Served::Unknown => {
                let fault = self.last_fault.clone();
                return Some(Unused::Unchecked { fault });
            }
            Served::Right => {}
        }
        if let Some(until) = self.circuit.open_until() {
            return Some(Unused::CircuitOpen { until });
        }
        if self.syncing {
            return Some(Unused::Syncing);
        }
        let until = self.budget.refuses_until(now)?;
        Some(Unused::Throttled { until })
    }

    pub(super) fn oldest_state(&self, now: Instant) -> Option<u64> {
        let head = self.head.as_ref()?;
        self.learned.oldest_state(head.block.number, now)
    }

    pub(super) fn logs_range_max(&self, config: &ProviderConfig, now: Instant) -> Option<u64> {
        match (config.logs_range_max, self.learned.logs_range_max(now)) {
            (Some(configured), Some(learned)) => Some(configured.min(learned)),
            (configured, learned) => configured.or(learned),
        }
    }
}

impl View for Arc<Shared> {
    fn touch(&self, now: Instant) {
        let mut state = self.state();
        let was_idle = state.is_idle(now);
        state.used_at = now;
        drop(state);
        if was_idle {
            self.wake();
        }
    }

    fn hurry(&self, now: Instant) {
        let mut state = self.state();
        let was_checked_at = state.checked_at;
        if was_checked_at.is_some_and(|at| now.saturating_duration_since(at) < HURRIED_EVERY) {
            return;
        }
        let is_wanted = state.circuit.hurry(now) || state.served != Served::Right;
        drop(state);
        if is_wanted {
            self.woken.notify_one();
        }
    }

    fn glance(&self, now: Instant) -> Glance {
        let state = self.state();
        Glance {
            unused: state.unused(now),
            finalized: state.finalized,
        }
    }

    fn standing(&self, method: &str, weight: Weight, now: Instant) -> Result<Standing, Unused> {
        self.touch(now);
        let state = self.state();
        state.refusal(method, self.config.in_flight_max, now)?;
        let (error_rate, throttle_rate) = state.figures.rates();
        Ok(Standing {
            latency: state.figures.average(weight),
            p95: state.figures.p95(weight),
            error_rate,
            throttle_rate,
            in_flight: state.calls,
            head: state.head,
            oldest_state: state.oldest_state(now),
        })
    }
}

/// A call that counts as in flight.
pub(super) struct CallGuard(Arc<Shared>);

impl Drop for CallGuard {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.calls -= 1;
        self.0.meters.in_flight(state.calls);
    }
}

/// A request that counts as in flight.
pub(super) struct RequestGuard(Arc<Shared>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.state().requests -= 1;
    }
}

/// The parts of the settings that no text may contain: long parts of the path, values of the query, the user, values of
/// headers.
fn secrets(config: &ProviderConfig) -> Vec<String> {
    let mut secrets: Vec<String> = Vec::new();
    for url in [Some(&config.url), config.ws_url.as_ref()]
        .into_iter()
        .flatten()
    {
        let (_, rest) = url.expose().split_once("://").unwrap_or_default();
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        let parts = path.split(['/', '?', '&', '#']).chain(user.split(':'));
        secrets.extend(
            parts
                .flat_map(|part| part.rsplit('=').next())
                .map(str::to_owned),
        );
    }
    let values = config.headers.iter().map(|(_, value)| value.expose());
    secrets.extend(
        values
            .flat_map(|value| value.split(' ').next_back())
            .map(str::to_owned),
    );
    secrets.retain(|secret| secret.len() >= SECRET_MIN);
    secrets
}
