//! How a call is served: which providers get it, and which answer counts.
//!
//! Everything runs on the thread of the chain's owner, one task for each request.

mod attempts;
mod filtering;
mod following;
mod hedging;
mod kept;
mod logs;
mod metrics;
mod pending;
mod publish;
mod quorum;
mod reading;
mod selection;
mod standings;
mod upstream;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::attempts::Answer;
use self::following::OneAtATime;
use self::hedging::HedgeBudget;
use self::kept::{FlightKey, Told};
pub use self::metrics::{METRICS, start_at_zero};
use self::pending::Pending;
use self::reading::Newest;
pub(super) use self::upstream::Upstream;
use super::cache::{self, Cache, CacheConfig, SharedAnswers};
use super::chains::ChainDeps;
use super::config::{ChainConfig, SelectionConfig};
use super::error::ChainError;
use super::filters::{Filters, FiltersConfig};
use super::flights::Flights;
use super::heads::{Heads, HeadsConfig};
use super::methods::{Depends, Effect, Method};
use super::provider::{self, Head, Standing, Unused};
use super::rpc::{Call, Outcome};
use crate::kernel::pressure::Pressure;
use crate::kernel::{BufferReservation, Buffers, SharedStore};

/// Calls of one request that run at once.
const BATCH_AT_ONCE: usize = 64;
/// Different calls that equal ones may join, and how many may join one.
const FLIGHTS_MAX: usize = 16 * 1024;
const FOLLOWERS_MAX: usize = 16 * 1024;
/// Answers that are removed before others have their turn on the thread.
const SHRUNK_AT_ONCE: usize = 4096;
/// Tasks of the chain itself, beside the calls.
const TASKS_MAX: usize = 256;

/// What serves the calls of a chain.
pub(super) struct Serving {
    config: Arc<ChainConfig>,
    upstreams: Vec<Upstream>,
    buffers: Arc<dyn Buffers>,
    /// The provider that is asked first.
    first: Cell<Option<usize>>,
    /// Since when no provider could be used, if that is so.
    unusable_since: Cell<Option<Instant>>,
    hedges: HedgeBudget,
    /// How many blocks providers have searched at once lately.
    logs_blocks: Cell<u64>,
    heads: RefCell<Heads>,
    /// How many blocks after the agreed head an answer may reveal: a provider that errs must not hold up calls.
    revealed_max: u64,
    /// When a provider has told a head last.
    head_told_at: watch::Sender<Option<Instant>>,
    /// Until when calls wait for that, since they have begun to.
    head_awaited_until: Cell<Option<Instant>>,
    /// Notified when there is a new head.
    new_head: Notify,
    fills_gap: OneAtATime,
    catches_up: OneAtATime,
    looks_for_first: OneAtATime,
    cache: RefCell<Cache>,
    /// Where final answers are kept for other servers too. Used once the first block of the chain is known.
    shared_store: Option<Arc<dyn SharedStore>>,
    shared: RefCell<Option<SharedAnswers>>,
    /// Whether what other servers have stored as final was found wrong.
    is_shared_wrong: Cell<bool>,
    flights: RefCell<Flights<FlightKey, oneshot::Sender<Told>>>,
    filters: RefCell<Filters>,
    pending: Pending,
    /// What runs beside the calls: transactions on their way to further providers, and searches for blocks.
    tasks: RefCell<JoinSet<()>>,
}

/// What a provider must have for a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Needs {
    /// The block that it must have.
    pub(super) head_min: Option<u64>,
    /// The block whose state it must have.
    pub(super) state_of: Option<u64>,
    /// Whether it may be on another branch than the chain.
    pub(super) any_branch: bool,
    /// Whether what is asked for exists, so that `null` means that the provider does not have it.
    pub(super) must_exist: bool,
    /// Whether the call names a block that the chain has.
    pub(super) names_known_block: bool,
    /// Whether another provider may know what one does not, as an old transaction that is not in its index.
    pub(super) may_be_elsewhere: bool,
}

impl Needs {
    /// Nothing, not even that it is on the chain's branch.
    fn on_any_branch() -> Self {
        Self {
            any_branch: true,
            ..Self::default()
        }
    }

    /// Whether a provider has it. `revealed` is the newest block of its answers.
    fn check(
        &self,
        standing: &Standing,
        revealed: u64,
        lag: u64,
        config: &SelectionConfig,
    ) -> Result<(), Unused> {
        if lag > config.lag_max {
            return Err(Unused::Behind { blocks: lag });
        }
        let head = standing.head.as_ref();
        let head = head.map(|head| head.block.number.max(revealed));
        // One that has told no head counts as one without blocks.
        if let Some(needed) = self.head_min
            && head.unwrap_or_default() < needed
        {
            let blocks = needed - head.unwrap_or_default();
            return Err(Unused::Behind { blocks });
        }
        match (self.state_of, standing.oldest_state) {
            (Some(needed), Some(oldest)) if needed < oldest => Err(Unused::Pruned),
            _ => Ok(()),
        }
    }
}

impl Serving {
    pub(super) fn new(
        config: Arc<ChainConfig>,
        upstreams: Vec<Upstream>,
        deps: &ChainDeps,
    ) -> Self {
        let buffers = Arc::clone(&deps.buffers);
        let chain: Arc<str> = config.name.as_str().into();
        let heads = HeadsConfig::of(&config);
        let cache = CacheConfig::new(config.cache_max, config.block_time);
        let shared = cache::shared_calls(&chain);
        Self {
            hedges: HedgeBudget::new(config.selection.hedge_share),
            logs_blocks: Cell::new(logs::blocks_at_first(&config)),
            revealed_max: heads.lead_max,
            heads: RefCell::new(Heads::new(heads)),
            head_told_at: watch::Sender::new(None),
            head_awaited_until: Cell::new(None),
            new_head: Notify::new(),
            fills_gap: OneAtATime::default(),
            catches_up: OneAtATime::default(),
            looks_for_first: OneAtATime::default(),
            cache: RefCell::new(Cache::new(&chain, cache, Arc::clone(&buffers))),
            shared_store: deps.shared.clone(),
            shared: RefCell::new(None),
            is_shared_wrong: Cell::new(false),
            flights: RefCell::new(Flights::new(FLIGHTS_MAX, FOLLOWERS_MAX, shared)),
            filters: RefCell::new(Filters::new(FiltersConfig::default(), Arc::clone(&buffers))),
            pending: Pending::default(),
            config,
            upstreams,
            buffers,
            first: Cell::new(None),
            unusable_since: Cell::new(None),
            tasks: RefCell::new(JoinSet::new()),
        }
    }

    /// Serves the calls of one request. They all see the same newest block.
    pub(super) async fn serve(
        self: &Rc<Self>,
        calls: &[Arc<Call>],
        caller: &Arc<str>,
        deadline: Instant,
    ) -> Vec<Result<Outcome, ChainError>> {
        let newest = self.newest_for(calls, deadline).await;
        let served = stream::iter(calls);
        let served = served.map(|call| self.serve_one(call, caller, newest, deadline));
        served.buffered(BATCH_AT_ONCE).collect().await
    }

    /// Reserves memory that is used from now on.
    pub(super) fn take_memory(&self, bytes: u64) -> Result<BufferReservation, ChainError> {
        self.buffers.take(bytes).map_err(|_| ChainError::Memory)
    }

    /// The chain's name.
    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// The time between two blocks.
    pub(super) fn block_time(&self) -> Duration {
        self.config.block_time
    }

    /// Asks on behalf of the gateway itself, for something that exists: any provider that has it, and the block `head_min`.
    pub(super) async fn ask(
        &self,
        call: &Arc<Call>,
        head_min: Option<u64>,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        let method = Method::of(&call.method);
        let needs = Needs {
            must_exist: true,
            head_min,
            names_known_block: head_min.is_some(),
            ..Needs::default()
        };
        let answer = self.attempt(call, method, &needs, deadline).await?;
        Ok(answer.outcome)
    }

    /// Asks the best provider on behalf of the gateway itself.
    async fn ask_best(
        &self,
        method: &str,
        params: &'static str,
        deadline: Instant,
    ) -> Result<Answer, ChainError> {
        let call = Arc::new(Call::new(method, params));
        let needs = Needs::default();
        self.attempt(&call, Method::of(method), &needs, deadline)
            .await
    }

    /// Asks this provider on behalf of the gateway itself.
    pub(super) async fn ask_one(
        &self,
        provider: usize,
        method: &str,
        params: String,
        deadline: Instant,
    ) -> Option<Outcome> {
        let call = Arc::new(Call::new(method, params));
        let method = Method::of(method);
        let (_, answer) = self.send_to(&call, method, provider, deadline).await;
        answer.ok()
    }

    async fn serve_one(
        self: &Rc<Self>,
        call: &Arc<Call>,
        caller: &Arc<str>,
        newest: Newest,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        let method = Method::of(&call.method);
        self.check_allowed(call, method)?;
        let answered = async {
            match method.effect {
                Effect::Publishes => self.publish(call, deadline).await,
                Effect::Filters => self.filter(call, caller, deadline).await,
                Effect::Reads(Depends::Range) => self.logs(call, newest, deadline).await,
                Effect::Reads(_) => {
                    let (call, reading) = self.reading(call, method, newest);
                    match self.quorum_of(&call.method) {
                        Some(quorum) => {
                            let needs = &reading.needs;
                            let agreed = self.agree(&call, method, quorum, needs, deadline).await;
                            agreed.map(|answer| answer.outcome)
                        }
                        None => {
                            let answer = self.read(&call, method, reading, deadline).await?;
                            Ok(match &*call.method {
                                "eth_blockNumber" => self.block_number(newest, answer.outcome),
                                _ => answer.outcome,
                            })
                        }
                    }
                }
                Effect::Subscribes => Err(ChainError::Invalid(
                    "subscriptions need a WebSocket, and a message of their own",
                )),
                Effect::Unknown | Effect::Forbidden => {
                    let needs = Needs::default();
                    let answer = self.attempt(call, method, &needs, deadline).await;
                    answer.map(|answer| answer.outcome)
                }
            }
        };
        let answered = tokio::time::timeout_at(deadline, answered).await;
        answered.unwrap_or(Err(ChainError::Deadline))
    }

    /// Whether a method is allowed here.
    pub(super) fn allows(&self, method: &str) -> bool {
        let call = Call::new(method, "");
        self.check_allowed(&call, Method::of(method)).is_ok()
    }

    fn check_allowed(&self, call: &Call, method: Method) -> Result<(), ChainError> {
        let is_in = |list: &[String]| list.iter().any(|name| **name == *call.method);
        let config = &self.config;
        let is_allowed = config.methods_allowed.is_empty() || is_in(&config.methods_allowed);
        let is_denied = is_in(&config.methods_denied) || method.effect == Effect::Forbidden;
        match is_allowed && !is_denied {
            true => Ok(()),
            false => Err(ChainError::Forbidden {
                method: Arc::clone(&call.method),
            }),
        }
    }

    /// How many blocks a provider is behind. One that has told none counts as not behind.
    fn lag(&self, upstream: &Upstream) -> u64 {
        let heads = self.heads.borrow();
        heads.lag(&upstream.name).unwrap_or_default()
    }

    /// The number of the newest block that providers agree on.
    fn agreed(&self) -> Option<u64> {
        self.heads.borrow().head().map(|head| head.number)
    }

    /// The newest block of each provider, as it tells them.
    pub(super) fn heads_told(&self) -> impl Iterator<Item = watch::Receiver<Option<Head>>> {
        self.upstreams.iter().map(|upstream| upstream.told.clone())
    }

    /// Runs something beside the calls. It ends with the chain. If there is too much of that, it is returned.
    fn spawn<T: Future<Output = ()> + 'static>(&self, task: T) -> Option<T> {
        let mut tasks = self.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= TASKS_MAX {
            return Some(task);
        }
        tasks.spawn_local(task);
        None
    }

    /// Takes the pressure on memory. Returns how many bytes of kept answers there should be now.
    pub(super) fn follow_pressure(&self, pressure: Pressure) -> u64 {
        self.cache.borrow_mut().follow_pressure(pressure)
    }

    /// Gives some memory of kept answers back, until they have so many bytes. Returns whether they have.
    pub(super) fn shrink(&self, bytes: u64) -> bool {
        let mut cache = self.cache.borrow_mut();
        let before = cache.bytes();
        cache.shrink(bytes, SHRUNK_AT_ONCE) || cache.bytes() == before
    }

    /// The memory of kept answers.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.cache.borrow().bytes()
    }

    /// Resolves when there is a new head.
    pub(super) async fn new_head(&self) {
        self.new_head.notified().await;
    }

    /// Takes a provider out of use, or back into use. Returns whether there is one of that name.
    pub(super) async fn set_drained(
        &self,
        provider: &str,
        is_drained: bool,
        within: Duration,
    ) -> bool {
        let mut upstreams = self.upstreams.iter();
        let Some(upstream) = upstreams.find(|it| *it.name == *provider) else {
            return false;
        };
        let set = upstream
            .handle
            .ask(provider::SetDrained(is_drained), within);
        set.await.is_ok()
    }
}
