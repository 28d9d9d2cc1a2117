//! Subscriptions to new blocks, logs and pending transactions.
//!
//! Why they are made here and not by a provider: a provider that ends takes its subscriptions along, and whoever
//! subscribes at another one learns of some blocks twice and of others never. Here the blocks are followed by their
//! parents' hashes (`trail`), from whichever provider answers: each block is told once and in order, blocks that were
//! missed are fetched, and after a reorganisation the logs that no longer hold are told with `removed`.
//!
//! One task follows the blocks of a chain while somebody subscribes to them. What it tells is told in a [`Round`], in which
//! other tasks of the thread have their turn, however many subscribe. A subscriber that reads too slowly finds a
//! gap in its queue; it then ends its connection.

mod filter;
mod follow;
mod pending;
mod subscribers;
mod trail;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{FutureExt, LocalBoxFuture, TryFutureExt};
use rand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::filter::{FilterFault, LogsFilter};
use self::subscribers::{Event, Subscriber, Subscribers};
use super::serving::Serving;
use crate::kernel::{BufferReservation, EventSender, reserved_bytes};

/// The most subscriptions of a chain.
const SUBSCRIPTIONS_MAX: usize = 16 * 1024;
/// What a subscription takes beside its filter: its places in maps.
const SUBSCRIPTION_BYTES: u64 = 512;
/// After so many blocks in a row whose bloom filters were wrong, none is believed for this time.
const BLOOMS_DENIED: u32 = 3;
const BLOOMS_WRONG_FOR: Duration = Duration::from_secs(600);
/// What the place of a notification takes in a queue.
const QUEUED_BYTES: usize = 64;
/// Subscribers that are looked at before other tasks have their turn on the thread.
const AT_ONCE: usize = 512;

/// What somebody subscribes to.
#[derive(Debug, Clone)]
pub enum Topic {
    /// The header of each new block.
    NewHeads,
    /// Logs of new blocks.
    Logs(LogsFilter),
    /// The hashes of transactions that wait for a block.
    NewPendingTransactions,
}

impl Topic {
    /// The memory of a subscription to it.
    fn bytes(&self) -> u64 {
        let filter = match self {
            Self::Logs(filter) => filter.bytes(),
            Self::NewHeads | Self::NewPendingTransactions => 0,
        };
        SUBSCRIPTION_BYTES + filter
    }
}

/// What a subscriber is told.
#[derive(Debug, Clone)]
pub struct Notification {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The text of `result`.
    pub result: Bytes,
}

/// The name of a subscription, which nobody else can guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(u128);

impl std::fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#034x}", self.0)
    }
}

impl std::str::FromStr for SubscriptionId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0x").unwrap_or_default();
        u128::from_str_radix(digits, 16).map(Self)
    }
}

/// Why somebody cannot subscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The settings do not allow it.
    #[error("the method eth_subscribe is not allowed here")]
    Forbidden,
    /// There are as many subscriptions as there may be.
    #[error("the chain has {SUBSCRIPTIONS_MAX} subscriptions, which is the most")]
    TooMany,
    /// There is no memory for it.
    #[error("there is no memory for the subscription now")]
    Memory,
    /// No provider tells the transactions that wait for a block.
    #[error("no provider of the chain tells pending transactions now")]
    NotTold,
}

/// The subscriptions of a chain.
pub(super) struct Hub {
    serving: Rc<Serving>,
    subscribers: RefCell<Subscribers>,
    /// Rounds that have begun.
    rounds: Cell<u64>,
    /// The tasks that follow what somebody subscribes to. They end with the hub.
    tasks: RefCell<JoinSet<()>>,
    blocks: Following,
    blooms: Blooms,
    /// Whether the task runs that tells pending transactions.
    tells_pending: Cell<bool>,
}

/// Whether something is followed.
#[derive(Default)]
struct Following {
    /// Whether its task runs.
    has_begun: Cell<bool>,
    /// Whether what happens from now on is told.
    is_ready: watch::Sender<bool>,
}

/// Whether the bloom filters of blocks say which of them have logs. Some chains fill them with anything.
#[derive(Default)]
struct Blooms {
    /// Blocks in a row that have no logs although their filters say so.
    denied: Cell<u32>,
    /// Until when no filter is believed.
    wrong_until: Cell<Option<Instant>>,
}

impl Blooms {
    fn are_believed(&self) -> bool {
        self.wrong_until
            .get()
            .is_none_or(|until| until <= Instant::now())
    }

    /// A block had logs, or none although its filter says so.
    fn learn(&self, has_logs: bool) {
        let denied = if has_logs { 0 } else { self.denied.get() + 1 };
        self.denied.set(denied);
        if denied >= BLOOMS_DENIED {
            self.denied.set(0);
            self.wrong_until
                .set(Some(Instant::now() + BLOOMS_WRONG_FOR));
        }
    }
}

impl Following {
    fn end(&self) {
        self.has_begun.set(false);
        self.is_ready.send_replace(false);
    }
}

impl Hub {
    pub(super) fn new(serving: Rc<Serving>) -> Self {
        Self {
            serving,
            subscribers: RefCell::default(),
            rounds: Cell::new(0),
            tasks: RefCell::new(JoinSet::new()),
            blocks: Following::default(),
            blooms: Blooms::default(),
            tells_pending: Cell::new(false),
        }
    }

    /// Subscribes. What is told goes to `sender`; its end ends the subscription.
    pub(super) fn subscribe(
        self: &Rc<Self>,
        topic: Topic,
        sender: Arc<EventSender<Notification>>,
    ) -> Result<SubscriptionId, SubscribeError> {
        if !self.serving.allows("eth_subscribe") {
            return Err(SubscribeError::Forbidden);
        }
        let mut subscribers = self.subscribers.borrow_mut();
        subscribers.forget_closed();
        if subscribers.len() >= SUBSCRIPTIONS_MAX {
            return Err(SubscribeError::TooMany);
        }
        let memory = self.serving.take_memory(topic.bytes());
        let id = SubscriptionId(rand::rng().random());
        let is_pending = matches!(topic, Topic::NewPendingTransactions);
        let wanted = is_pending.then(|| self.serving.want_pending());
        let subscriber = Subscriber {
            topic,
            sender,
            rounds: self.rounds.get(),
            _wanted: wanted.transpose().map_err(|_| SubscribeError::Memory)?,
            _memory: memory.map_err(|_| SubscribeError::Memory)?,
        };
        subscribers.insert(id, subscriber);
        drop(subscribers);
        // A task holds the hub weakly: it ends with the last subscriber, or with the hub.
        let (hub, mut tasks) = (Rc::downgrade(self), self.tasks.borrow_mut());
        while tasks.try_join_next().is_some() {}
        if is_pending && !self.tells_pending.replace(true) {
            let next = self.serving.pending_hashes().next();
            tasks.spawn_local(pending::tell(hub, next));
        } else if !is_pending && !self.blocks.has_begun.replace(true) {
            tasks.spawn_local(follow::follow(hub));
        }
        Ok(id)
    }

    /// Resolves when what happens from then on is told, or cannot be told.
    pub(super) fn ready(
        &self,
        topic: &Topic,
    ) -> LocalBoxFuture<'static, Result<(), SubscribeError>> {
        match topic {
            Topic::NewPendingTransactions => {
                let ready = self.serving.pending_ready();
                ready.map_err(|_| SubscribeError::NotTold).boxed_local()
            }
            Topic::NewHeads | Topic::Logs(_) => {
                let mut is_ready = self.blocks.is_ready.subscribe();
                async move {
                    drop(is_ready.wait_for(|is_ready| *is_ready).await);
                    Ok(())
                }
                .boxed_local()
            }
        }
    }

    /// Ends a subscription. Returns whether there was one.
    pub(super) fn unsubscribe(&self, id: SubscriptionId) -> bool {
        self.subscribers.borrow_mut().remove(id)
    }

    /// Whether there are such subscribers.
    fn has(&self, are_there: impl Fn(&Subscribers) -> bool) -> bool {
        let mut subscribers = self.subscribers.borrow_mut();
        subscribers.forget_closed();
        are_there(&subscribers)
    }

    /// Begins to tell something.
    fn round(&self) -> Round<'_> {
        self.rounds.set(self.rounds.get() + 1);
        Round {
            hub: self,
            rounds: self.rounds.get(),
            looked_at: 0,
        }
    }

    /// Tells all whose topic is such that something is missing.
    fn tell_gap(&self, is_concerned: impl Fn(&Topic) -> bool) {
        self.subscribers.borrow().tell_gap(is_concerned);
    }
}

/// A text in queues, with the memory of its places in them.
struct Queued {
    text: Bytes,
    _places: BufferReservation,
}

impl AsRef<[u8]> for Queued {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// Tells what belongs together, in its order, to all who had subscribed before. Other tasks of the thread have their turn in
/// between; who subscribes meanwhile is told the next round, and not a part of this one.
struct Round<'hub> {
    hub: &'hub Hub,
    /// Rounds that have begun, with this one.
    rounds: u64,
    /// Subscribers that were looked at since others had their turn.
    looked_at: usize,
}

impl Round<'_> {
    /// Tells `result` to all whom `event` concerns. Returns it in memory of the budget. If there is none for it, or for its places
    /// in queues, they are told that something is missing.
    async fn tell(&mut self, result: Vec<u8>, event: Event<'_>) -> Option<Bytes> {
        let candidates = self.hub.subscribers.borrow().candidates(event);
        let reserve = |bytes: usize| self.hub.serving.take_memory(bytes as u64).ok();
        let text = reserve(result.len());
        let text = text.map(|memory| reserved_bytes(result, Some(&Arc::new(memory))));
        let queued = text.clone().zip(reserve(candidates.len() * QUEUED_BYTES));
        let queued = queued.map(|(text, places)| {
            Bytes::from_owner(Queued {
                text,
                _places: places,
            })
        });
        for ids in candidates.chunks(AT_ONCE) {
            self.tell_at_once(ids, queued.as_ref(), event);
            self.looked_at(ids.len()).await;
        }
        text
    }

    /// Whether `event` concerns somebody.
    async fn concerns(&mut self, event: Event<'_>) -> bool {
        // A log that nobody wants takes time as well.
        self.looked_at(1).await;
        let candidates = self.hub.subscribers.borrow().candidates(event);
        for ids in candidates.chunks(AT_ONCE) {
            let is_concerned = self.concerns_one_of(ids, event);
            self.looked_at(ids.len()).await;
            if is_concerned {
                return true;
            }
        }
        false
    }

    fn tell_at_once(&self, ids: &[SubscriptionId], result: Option<&Bytes>, event: Event<'_>) {
        let subscribers = self.hub.subscribers.borrow();
        for (id, subscriber) in subscribers.concerned(ids, event, self.rounds) {
            let Some(result) = result else {
                subscriber.sender.send_gap();
                continue;
            };
            let notification = Notification {
                subscription: id,
                result: result.clone(),
            };
            subscriber.sender.send(notification, result.len());
        }
    }

    fn concerns_one_of(&self, ids: &[SubscriptionId], event: Event<'_>) -> bool {
        let subscribers = self.hub.subscribers.borrow();
        let mut concerned = subscribers.concerned(ids, event, self.rounds);
        concerned.next().is_some()
    }

    async fn looked_at(&mut self, subscribers: usize) {
        self.looked_at += subscribers;
        if self.looked_at >= AT_ONCE {
            self.looked_at = 0;
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Hub {
    /// The next owner knows none of the subscriptions: their connections end, and clients subscribe again.
    fn drop(&mut self) {
        self.tell_gap(|_| true);
    }
}
