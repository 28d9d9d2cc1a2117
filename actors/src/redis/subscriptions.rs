//! The subscriptions by topic, and how messages reach them.
//!
//! Each subscription has a bounded queue. [`Event::Gap`] marks where messages may be missing, because the
//! queue was full or the connection was lost. The subscriber can then read again what it follows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

/// Messages that may wait for one subscription.
const QUEUE_MAX: usize = 1024;

/// The topic of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// One channel.
    Channel(String),
    /// All channels whose names match a pattern of `PSUBSCRIBE`.
    Pattern(String),
}

/// What a subscription receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A published message.
    Message {
        /// Its channel.
        channel: String,
        /// Its content.
        payload: Bytes,
    },
    /// Messages may be missing: the connection was lost, or the subscription's queue was full.
    Gap,
}

/// The receiving end of a subscription. Dropping it ends the subscription.
#[derive(Debug)]
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    events: Option<Receiver<Event>>,
    dropped: Arc<Notify>,
}

impl Subscription {
    /// Waits for the next event. `None` when the subscriber has stopped.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.as_mut()?.recv().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The queue closes before the owner looks for closed ones.
        self.events = None;
        self.dropped.notify_one();
    }
}

/// The sending end of a subscription.
struct Listener {
    events: Sender<Event>,
    /// An event did not fit into the queue, and no gap was sent yet.
    gap_pending: bool,
}

impl Listener {
    /// Returns false when the subscription was dropped.
    fn send(&mut self, event: Event) -> bool {
        if self.gap_pending {
            match self.events.try_send(Event::Gap) {
                Ok(()) => self.gap_pending = false,
                Err(TrySendError::Full(_)) => return true,
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.gap_pending = true;
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

/// All subscriptions, by topic.
#[derive(Default)]
pub(super) struct SubscriptionRegistry {
    topics: Mutex<BTreeMap<Topic, Vec<Listener>>>,
    /// Wakes the owner when a subscription was dropped.
    pub(super) dropped: Arc<Notify>,
}

impl SubscriptionRegistry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Topic, Vec<Listener>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, topic: Topic) -> Subscription {
        let (events, receiver) = channel(QUEUE_MAX);
        let listener = Listener {
            events,
            gap_pending: false,
        };
        self.lock().entry(topic).or_default().push(listener);
        Subscription {
            events: Some(receiver),
            dropped: Arc::clone(&self.dropped),
        }
    }

    /// Sends `event` to all subscriptions of `topic`.
    pub(super) fn send(&self, topic: &Topic, event: &Event) {
        if let Some(listeners) = self.lock().get_mut(topic) {
            listeners.retain_mut(|listener| listener.send(event.clone()));
        }
    }

    /// Sends a gap to all subscriptions.
    pub(super) fn send_gap(&self) {
        for listeners in self.lock().values_mut() {
            listeners.retain_mut(|listener| listener.send(Event::Gap));
        }
    }

    /// The topics that have subscriptions. Removes the dropped ones first.
    pub(super) fn topics(&self) -> Vec<Topic> {
        let mut topics = self.lock();
        topics.retain(|_, listeners| {
            listeners.retain(|listener| !listener.events.is_closed());
            !listeners.is_empty()
        });
        topics.keys().cloned().collect()
    }

    /// The number of subscriptions.
    pub(super) fn len(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Event {
        Event::Message {
            channel: "news".into(),
            payload: Bytes::copy_from_slice(text.as_bytes()),
        }
    }

    #[tokio::test]
    async fn a_slow_subscription_receives_a_gap_where_messages_are_missing() {
        let registry = SubscriptionRegistry::default();
        let topic = Topic::Channel("news".into());
        let mut slow = registry.add(topic.clone());
        for _ in 0..QUEUE_MAX + 5 {
            registry.send(&topic, &message("old"));
        }
        for _ in 0..QUEUE_MAX {
            assert_eq!(slow.next().await, Some(message("old")));
        }
        registry.send(&topic, &message("new"));
        assert_eq!(slow.next().await, Some(Event::Gap));
        assert_eq!(slow.next().await, Some(message("new")));
    }

    #[tokio::test]
    async fn topics_end_with_their_last_subscription() {
        let registry = SubscriptionRegistry::default();
        let topic = Topic::Pattern("n*".into());
        let (first, second) = (registry.add(topic.clone()), registry.add(topic.clone()));
        drop(first);
        assert_eq!((registry.topics(), registry.len()), (vec![topic], 1));
        drop(second);
        assert_eq!((registry.topics(), registry.len()), (Vec::new(), 0));
    }
}
