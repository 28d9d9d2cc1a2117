//! The subscriptions by topic, and how messages reach them.
//!
//! Each subscription has a bounded queue, and [`BYTES_MAX`] bounds all of them together. [`Event::Gap`] marks
//! where messages may be missing, because there was no room or the connection was lost. The subscriber can then
//! read again what it follows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::metrics::SUBSCRIBER_DROPPED;
use super::subscriber::SUBSCRIPTIONS_MAX;
use crate::kernel::{EventBounds, EventReader, EventSender, Queued, event_queue};

/// What may wait for one subscription.
const QUEUE_MAX: EventBounds = EventBounds {
    events: 1024,
    bytes: 16 << 20,
};

/// What may wait for all subscriptions together, besides [`OWN_BYTES`] of each. Thousands of slow ones could
/// otherwise fill the memory, each within its own bound. Four that read nothing may fill this.
const BYTES_MAX: usize = 64 << 20;

/// What may wait for each subscription in any case. So one that reads hears small messages also while slow ones
/// have taken all of [`BYTES_MAX`]. For all that there can be, this is as much again.
const OWN_BYTES: usize = BYTES_MAX / SUBSCRIPTIONS_MAX;

/// What a queue needs for one message besides its content, about.
const ENTRY_BYTES: usize = 128;

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
    /// Messages may be missing here: the connection was lost, or there was no room for more.
    Gap,
    /// The server does not allow this user to receive the topic any more (`NOPERM`). This is the last
    /// event.
    Refused,
}

/// The receiving end of a subscription. Dropping it ends the subscription.
///
/// 1024 messages of 16 MiB together may wait in it, or one larger message; for all subscriptions together, 64 MiB
/// besides 16 KiB of each. Further ones are dropped, and an [`Event::Gap`] stands in their place.
#[derive(Debug)]
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    events: Option<EventReader<Entry>>,
    dropped: Arc<Notify>,
}

impl Subscription {
    /// Waits for the next event. `None` when the subscriber has stopped, and after [`Event::Refused`].
    /// If the returned future is dropped, no event is lost.
    pub async fn next(&mut self) -> Option<Event> {
        Some(match self.events.as_mut()?.next().await? {
            Queued::Event(entry) => entry.event,
            Queued::Gap => Event::Gap,
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The queue closes before the owner looks for closed ones.
        self.events = None;
        self.dropped.notify_one();
    }
}

/// What waits in a queue.
struct Entry {
    event: Event,
    /// The entry's part of [`BYTES_MAX`]; `None` in the subscription's own part.
    _bytes: Option<SharedBytes>,
}

/// A part of [`BYTES_MAX`], taken until it is dropped.
struct SharedBytes {
    /// The content of a message, which all subscriptions share.
    _content: Arc<OwnedSemaphorePermit>,
    _entry: OwnedSemaphorePermit,
}

/// The sending ends of the subscriptions, by topic.
type Topics = BTreeMap<Topic, Vec<EventSender<Entry>>>;

/// All subscriptions, by topic.
pub(super) struct SubscriptionRegistry {
    topics: Mutex<Topics>,
    /// What is left of [`BYTES_MAX`]: a permit for each byte.
    bytes: Arc<Semaphore>,
    /// Wakes the owner when a subscription was dropped.
    pub(super) dropped: Arc<Notify>,
    messages: AtomicU64,
    /// Messages for which a subscription had no place.
    messages_dropped: AtomicU64,
}

impl Default for SubscriptionRegistry {
    fn default() -> Self {
        Self {
            topics: Mutex::default(),
            bytes: Arc::new(Semaphore::new(BYTES_MAX)),
            dropped: Arc::default(),
            messages: AtomicU64::new(0),
            messages_dropped: AtomicU64::new(0),
        }
    }
}

impl SubscriptionRegistry {
    fn lock(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new subscription of `topic`, which the server must have confirmed.
    pub(super) fn add(&self, topic: Topic) -> Subscription {
        let (events, reader) = event_queue(QUEUE_MAX);
        self.lock().entry(topic).or_default().push(events);
        Subscription {
            events: Some(reader),
            dropped: Arc::clone(&self.dropped),
        }
    }

    /// Sends a message to all subscriptions of `topic`.
    pub(super) fn send(&self, topic: &Topic, channel: &str, payload: &Bytes) {
        self.messages.fetch_add(1, Relaxed);
        let topics = self.lock();
        let content = self.take(payload.len()).map(Arc::new);
        let entry = ENTRY_BYTES + channel.len();
        let mut dropped = 0;
        for events in topics.get(topic).into_iter().flatten() {
            let size = entry + payload.len();
            let bytes = if events.bytes() + size <= OWN_BYTES {
                None
            } else if let (Some(content), Some(entry)) = (&content, self.take(entry)) {
                Some(SharedBytes {
                    _content: Arc::clone(content),
                    _entry: entry,
                })
            } else {
                events.send_gap();
                dropped += 1;
                continue;
            };
            let event = Event::Message {
                channel: channel.to_owned(),
                payload: payload.clone(),
            };
            let message = Entry {
                event,
                _bytes: bytes,
            };
            let has_room = events.send(message, size);
            dropped += u64::from(!has_room);
        }
        if dropped > 0 {
            self.messages_dropped.fetch_add(dropped, Relaxed);
            metrics::counter!(SUBSCRIBER_DROPPED.name).increment(dropped);
        }
    }

    /// Takes a part of [`BYTES_MAX`], if so much is left.
    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).ok()?;
        Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()
    }

    /// Sends a gap to all subscriptions of `topic`.
    pub(super) fn send_gap(&self, topic: &Topic) {
        for events in self.lock().get(topic).into_iter().flatten() {
            events.send_gap();
        }
    }

    /// Ends all subscriptions of a topic that the server refuses.
    pub(super) fn refuse(&self, topic: &Topic) {
        for events in self.lock().remove(topic).into_iter().flatten() {
            events.end_with(Entry {
                event: Event::Refused,
                _bytes: None,
            });
        }
    }

    /// Whether `topic` has a subscription.
    pub(super) fn has(&self, topic: &Topic) -> bool {
        let topics = self.lock();
        let mut subscriptions = topics.get(topic).into_iter().flatten();
        subscriptions.any(|events| !events.is_closed())
    }

    /// The topics that have subscriptions. Removes the dropped ones first.
    pub(super) fn topics(&self) -> Vec<Topic> {
        let mut topics = self.lock();
        topics.retain(|_, subscriptions| {
            subscriptions.retain(|events| !events.is_closed());
            !subscriptions.is_empty()
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

    /// The next event, which must be there already.
    fn next(subscription: &mut Subscription) -> Option<Event> {
        subscription.next().now_or_never().expect("an event")
    }

    #[test]
    fn what_a_full_subscription_misses_is_a_gap_and_is_counted() {
        let (registry, topic, mut slow) = one();
        let other = registry.add(topic.clone());
        drop(other);
        let large = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..20 {
            registry.send(&topic, "news", &large);
        }
        // The names of the channels count too.
        for _ in 0..15 {
            let Some(Event::Message { payload, .. }) = next(&mut slow) else {
                panic!("a message");
            };
            assert_eq!(payload, large);
        }
        assert_eq!(next(&mut slow), Some(Event::Gap));
        registry.send(&topic, "news", &Bytes::from_static(b"later"));
        assert_eq!(next(&mut slow), Some(message("later")));
        assert_eq!((registry.messages(), registry.messages_dropped()), (21, 5));
    }

    /// What a subscription has received until now: the number of messages, and of gaps.
    fn received(subscription: &mut Subscription) -> (usize, usize) {
        let mut counts = (0, 0);
        while let Some(Some(event)) = subscription.next().now_or_never() {
            match event {
                Event::Message { .. } => counts.0 += 1,
                _ => counts.1 += 1,
            }
        }
        counts
    }

    #[test]
    fn the_bytes_of_all_subscriptions_together_are_bounded() {
        let (registry, topic, mut quick) = one();
        let slow_topic = |number: u32| Topic::Channel(number.to_string());
        let slow: Vec<_> = (0..10).map(|it| registry.add(slow_topic(it))).collect();
        let large = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..15 {
            for number in 0..10 {
                registry.send(&slow_topic(number), "slow", &large);
            }
        }
        // What is small is heard by whom reads.
        for _ in 0..10 {
            registry.send(&topic, "news", &Bytes::from_static(b"small"));
            assert_eq!(next(&mut quick), Some(message("small")));
        }
        registry.send(&topic, "news", &large);
        assert_eq!(next(&mut quick), Some(Event::Gap));
        let mut slow = slow;
        let counts: Vec<_> = slow.iter_mut().map(received).collect();
        let messages: usize = counts.iter().map(|(messages, _)| messages).sum();
        assert_eq!(messages, 63, "{counts:?}");
        assert!(counts.iter().all(|(_, gaps)| *gaps == 1), "{counts:?}");
        assert_eq!(
            registry.bytes.available_permits(),
            BYTES_MAX,
            "all was read"
        );
        registry.send(&slow_topic(0), "slow", &large);
        assert!(registry.bytes.available_permits() < BYTES_MAX);
        drop(slow);
        assert_eq!(registry.bytes.available_permits(), BYTES_MAX, "dropped");
    }

    #[test]
    fn a_message_for_many_subscriptions_counts_once() {
        let (registry, topic, _first) = one();
        let mut all: Vec<_> = (0..200).map(|_| registry.add(topic.clone())).collect();
        let large = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..10 {
            registry.send(&topic, "news", &large);
        }
        for subscription in &mut all {
            assert_eq!(received(subscription), (10, 0));
        }
    }

    #[test]
    fn many_small_messages_are_bounded_too() {
        let (registry, topic, _first) = one();
        let mut all: Vec<_> = (0..1000).map(|_| registry.add(topic.clone())).collect();
        for _ in 0..1000 {
            registry.send(&topic, "news", &Bytes::from_static(b"small"));
        }
        let received: usize = all.iter_mut().map(|it| received(it).0).sum();
        let bytes = received * ENTRY_BYTES;
        assert!(bytes <= BYTES_MAX + all.len() * OWN_BYTES, "{bytes}");
    }

    #[test]
    fn a_refusal_is_the_last_event() {
        let (registry, topic, mut slow) = one();
        registry.send_gap(&topic);
        registry.refuse(&topic);
        assert_eq!(next(&mut slow), Some(Event::Gap));
        assert_eq!(next(&mut slow), Some(Event::Refused));
        assert_eq!(next(&mut slow), None);
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
