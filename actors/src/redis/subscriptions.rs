//! Who listens to what, and how messages reach them.
//!
//! Each listener has a bounded queue. One that does not keep up, and all after a reconnect, are told
//! by [`Event::Gap`] that messages may be missing, so that they can read again what they follow.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

/// Messages that may wait for one listener.
const QUEUE_MAX: usize = 1024;

/// What can be listened to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// One channel.
    Channel(String),
    /// All channels whose names match a pattern, as `PSUBSCRIBE` has it.
    Pattern(String),
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody published this.
    Message {
        /// Where.
        channel: String,
        /// What.
        payload: Bytes,
    },
    /// Messages may have been lost: the connection was away, or this listener too slow.
    Gap,
}

/// One listener's end. Dropping it ends the subscription.
#[derive(Debug)]
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    events: Option<Receiver<Event>>,
    left: Arc<Notify>,
}

impl Subscription {
    /// Waits for the next event. `None` when the room has stopped.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.as_mut()?.recv().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Closed before anybody looks.
        self.events = None;
        self.left.notify_one();
    }
}

struct Listener {
    events: Sender<Event>,
    /// Whether it has yet to be told that something is missing.
    missed: bool,
}

impl Listener {
    /// False when nobody listens any more.
    fn tell(&mut self, event: Event) -> bool {
        if self.missed {
            match self.events.try_send(Event::Gap) {
                Ok(()) => self.missed = false,
                Err(TrySendError::Full(_)) => return true,
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.missed = true;
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

/// Everybody who listens, by topic.
#[derive(Default)]
pub(super) struct SubscriptionRegistry {
    topics: Mutex<BTreeMap<Topic, Vec<Listener>>>,
    /// Wakes the owner when a listener has left.
    pub(super) left: Arc<Notify>,
}

impl SubscriptionRegistry {
    fn topics(&self) -> MutexGuard<'_, BTreeMap<Topic, Vec<Listener>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, topic: Topic) -> Subscription {
        let (events, receiver) = channel(QUEUE_MAX);
        let listener = Listener {
            events,
            missed: false,
        };
        self.topics().entry(topic).or_default().push(listener);
        Subscription {
            events: Some(receiver),
            left: Arc::clone(&self.left),
        }
    }

    /// Tells all who listen to `topic`.
    pub(super) fn tell(&self, topic: &Topic, event: &Event) {
        if let Some(listeners) = self.topics().get_mut(topic) {
            listeners.retain_mut(|listener| listener.tell(event.clone()));
        }
    }

    /// Tells everybody that something may be missing.
    pub(super) fn tell_gap(&self) {
        for listeners in self.topics().values_mut() {
            listeners.retain_mut(|listener| listener.tell(Event::Gap));
        }
    }

    /// Takes out topics that nobody listens to any more.
    pub(super) fn sweep(&self) -> Vec<Topic> {
        let mut topics = self.topics();
        for listeners in topics.values_mut() {
            listeners.retain(|listener| !listener.events.is_closed());
        }
        let empty = topics.extract_if(.., |_, listeners| listeners.is_empty());
        empty.map(|(topic, _)| topic).collect()
    }

    pub(super) fn all(&self) -> Vec<Topic> {
        self.topics().keys().cloned().collect()
    }

    pub(super) fn listeners(&self) -> usize {
        self.topics().values().map(Vec::len).sum()
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
    async fn one_who_is_too_slow_is_told_that_something_is_missing() {
        let registry = SubscriptionRegistry::default();
        let topic = Topic::Channel("news".into());
        let mut slow = registry.add(topic.clone());
        for _ in 0..QUEUE_MAX + 5 {
            registry.tell(&topic, &message("old"));
        }
        for _ in 0..QUEUE_MAX {
            assert_eq!(slow.next().await, Some(message("old")));
        }
        registry.tell(&topic, &message("new"));
        assert_eq!(slow.next().await, Some(Event::Gap));
        assert_eq!(slow.next().await, Some(message("new")));
    }

    #[tokio::test]
    async fn topics_end_with_their_last_listener() {
        let registry = SubscriptionRegistry::default();
        let topic = Topic::Pattern("n*".into());
        let (first, second) = (registry.add(topic.clone()), registry.add(topic.clone()));
        drop(first);
        assert_eq!((registry.sweep(), registry.listeners()), (Vec::new(), 1));
        drop(second);
        assert_eq!((registry.sweep(), registry.listeners()), (vec![topic], 0));
    }
}
