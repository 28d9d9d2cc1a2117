//! How a call is served: which providers get it, and which answer counts.
//!
//! Everything runs on the thread of the chain's owner, one task for each request.

mod attempts;
mod hedging;
mod logs;
mod metrics;
mod publish;
mod quorum;
mod selection;
mod standings;
mod upstream;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::hedging::HedgeBudget;
pub use self::metrics::METRICS;
pub(super) use self::upstream::Upstream;
use super::config::{ChainConfig, SelectionConfig};
use super::error::ChainError;
use super::methods::{Depends, Effect, Method};
use super::provider::{self, Standing, Unused};
use super::rpc::{Call, Outcome};
use crate::kernel::Buffers;

/// Calls of one request that run at once.
const BATCH_AT_ONCE: usize = 64;

/// What serves the calls of a chain.
pub(super) struct Serving {
    config: Arc<ChainConfig>,
    upstreams: Vec<Upstream>,
    buffers: Arc<dyn Buffers>,
    /// The provider that is asked first.
    first: Cell<Option<usize>>,
    hedges: HedgeBudget,
    /// How many blocks one search for logs has at most, as providers have shown.
    logs_blocks: Cell<u64>,
    /// Transactions on their way to further providers, after the first has taken them.
    publishing: RefCell<JoinSet<()>>,
}

/// What a provider must have for a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Needs {
    /// The block that it must have.
    pub(super) head_min: Option<u64>,
    /// The block whose state it must have.
    pub(super) state_of: Option<u64>,
    /// Whether what is asked for exists, so that `null` means that the provider does not have it.
    pub(super) must_exist: bool,
}

impl Needs {
    fn check(&self, standing: &Standing, lag: u64, config: &SelectionConfig) -> Result<(), Unused> {
        if lag > config.lag_max {
            return Err(Unused::Behind { blocks: lag });
        }
        let head = standing.head.as_ref().map(|head| head.number);
        if let (Some(needed), Some(head)) = (self.head_min, head)
            && head < needed
        {
            return Err(Unused::Behind {
                blocks: needed - head,
            });
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
        buffers: Arc<dyn Buffers>,
    ) -> Self {
        Self {
            hedges: HedgeBudget::new(config.selection.hedge_share),
            logs_blocks: Cell::new(logs::blocks_at_first(&config)),
            config,
            upstreams,
            buffers,
            first: Cell::new(None),
            publishing: RefCell::new(JoinSet::new()),
        }
    }

    /// Serves the calls of one request.
    pub(super) async fn serve(
        self: &Rc<Self>,
        calls: &[Arc<Call>],
        deadline: Instant,
    ) -> Vec<Result<Outcome, ChainError>> {
        let served = stream::iter(calls).map(|call| self.serve_one(call, deadline));
        served.buffered(BATCH_AT_ONCE).collect().await
    }

    /// The chain's name.
    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// The time between two blocks.
    pub(super) fn block_time(&self) -> Duration {
        self.config.block_time
    }

    /// Whether a block with this number is not the newest.
    pub(super) fn is_behind(&self, number: u64) -> bool {
        self.head().is_some_and(|head| number < head)
    }

    /// Asks on behalf of the gateway itself: any provider.
    pub(super) async fn ask(
        &self,
        call: &Arc<Call>,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        let method = Method::of(&call.method);
        let needs = Needs::default();
        let answer = self.attempt(call, method, &needs, deadline).await?;
        Ok(answer.outcome)
    }

    /// Asks the best provider on behalf of the gateway itself. Returns which one it is.
    pub(super) async fn ask_best(
        &self,
        method: &str,
        params: &'static str,
        deadline: Instant,
    ) -> Option<(usize, Outcome)> {
        let call = Arc::new(Call {
            method: method.into(),
            params: Bytes::from_static(params.as_bytes()),
        });
        let needs = Needs::default();
        let answer = self.attempt(&call, Method::of(method), &needs, deadline);
        let answer = answer.await.ok()?;
        Some((answer.provider?, answer.outcome))
    }

    /// Asks this provider on behalf of the gateway itself.
    pub(super) async fn ask_one(
        &self,
        provider: usize,
        method: &str,
        params: String,
        deadline: Instant,
    ) -> Option<Outcome> {
        let call = Arc::new(Call {
            method: method.into(),
            params: params.into(),
        });
        let method = Method::of(method);
        let (_, answer) = self.send_to(&call, method, provider, deadline).await;
        answer.ok()
    }

    async fn serve_one(
        self: &Rc<Self>,
        call: &Arc<Call>,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        let method = Method::of(&call.method);
        self.check_allowed(call, method)?;
        let answered = async {
            let needs = Needs::default();
            if let Some(quorum) = self.quorum_of(&call.method) {
                return self.agree(call, method, quorum, &needs, deadline).await;
            }
            match method.effect {
                Effect::Publishes => self.publish(call, deadline).await,
                Effect::Reads(Depends::Range) => self.logs(call, method, deadline).await,
                Effect::Subscribes => Err(ChainError::Invalid(
                    "subscriptions need a WebSocket, and a message of their own",
                )),
                _ => {
                    let answer = self.attempt(call, method, &needs, deadline).await;
                    answer.map(|answer| answer.outcome)
                }
            }
        };
        let answered = tokio::time::timeout_at(deadline, answered).await;
        answered.unwrap_or(Err(ChainError::Deadline))
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

    /// How many blocks a provider with this head is behind. One that has told none counts as not behind.
    fn lag(&self, head: Option<u64>) -> u64 {
        match (self.head(), head) {
            (Some(chain), Some(own)) => chain.saturating_sub(own),
            _ => 0,
        }
    }

    /// The number of the newest block.
    fn head(&self) -> Option<u64> {
        let heads = self.upstreams.iter().filter_map(|upstream| {
            let told = upstream.told.borrow();
            told.as_ref().map(|head| head.number)
        });
        heads.max()
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
