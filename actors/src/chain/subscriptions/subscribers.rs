//! Who subscribes, found by what has happened.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use super::filter::{Address, Keys, LogHead, LogsFilter, Word};
use super::{Notification, SubscriptionId, Topic};
use crate::chain::pending::Wanted;
use crate::kernel::{BufferReservation, EventSender};

/// Somebody who subscribes.
pub(super) struct Subscriber {
    pub(super) topic: Topic,
    pub(super) sender: Arc<EventSender<Notification>>,
    /// How many rounds had begun when it subscribed.
    pub(super) rounds: u64,
    /// If it is told pending transactions.
    pub(super) _wanted: Option<Rc<Wanted>>,
    pub(super) _memory: BufferReservation,
}

/// What is told.
#[derive(Clone, Copy)]
pub(super) enum Event<'a> {
    /// There is a new block.
    Head,
    /// There is a log, or it no longer holds.
    Log(&'a LogHead),
    /// A transaction waits for a block.
    Pending,
}

impl Event<'_> {
    fn is_for(self, topic: &Topic) -> bool {
        match (self, topic) {
            (Self::Head, Topic::NewHeads) => true,
            (Self::Log(log), Topic::Logs(filter)) => filter.wants(log),
            (Self::Pending, Topic::NewPendingTransactions) => true,
            _ => false,
        }
    }
}

/// Who subscribes.
#[derive(Default)]
pub(super) struct Subscribers {
    all: HashMap<SubscriptionId, Subscriber>,
    to_heads: BTreeSet<SubscriptionId>,
    to_logs: LogIndex,
    to_pending: BTreeSet<SubscriptionId>,
}

impl Subscribers {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether somebody subscribes to blocks, or to logs, which are found by them.
    pub(super) fn want_blocks(&self) -> bool {
        !self.to_heads.is_empty() || self.want_logs()
    }

    pub(super) fn want_logs(&self) -> bool {
        self.to_logs.filters > 0
    }

    pub(super) fn want_pending(&self) -> bool {
        !self.to_pending.is_empty()
    }

    pub(super) fn insert(&mut self, id: SubscriptionId, subscriber: Subscriber) {
        match &subscriber.topic {
            Topic::NewHeads => {
                self.to_heads.insert(id);
            }
            Topic::Logs(filter) => self.to_logs.insert(id, filter),
            Topic::NewPendingTransactions => {
                self.to_pending.insert(id);
            }
        }
        self.all.insert(id, subscriber);
    }

    /// Removes one. Returns whether there was one.
    pub(super) fn remove(&mut self, id: SubscriptionId) -> bool {
        let Some(subscriber) = self.all.remove(&id) else {
            return false;
        };
        match &subscriber.topic {
            Topic::NewHeads => {
                self.to_heads.remove(&id);
            }
            Topic::Logs(filter) => self.to_logs.remove(id, filter),
            Topic::NewPendingTransactions => {
                self.to_pending.remove(&id);
            }
        }
        true
    }

    /// Removes those whose queue nobody reads any more.
    pub(super) fn forget_closed(&mut self) {
        let closed = self.all.iter().filter(|(_, it)| it.sender.is_closed());
        let closed: Vec<_> = closed.map(|(id, _)| *id).collect();
        for id in closed {
            self.remove(id);
        }
    }

    /// All whom `event` may concern.
    pub(super) fn candidates(&self, event: Event<'_>) -> Vec<SubscriptionId> {
        match event {
            Event::Head => self.to_heads.iter().copied().collect(),
            Event::Log(log) => self.to_logs.candidates(log).collect(),
            Event::Pending => self.to_pending.iter().copied().collect(),
        }
    }

    /// Those of `ids` whom `event` concerns, and who had subscribed before so many rounds had begun.
    pub(super) fn concerned<'a>(
        &'a self,
        ids: &'a [SubscriptionId],
        event: Event<'a>,
        rounds: u64,
    ) -> impl Iterator<Item = (SubscriptionId, &'a Subscriber)> {
        let found = ids.iter().filter_map(|id| Some((*id, self.all.get(id)?)));
        found.filter(move |(_, it)| it.rounds < rounds && event.is_for(&it.topic))
    }

    /// Tells those whose topic is such that something is missing.
    pub(super) fn tell_gap(&self, is_concerned: impl Fn(&Topic) -> bool) {
        let concerned = self.all.values().filter(|it| is_concerned(&it.topic));
        concerned.for_each(|it| it.sender.send_gap());
    }
}

/// Subscriptions to logs by what their filters demand: the address, if they name some, or else the first topic. So a log is
/// compared with few filters, and not with those of all who subscribe.
#[derive(Default)]
struct LogIndex {
    filters: usize,
    by_address: HashMap<Address, BTreeSet<SubscriptionId>>,
    by_first_topic: HashMap<Word, BTreeSet<SubscriptionId>>,
    /// Those that demand neither.
    others: BTreeSet<SubscriptionId>,
}

impl LogIndex {
    fn insert(&mut self, id: SubscriptionId, filter: &LogsFilter) {
        self.filters += 1;
        match filter.keys() {
            Keys::Addresses(addresses) => insert_under(&mut self.by_address, addresses, id),
            Keys::FirstTopics(topics) => insert_under(&mut self.by_first_topic, topics, id),
            Keys::None => {
                self.others.insert(id);
            }
        }
    }

    fn remove(&mut self, id: SubscriptionId, filter: &LogsFilter) {
        self.filters -= 1;
        match filter.keys() {
            Keys::Addresses(addresses) => remove_under(&mut self.by_address, addresses, id),
            Keys::FirstTopics(topics) => remove_under(&mut self.by_first_topic, topics, id),
            Keys::None => {
                self.others.remove(&id);
            }
        }
    }

    /// Those whose filters may want `log`, each once: it has one address and one first topic.
    fn candidates(&self, log: &LogHead) -> impl Iterator<Item = SubscriptionId> {
        let by_address = self.by_address.get(&log.address);
        let first = log.topics.first();
        let by_topic = first.and_then(|topic| self.by_first_topic.get(topic));
        let by_key = by_address.into_iter().chain(by_topic).flatten();
        by_key.chain(&self.others).copied()
    }
}

fn insert_under<K: Copy + Eq + std::hash::Hash>(
    index: &mut HashMap<K, BTreeSet<SubscriptionId>>,
    keys: &[K],
    id: SubscriptionId,
) {
    for key in keys {
        index.entry(*key).or_default().insert(id);
    }
}

fn remove_under<K: Copy + Eq + std::hash::Hash>(
    index: &mut HashMap<K, BTreeSet<SubscriptionId>>,
    keys: &[K],
    id: SubscriptionId,
) {
    for key in keys {
        if let Some(ids) = index.get_mut(key) {
            ids.remove(&id);
            if ids.is_empty() {
                index.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::kernel::testing::buffers::FixedBuffers;
    use crate::kernel::{Buffers, EventBounds, event_queue};

    fn address(number: u16) -> String {
        format!("0x{number:040x}")
    }

    fn topic(number: u16) -> String {
        format!("0x{number:064x}")
    }

    fn filter(addresses: &[u16], topics: &[Vec<u16>]) -> LogsFilter {
        let addresses: Vec<_> = addresses.iter().copied().map(address).collect();
        let topics = topics.iter().map(|position| {
            let alternatives = position.iter().copied().map(topic);
            alternatives.collect::<Vec<_>>()
        });
        let topics: Vec<_> = topics.collect();
        LogsFilter::read(&json!({ "address": addresses, "topics": topics }).to_string()).unwrap()
    }

    fn log(from: u16, topics: &[u16]) -> LogHead {
        let topics: Vec<_> = topics.iter().copied().map(topic).collect();
        let log = json!({ "address": address(from), "topics": topics });
        LogHead::read(log.to_string().as_bytes()).unwrap()
    }

    /// The subscriptions with these filters, whose ids are their places.
    fn subscribers(filters: impl IntoIterator<Item = LogsFilter>) -> Subscribers {
        let bounds = EventBounds {
            events: 1,
            bytes: 1,
        };
        let (sender, _) = event_queue(bounds);
        let sender = Arc::new(sender);
        let mut subscribers = Subscribers::default();
        for (id, filter) in (0..).zip(filters) {
            let subscriber = Subscriber {
                topic: Topic::Logs(filter),
                sender: Arc::clone(&sender),
                rounds: 0,
                _wanted: None,
                _memory: FixedBuffers::new(0).reserve(0).unwrap(),
            };
            subscribers.insert(SubscriptionId(id), subscriber);
        }
        subscribers
    }

    #[test]
    fn a_log_is_compared_with_the_filters_of_its_address_or_first_topic_only() {
        let of_address = (0..1000).map(|number| filter(&[number, number + 1], &[]));
        let of_topic = (0..1000).map(|number| filter(&[], &[vec![number]]));
        let subscribers = subscribers(of_address.chain(of_topic));
        let count = |log: LogHead| subscribers.candidates(Event::Log(&log)).len();
        assert_eq!(count(log(500, &[])), 2);
        assert_eq!(count(log(500, &[7, 8])), 3);
        assert_eq!(count(log(5000, &[5000])), 0);
    }

    #[test]
    fn who_subscribes_during_a_round_is_told_the_next_one() {
        let mut subscribers = subscribers([filter(&[1], &[])]);
        let id = SubscriptionId(0);
        subscribers.all.get_mut(&id).unwrap().rounds = 3;
        let log = log(1, &[]);
        let count = |rounds| {
            let ids = [id];
            let concerned = subscribers.concerned(&ids, Event::Log(&log), rounds);
            concerned.count()
        };
        assert_eq!((count(3), count(4)), (0, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_log_is_found_by_each_filter_that_wants_it_and_by_no_other(
            filters in prop::collection::vec(
                (prop::collection::vec(0..3_u16, 0..3), prop::collection::vec(prop::collection::vec(0..3_u16, 0..3), 0..3)),
                0..20,
            ),
            logs in prop::collection::vec((0..3_u16, prop::collection::vec(0..3_u16, 0..4)), 1..10),
            removed in prop::collection::vec(0..20_u128, 0..10),
        ) {
            let filters: Vec<_> = filters.iter().map(|(from, topics)| filter(from, topics)).collect();
            let mut subscribers = subscribers(filters.clone());
            for id in &removed {
                subscribers.remove(SubscriptionId(*id));
            }
            for (from, topics) in logs {
                let log = log(from, &topics);
                let candidates = subscribers.candidates(Event::Log(&log));
                let found = subscribers.concerned(&candidates, Event::Log(&log), 1);
                let mut found: Vec<_> = found.map(|(id, _)| id).collect();
                found.sort_unstable();
                let wanting = (0..).map(SubscriptionId).zip(&filters);
                let expected = wanting.filter(|(id, filter)| !removed.contains(&id.0) && filter.wants(&log));
                prop_assert_eq!(found, expected.map(|(id, _)| id).collect::<Vec<_>>());
            }
            for id in 0..20 {
                subscribers.remove(SubscriptionId(id));
            }
            let index = &subscribers.to_logs;
            prop_assert!(index.by_address.is_empty() && index.by_first_topic.is_empty() && index.others.is_empty());
            prop_assert_eq!((subscribers.len(), index.filters), (0, 0));
        }
    }
}
