//! The subscriptions by topic, and how messages reach them.
//!
//! Each subscription has a bounded queue. [`Event::Gap`] marks where messages may be missing, because the
//! queue was full or the connection was lost. The subscriber can then read again what it follows. The mark
//! is in the queue as soon as messages are missing, also if nothing is published afterwards.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::metrics::SUBSCRIBER_DROPPED;

/// Messages that may wait for one subscription. It bounds their number, not their bytes.
const QUEUE_MAX: usize = 1024;

/// Places of a queue that no message takes: one for a gap, and one for the end.
const PLACES_KEPT: usize = 2;

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
    /// Messages may be missing here: the connection was lost, or the subscription's queue was full.
    Gap,
    /// The server does not allow this user to receive the topic any more (`NOPERM`). This is the last
    /// event.
    Refused,
}

/// The receiving end of a subscription. Dropping it ends the subscription.
///
/// 1024 messages may wait in it, of any size. Further ones are dropped, and an [`Event::Gap`] stands in
/// their place.
#[derive(Debug)]
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    events: Option<Receiver<Event>>,
    dropped: Arc<Notify>,
}

impl Subscription {
    /// Waits for the next event. `None` when the subscriber has stopped, and after [`Event::Refused`].
    /// If the returned future is dropped, no event is lost.
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

/// The sending end of a subscription. It is used under the registry's lock, so the free places of the
/// queue can only become more meanwhile.
struct Listener {
    events: Sender<Event>,
    /// The event that was sent last is a gap.
    ends_with_gap: bool,
}

impl Listener {
    /// Sends a message, or a gap in its place. Returns whether there was a place for the message.
    fn send(&mut self, message: Event) -> bool {
        if self.events.capacity() <= PLACES_KEPT {
            self.send_gap();
            return false;
        }
        self.events.try_send(message).ok();
        self.ends_with_gap = false;
        true
    }

    /// Sends a gap, unless one is the last event in the queue. There is a place for it: after a message,
    /// [`PLACES_KEPT`] are free.
    fn send_gap(&mut self) {
        let is_read = self.events.capacity() == self.events.max_capacity();
        if !self.ends_with_gap || is_read {
            self.events.try_send(Event::Gap).ok();
            self.ends_with_gap = true;
        }
    }
}

/// All subscriptions, by topic.
#[derive(Default)]
pub(super) struct SubscriptionRegistry {
    topics: Mutex<BTreeMap<Topic, Vec<Listener>>>,
    /// Wakes the owner when a subscription was dropped.
    pub(super) dropped: Arc<Notify>,
    messages: AtomicU64,
    /// Messages for which a subscription had no place.
    messages_dropped: AtomicU64,
}

impl SubscriptionRegistry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Topic, Vec<Listener>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new subscription of `topic`, which the server must have confirmed.
    pub(super) fn add(&self, topic: Topic) -> Subscription {
        let (events, receiver) = channel(QUEUE_MAX + PLACES_KEPT);
        let listener = Listener {
            events,
            ends_with_gap: false,
        };
        self.lock().entry(topic).or_default().push(listener);
        Subscription {
            events: Some(receiver),
            dropped: Arc::clone(&self.dropped),
        }
    }

    /// Sends a message to all subscriptions of `topic`.
    pub(super) fn send(&self, topic: &Topic, channel: &str, payload: &Bytes) {
        self.messages.fetch_add(1, Relaxed);
        let mut topics = self.lock();
        let mut dropped = 0;
        for listener in topics.get_mut(topic).into_iter().flatten() {
            let message = Event::Message {
                channel: channel.to_owned(),
                payload: payload.clone(),
            };
            dropped += u64::from(!listener.send(message));
        }
        if dropped > 0 {
            self.messages_dropped.fetch_add(dropped, Relaxed);
            metrics::counter!(SUBSCRIBER_DROPPED.name).increment(dropped);
        }
    }

    /// Sends a gap to all subscriptions of `topic`.
    pub(super) fn send_gap(&self, topic: &Topic) {
        for listener in self.lock().get_mut(topic).into_iter().flatten() {
            listener.send_gap();
        }
    }

    /// Ends all subscriptions of a topic that the server refuses.
    pub(super) fn refuse(&self, topic: &Topic) {
        for listener in self.lock().remove(topic).into_iter().flatten() {
            // There is a place: no message and no gap takes the last one.
            listener.events.try_send(Event::Refused).ok();
        }
    }

    /// Whether `topic` has a subscription.
    pub(super) fn has(&self, topic: &Topic) -> bool {
        let topics = self.lock();
        let mut listeners = topics.get(topic).into_iter().flatten();
        listeners.any(|listener| !listener.events.is_closed())
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

    /// The number of messages received.
    pub(super) fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    /// The number of messages for which a subscription had no place.
    pub(super) fn messages_dropped(&self) -> u64 {
        self.messages_dropped.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn message(text: &str) -> Event {
        Event::Message {
            channel: "news".into(),
            payload: Bytes::copy_from_slice(text.as_bytes()),
        }
    }

    /// A registry with one subscription.
    fn one() -> (SubscriptionRegistry, Topic, Subscription) {
        let registry = SubscriptionRegistry::default();
        let topic = Topic::Channel("news".into());
        let subscription = registry.add(topic.clone());
        (registry, topic, subscription)
    }

    fn send(registry: &SubscriptionRegistry, topic: &Topic, text: &str) {
        let payload = Bytes::copy_from_slice(text.as_bytes());
        registry.send(topic, "news", &payload);
    }

    /// The next event, which must be there already.
    fn next(subscription: &mut Subscription) -> Option<Event> {
        subscription.next().now_or_never().expect("an event")
    }

    fn is_empty(subscription: &mut Subscription) -> bool {
        subscription.next().now_or_never().is_none()
    }

    #[test]
    fn a_slow_subscription_receives_a_gap_where_messages_are_missing() {
        let (registry, topic, mut slow) = one();
        for _ in 0..QUEUE_MAX + 5 {
            send(&registry, &topic, "old");
        }
        for _ in 0..QUEUE_MAX {
            assert_eq!(next(&mut slow), Some(message("old")));
        }
        send(&registry, &topic, "new");
        assert_eq!(next(&mut slow), Some(Event::Gap));
        assert_eq!(next(&mut slow), Some(message("new")));
        assert_eq!(registry.messages_dropped(), 5);
    }

    #[test]
    fn a_full_queue_that_falls_silent_still_says_gap() {
        let (registry, topic, mut slow) = one();
        for _ in 0..QUEUE_MAX + 76 {
            send(&registry, &topic, "old");
        }
        for _ in 0..QUEUE_MAX {
            assert_eq!(next(&mut slow), Some(message("old")));
        }
        assert_eq!(next(&mut slow), Some(Event::Gap));
        assert!(is_empty(&mut slow));
    }

    #[test]
    fn a_full_queue_has_a_place_for_the_gap_of_a_reconnect_and_for_the_end() {
        let (registry, topic, mut slow) = one();
        for _ in 0..QUEUE_MAX {
            send(&registry, &topic, "old");
        }
        // As many reconnects as there may be, and messages that are lost between them.
        for _ in 0..5 {
            registry.send_gap(&topic);
            send(&registry, &topic, "lost");
        }
        registry.refuse(&topic);
        for _ in 0..QUEUE_MAX {
            assert_eq!(next(&mut slow), Some(message("old")));
        }
        assert_eq!(next(&mut slow), Some(Event::Gap));
        assert_eq!(next(&mut slow), Some(Event::Refused));
        assert_eq!(next(&mut slow), None);
    }

    #[test]
    fn each_reconnect_after_a_received_gap_is_a_gap_again() {
        let (registry, topic, mut quiet) = one();
        for _ in 0..3 {
            registry.send_gap(&topic);
            registry.send_gap(&topic);
            assert_eq!(next(&mut quiet), Some(Event::Gap));
            assert!(
                is_empty(&mut quiet),
                "two gaps in a row say no more than one"
            );
        }
    }

    #[test]
    fn a_subscription_that_reads_slowly_gets_messages_and_not_only_gaps() {
        let (registry, topic, mut slow) = one();
        let mut received = 0;
        for round in 0..QUEUE_MAX * 8 {
            send(&registry, &topic, "old");
            send(&registry, &topic, "old");
            if round >= QUEUE_MAX {
                received += u32::from(next(&mut slow) != Some(Event::Gap));
            }
        }
        assert!(received as usize > QUEUE_MAX * 3, "{received}");
    }

    #[test]
    fn topics_end_with_their_last_subscription() {
        let (registry, topic, first) = one();
        let second = registry.add(topic.clone());
        drop(first);
        assert!(registry.has(&topic));
        assert_eq!(
            (registry.topics(), registry.len()),
            (vec![topic.clone()], 1)
        );
        drop(second);
        assert!(!registry.has(&topic));
        assert_eq!((registry.topics(), registry.len()), (Vec::new(), 0));
    }
}
