//! The task that follows the transactions that wait for a block, as long as somebody wants to know them.
//!
//! Each provider sees other ones, and tells them only to whom it has given a filter. The filter of one provider is read
//! until that provider fails; then another one gives one. Hashes that were told lately are not told again.

use std::cell::{Cell, Ref, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Serving;
use super::attempts::Answer;
use crate::chain::error::ChainError;
use crate::chain::pending::{PendingHashes, TransactionHash, Wanted};
use crate::chain::rpc::Outcome;

/// How long one question may take.
const WITHIN: Duration = Duration::from_secs(10);
/// The time between two readings of the filter.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The time before another filter is made after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// The transactions that wait for a block.
#[derive(Default)]
pub(super) struct Pending {
    hashes: RefCell<PendingHashes>,
    /// The number of the next hash, for those who wait for it.
    next: watch::Sender<u64>,
    wanted: RefCell<Weak<Wanted>>,
    /// Whether the task runs.
    is_followed: Cell<bool>,
    state: watch::Sender<State>,
    task: RefCell<JoinSet<()>>,
}

/// Whether what happens from now on is told.
#[derive(Debug, Clone, Default)]
enum State {
    /// That is not known yet.
    #[default]
    Begun,
    Told,
    /// It is tried again.
    Failed(ChainError),
}

/// The filter of a provider.
struct ProviderFilter {
    provider: usize,
    id: Bytes,
}

impl Serving {
    /// Follows the transactions that wait for a block, until the last one drops what this returns.
    pub(in crate::chain) fn want_pending(self: &Rc<Self>) -> Result<Rc<Wanted>, ChainError> {
        let pending = &self.pending;
        if let Some(wanted) = pending.wanted.borrow().upgrade() {
            return Ok(wanted);
        }
        let wanted = Rc::new(Wanted::new(self.take_memory(Wanted::BYTES)?));
        pending.wanted.replace(Rc::downgrade(&wanted));
        if !pending.is_followed.replace(true) {
            let mut task = pending.task.borrow_mut();
            while task.try_join_next().is_some() {}
            task.spawn_local(follow(Rc::downgrade(self)));
        }
        Ok(wanted)
    }

    /// Resolves when what happens from then on is told, or when no provider tells it.
    pub(in crate::chain) fn pending_ready(
        &self,
    ) -> impl Future<Output = Result<(), ChainError>> + use<> {
        let mut state = self.pending.state.subscribe();
        async move {
            let state = state.wait_for(|state| !matches!(state, State::Begun));
            match state.await.as_deref() {
                Ok(State::Failed(error)) => Err(error.clone()),
                _ => Ok(()),
            }
        }
    }

    /// The hashes of late.
    pub(in crate::chain) fn pending_hashes(&self) -> Ref<'_, PendingHashes> {
        self.pending.hashes.borrow()
    }

    /// The number of the next hash, as it grows.
    pub(in crate::chain) fn pending_next(&self) -> watch::Receiver<u64> {
        self.pending.next.subscribe()
    }

    async fn make_filter(&self) -> Result<ProviderFilter, ChainError> {
        let deadline = Instant::now() + WITHIN;
        let method = "eth_newPendingTransactionFilter";
        match self.ask_best(method, "[]", deadline).await? {
            Answer {
                outcome: Outcome::Result(id),
                provider: Some(provider),
                ..
            } => Ok(ProviderFilter { provider, id }),
            _ => Err(ChainError::Unsupported {
                method: method.into(),
            }),
        }
    }

    /// Takes what is new. The filter, unless it is lost.
    async fn read_filter(&self, filter: ProviderFilter) -> Option<ProviderFilter> {
        let deadline = Instant::now() + WITHIN;
        let params = format!("[{}]", str::from_utf8(&filter.id).ok()?);
        let method = "eth_getFilterChanges";
        let answer = self.ask_one(filter.provider, method, params, deadline);
        let Some(Outcome::Result(text)) = answer.await else {
            return None;
        };
        let texts: Vec<&str> = serde_json::from_slice(&text).ok()?;
        let mut hashes = self.pending.hashes.borrow_mut();
        let read = texts.into_iter().filter_map(TransactionHash::parse);
        read.for_each(|hash| hashes.add(hash));
        self.pending.next.send_replace(hashes.next());
        Some(filter)
    }
}

impl Pending {
    /// Ends the task if nobody wants to know them any longer. Returns whether it does.
    fn end(&self) -> bool {
        if self.wanted.borrow().strong_count() > 0 {
            return false;
        }
        self.is_followed.set(false);
        self.state.send_replace(State::Begun);
        self.hashes.borrow_mut().clear();
        true
    }
}

async fn follow(serving: Weak<Serving>) {
    let mut filter = None;
    loop {
        let Some(serving) = serving.upgrade() else {
            return;
        };
        if serving.pending.end() {
            return;
        }
        let state;
        (filter, state) = match filter {
            Some(filter) => match serving.read_filter(filter).await {
                Some(filter) => (Some(filter), State::Told),
                None => (None, State::Begun),
            },
            None => match serving.make_filter().await {
                Ok(filter) => (Some(filter), State::Told),
                Err(error) => (None, State::Failed(error)),
            },
        };
        serving.pending.state.send_replace(state);
        drop(serving);
        sleep(if filter.is_some() { LOOK_EVERY } else { PAUSE }).await;
    }
}
