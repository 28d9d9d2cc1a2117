//! Equal calls at the same time are one: the first is sent, the others wait for its answer.
//!
//! Guarantees:
//! - There is at most one leader for a key. Whoever has no room here is not refused, but is sent by itself.
//! - A leader that is cancelled, or whose own deadline ends, hands over to the follower that waits longest and still waits. Its
//!   end is not that of the others.
//! - What a leader ends with, an answer or an error, goes to those that followed it until then. Who comes later begins anew: no
//!   error is kept.
//! - The number of keys and of followers is bounded.
//!
//! The key should contain what the answer depends on: for a call about `latest`, the number of the head.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::Hash;

use metrics::Counter;

/// The flights of one chain. `W` waits for an answer.
#[derive(Debug)]
pub struct Flights<K, W> {
    flights: HashMap<K, Flight<W>>,
    keys_max: usize,
    followers_max: usize,
    next_id: u64,
    shared: Counter,
}

#[derive(Debug)]
struct Flight<W> {
    /// Tells it from an earlier one of the same key.
    id: u64,
    followers: VecDeque<W>,
}

/// The right and the duty to end a flight: by [`Flights::end`] or [`Flights::hand_over`].
#[derive(Debug)]
#[must_use = "the followers wait for its end"]
pub struct Leader<K> {
    key: K,
    id: u64,
}

/// What becomes of a call.
#[derive(Debug)]
pub enum Joined<K, W> {
    /// It is sent, and others may follow it.
    Leads(Leader<K>, W),
    /// It waits for the answer to another call.
    Follows,
    /// It is sent by itself.
    Alone(W),
}

impl<K: Hash + Eq + Clone, W> Flights<K, W> {
    /// No flights. `shared` counts the calls that follow others.
    pub fn new(keys_max: usize, followers_max: usize, shared: Counter) -> Self {
        Self {
            flights: HashMap::new(),
            keys_max,
            followers_max,
            next_id: 0,
            shared,
        }
    }

    /// Takes a call that `waiter` waits for.
    pub fn join(&mut self, key: K, waiter: W) -> Joined<K, W> {
        let is_full = self.flights.len() >= self.keys_max;
        match self.flights.get_mut(&key) {
            Some(flight) if flight.followers.len() < self.followers_max => {
                flight.followers.push_back(waiter);
                self.shared.increment(1);
                Joined::Follows
            }
            Some(_) => Joined::Alone(waiter),
            None if is_full => Joined::Alone(waiter),
            None => {
                let id = self.next_id;
                self.next_id += 1;
                let followers = VecDeque::new();
                self.flights.insert(key.clone(), Flight { id, followers });
                Joined::Leads(Leader { key, id }, waiter)
            }
        }
    }

    /// Ends a flight. Returns its followers, who get what the leader got.
    pub fn end(&mut self, leader: Leader<K>) -> impl Iterator<Item = W> + use<K, W> {
        let flight = match self.flights.get(&leader.key) {
            Some(flight) if flight.id == leader.id => self.flights.remove(&leader.key),
            _ => None,
        };
        flight.into_iter().flat_map(|flight| flight.followers)
    }

    /// Ends the lead of a call that is cancelled. Returns the new leader, or `None` if nobody waits any longer. Followers for
    /// whom `waits` is false have left.
    pub fn hand_over(
        &mut self,
        leader: Leader<K>,
        waits: impl Fn(&W) -> bool,
    ) -> Option<(Leader<K>, W)> {
        let flight = self.flights.get_mut(&leader.key);
        let flight = flight.filter(|flight| flight.id == leader.id)?;
        while let Some(follower) = flight.followers.pop_front() {
            if waits(&follower) {
                return Some((leader, follower));
            }
        }
        self.flights.remove(&leader.key);
        None
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn flights(keys_max: usize, followers_max: usize) -> Flights<&'static str, u32> {
        Flights::new(keys_max, followers_max, Counter::noop())
    }

    fn lead(
        flights: &mut Flights<&'static str, u32>,
        key: &'static str,
        waiter: u32,
    ) -> Leader<&'static str> {
        match flights.join(key, waiter) {
            Joined::Leads(leader, same) if same == waiter => leader,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn equal_calls_wait_for_the_first() {
        let mut flights = flights(8, 8);
        let leader = lead(&mut flights, "a", 1);
        for waiter in 2..5 {
            assert!(matches!(flights.join("a", waiter), Joined::Follows));
        }
        let other = lead(&mut flights, "b", 9);
        assert_eq!(flights.end(leader).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(flights.end(other).count(), 0);
        assert!(flights.is_empty());
    }

    #[test]
    fn who_comes_after_the_end_begins_anew() {
        let mut flights = flights(8, 8);
        let first = lead(&mut flights, "a", 1);
        assert!(matches!(flights.join("a", 2), Joined::Follows));
        assert_eq!(
            flights.end(first).collect::<Vec<_>>(),
            [2],
            "the error of the first goes to 2"
        );
        let second = lead(&mut flights, "a", 3);
        assert_eq!(flights.end(second).count(), 0);
    }

    #[test]
    fn a_cancelled_leader_hands_over_to_the_first_that_still_waits() {
        let mut flights = flights(8, 8);
        let leader = lead(&mut flights, "a", 1);
        for waiter in 2..5 {
            assert!(matches!(flights.join("a", waiter), Joined::Follows));
        }
        let (leader, new) = flights.hand_over(leader, |waiter| *waiter != 2).unwrap();
        assert_eq!(new, 3);
        assert!(
            matches!(flights.join("a", 5), Joined::Follows),
            "it is the same flight"
        );
        assert_eq!(flights.end(leader).collect::<Vec<_>>(), [4, 5]);
        let leader = lead(&mut flights, "a", 1);
        assert!(matches!(flights.join("a", 2), Joined::Follows));
        assert!(flights.hand_over(leader, |_| false).is_none());
        assert!(flights.is_empty(), "nobody waits");
    }

    #[test]
    fn what_has_no_room_is_sent_by_itself() {
        let mut flights = flights(2, 1);
        let leader = lead(&mut flights, "a", 1);
        assert!(matches!(flights.join("a", 2), Joined::Follows));
        assert!(matches!(flights.join("a", 3), Joined::Alone(3)));
        let other = lead(&mut flights, "b", 4);
        assert!(matches!(flights.join("c", 5), Joined::Alone(5)));
        drop((flights.end(leader), flights.end(other)));
        assert_eq!(flights.len(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Each call is answered once, by itself or by its leader, and nobody is left behind.
        #[test]
        fn each_call_ends_once(steps in proptest::collection::vec((0..4_u8, 0..3_usize), 0..120)) {
            const KEYS: [&str; 3] = ["a", "b", "c"];
            let mut flights = flights(2, 3);
            let mut leaders: Vec<(Leader<&str>, u32)> = Vec::new();
            let mut open = BTreeSet::new();
            for (number, (step, key)) in (0..).zip(steps) {
                if step < 2 {
                    match flights.join(KEYS[key], number) {
                        Joined::Leads(leader, waiter) => {
                            prop_assert!(leaders.iter().all(|(other, _)| other.key != leader.key));
                            open.insert(waiter);
                            leaders.push((leader, waiter));
                        }
                        Joined::Follows => {
                            prop_assert!(leaders.iter().any(|(other, _)| other.key == KEYS[key]));
                            open.insert(number);
                        }
                        Joined::Alone(waiter) => prop_assert_eq!(waiter, number),
                    }
                } else if let Some(at) = leaders.iter().position(|(leader, _)| leader.key == KEYS[key]) {
                    let (leader, waiter) = leaders.remove(at);
                    prop_assert!(open.remove(&waiter));
                    if step == 2 {
                        for follower in flights.end(leader) {
                            prop_assert!(open.remove(&follower));
                        }
                    } else {
                        // Those with an odd number have left.
                        let of_key: Vec<_> = flights.flights[KEYS[key]].followers.iter().copied().collect();
                        let next = flights.hand_over(leader, |waiter| waiter % 2 == 0);
                        let first = of_key.iter().position(|waiter| waiter % 2 == 0);
                        let left = &of_key[..first.unwrap_or(of_key.len())];
                        open.retain(|waiter| !left.contains(waiter));
                        prop_assert_eq!(next.as_ref().map(|(_, waiter)| *waiter), first.map(|first| of_key[first]));
                        leaders.extend(next);
                    }
                }
                prop_assert!(flights.len() == leaders.len() && leaders.len() <= 2);
            }
            for (leader, waiter) in leaders {
                prop_assert!(open.remove(&waiter));
                for follower in flights.end(leader) {
                    prop_assert!(open.remove(&follower));
                }
            }
            prop_assert!(open.is_empty() && flights.is_empty());
        }
    }
}
