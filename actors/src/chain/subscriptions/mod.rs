//! Subscriptions to new blocks, logs and pending transactions.
//!
//! Why they are made here and not by a provider: a provider that ends takes its subscriptions along, and whoever
//! subscribes at another one learns of some blocks twice and of others never. Here the blocks are followed by their
//! parents' hashes (`trail`), from whichever provider answers: each block is told once and in order, blocks that were
//! missed are fetched, and after a reorganisation the logs that no longer hold are told with `removed`.
//!
//! One task follows the blocks of a chain while somebody subscribes to them. A subscriber that reads too slowly finds a
//! gap in its queue; it then ends its connection.

mod filter;
mod follow;
mod pending;
mod trail;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::filter::{FilterFault, LogsFilter};
use super::serving::Serving;
use crate::kernel::EventSender;

/// The most subscriptions of a chain.
const SUBSCRIPTIONS_MAX: usize = 16 * 1024;

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
}

struct Subscriber {
    topic: Topic,
    sender: Arc<EventSender<Notification>>,
}

/// The subscriptions of a chain.
pub(super) struct Hub {
    serving: Rc<Serving>,
    subscribers: RefCell<BTreeMap<SubscriptionId, Subscriber>>,
    /// The tasks that follow what somebody subscribes to. They end with the hub.
    tasks: RefCell<JoinSet<()>>,
    blocks: Following,
    pending: Following,
}

/// Whether something is followed.
#[derive(Default)]
struct Following {
    /// Whether its task runs.
    has_begun: Cell<bool>,
    /// Whether what happens from now on is told.
    is_ready: watch::Sender<bool>,
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
            tasks: RefCell::new(JoinSet::new()),
            blocks: Following::default(),
            pending: Following::default(),
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
        self.forget_closed();
        let mut subscribers = self.subscribers.borrow_mut();
        if subscribers.len() >= SUBSCRIPTIONS_MAX {
            return Err(SubscribeError::TooMany);
        }
        let id = SubscriptionId(rand::rng().random());
        let is_pending = matches!(topic, Topic::NewPendingTransactions);
        subscribers.insert(id, Subscriber { topic, sender });
        drop(subscribers);
        // A task holds the hub weakly: it ends with the last subscriber, or with the hub.
        let (hub, mut tasks) = (Rc::downgrade(self), self.tasks.borrow_mut());
        while tasks.try_join_next().is_some() {}
        if is_pending && !self.pending.has_begun.replace(true) {
            tasks.spawn_local(pending::follow(hub));
        } else if !is_pending && !self.blocks.has_begun.replace(true) {
            tasks.spawn_local(follow::follow(hub));
        }
        Ok(id)
    }

    /// Resolves when what happens from then on is told.
    pub(super) fn ready(&self, topic: &Topic) -> impl Future<Output = ()> + use<> {
        let following = match topic {
            Topic::NewPendingTransactions => &self.pending,
            Topic::NewHeads | Topic::Logs(_) => &self.blocks,
        };
        let mut is_ready = following.is_ready.subscribe();
        async move { drop(is_ready.wait_for(|is_ready| *is_ready).await) }
    }

    /// Whether somebody wants to be told.
    fn wants(&self, wants: impl Fn(&Topic) -> bool) -> bool {
        let subscribers = self.subscribers.borrow();
        subscribers.values().any(|it| wants(&it.topic))
    }

    /// Ends a subscription. Returns whether there was one.
    pub(super) fn unsubscribe(&self, id: SubscriptionId) -> bool {
        self.subscribers.borrow_mut().remove(&id).is_some()
    }

    fn forget_closed(&self) {
        let mut subscribers = self.subscribers.borrow_mut();
        subscribers.retain(|_, subscriber| !subscriber.sender.is_closed());
    }

    /// Whether somebody has a subscription of this kind.
    fn has(&self, is_of_kind: impl Fn(&Topic) -> bool) -> bool {
        self.forget_closed();
        let subscribers = self.subscribers.borrow();
        subscribers.values().any(|it| is_of_kind(&it.topic))
    }

    /// Tells `result` to all whose topic wants it.
    fn tell(&self, result: &Bytes, wants: impl Fn(&Topic) -> bool) {
        for (id, subscriber) in self.subscribers.borrow().iter() {
            if wants(&subscriber.topic) {
                let notification = Notification {
                    subscription: *id,
                    result: result.clone(),
                };
                subscriber.sender.send(notification, result.len());
            }
        }
    }

    /// Tells all whose topic wants it that something is missing.
    fn tell_gap(&self, wants: impl Fn(&Topic) -> bool) {
        let subscribers = self.subscribers.borrow();
        let concerned = subscribers.values().filter(|it| wants(&it.topic));
        concerned.for_each(|it| it.sender.send_gap());
    }
}

impl Drop for Hub {
    /// The next owner knows none of the subscriptions: their connections end, and clients subscribe again.
    fn drop(&mut self) {
        self.tell_gap(|_| true);
    }
}
