//! What a provider was found not to have: methods, old states, long searches, batches. All of it is forgotten after an
//! hour, since providers and plans change, and a new state that was missing after half a minute.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// How long something learned holds.
const HOLDS: Duration = Duration::from_secs(3600);

/// How long it holds that a state is missing that all nodes have: of so many newest blocks.
const NEW_STATE_HOLDS: Duration = Duration::from_secs(30);
const NEW_STATES: u64 = 128;

/// The most methods that are remembered. The oldest is forgotten for a new one.
const METHODS_MAX: usize = 64;

/// A value that holds for an hour.
#[derive(Debug, Clone, Copy)]
struct Held<T> {
    value: T,
    since: Instant,
}

impl<T: Copy> Held<T> {
    fn get(this: Option<&Self>, now: Instant) -> Option<T> {
        this.filter(|held| now.saturating_duration_since(held.since) < HOLDS)
            .map(|held| held.value)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// Methods that were answered. An error that says otherwise is of one call, such as one for an old block.
    answered: HashSet<Arc<str>>,
    /// Oldest first.
    unsupported: Vec<(Arc<str>, Instant)>,
    /// How far behind the newest block a state was found missing: a provider that prunes goes with the newest block.
    missing_depth: Option<Held<u64>>,
    /// The same for a block that is so new that no provider prunes it.
    new_state_missing: Option<Held<u64>>,
    logs_range_max: Option<Held<u64>>,
    batch_max: Option<Held<u32>>,
}

impl Learned {
    pub(super) fn answered(&mut self, method: &Arc<str>) {
        if self.answered.len() < METHODS_MAX && !self.answered.contains(method) {
            self.answered.insert(Arc::clone(method));
        }
    }

    pub(super) fn unsupported(&mut self, method: &Arc<str>, now: Instant) {
        if self.answered.contains(method) {
            return;
        }
        self.unsupported.retain(|(known, since)| {
            known != method && now.saturating_duration_since(*since) < HOLDS
        });
        if self.unsupported.len() >= METHODS_MAX {
            self.unsupported.remove(0);
        }
        self.unsupported.push((Arc::clone(method), now));
    }

    pub(super) fn is_unsupported(&self, method: &str, now: Instant) -> bool {
        self.unsupported_methods(now)
            .any(|known| &**known == method)
    }

    pub(super) fn unsupported_methods(&self, now: Instant) -> impl Iterator<Item = &Arc<str>> {
        let held = self.unsupported.iter();
        held.filter(move |(_, since)| now.saturating_duration_since(*since) < HOLDS)
            .map(|(method, _)| method)
    }

    /// The state of `block` was missing when `head` was the newest block.
    pub(super) fn missing_state(&mut self, block: u64, head: u64, now: Instant) {
        let value = head.saturating_sub(block);
        let missing = Some(Held { value, since: now });
        if value < NEW_STATES {
            self.new_state_missing = missing;
        } else if Held::get(self.missing_depth.as_ref(), now).is_none_or(|known| value <= known) {
            self.missing_depth = missing;
        }
    }

    /// The oldest block whose state may be there, when `head` is the newest one.
    pub(super) fn oldest_state(&self, head: u64, now: Instant) -> Option<u64> {
        let is_held =
            |held: &&Held<u64>| now.saturating_duration_since(held.since) < NEW_STATE_HOLDS;
        let new = self.new_state_missing.as_ref().filter(is_held);
        let depth = match new {
            Some(held) => held.value,
            None => Held::get(self.missing_depth.as_ref(), now)?,
        };
        Some(head.saturating_sub(depth) + 1)
    }

    pub(super) fn set_logs_range_max(&mut self, blocks: u64, now: Instant) {
        self.logs_range_max = Some(Held {
            value: blocks,
            since: now,
        });
    }

    pub(super) fn logs_range_max(&self, now: Instant) -> Option<u64> {
        Held::get(self.logs_range_max.as_ref(), now)
    }

    /// A batch of so many calls was refused.
    pub(super) fn refused_batch(&mut self, calls: usize, too_long: bool, now: Instant) {
        let half = u32::try_from(calls / 2).unwrap_or(u32::MAX);
        let value = if too_long { half.max(1) } else { 1 };
        self.batch_max = Some(Held { value, since: now });
    }

    pub(super) fn batch_max(&self, now: Instant) -> Option<u32> {
        Held::get(self.batch_max.as_ref(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_remembered_for_an_hour_and_are_few() {
        let now = Instant::now();
        let mut learned = Learned::default();
        for number in 0..500 {
            learned.unsupported(&format!("debug_{number}").into(), now);
        }
        assert_eq!(learned.unsupported.len(), METHODS_MAX);
        assert!(learned.is_unsupported("debug_499", now));
        assert!(!learned.is_unsupported("debug_1", now));
        assert!(!learned.is_unsupported("debug_499", now + HOLDS));
        learned.unsupported(&"debug_x".into(), now + HOLDS);
        assert_eq!(learned.unsupported.len(), 1);
    }

    #[test]
    fn a_method_that_was_answered_is_not_given_up_for_one_error() {
        let now = Instant::now();
        let mut learned = Learned::default();
        learned.answered(&"eth_getBalance".into());
        learned.unsupported(&"eth_getBalance".into(), now);
        assert!(!learned.is_unsupported("eth_getBalance", now));
        for number in 0..500 {
            learned.answered(&format!("eth_{number}").into());
        }
        assert_eq!(learned.answered.len(), METHODS_MAX);
    }

    #[test]
    fn the_oldest_state_goes_with_the_newest_block() {
        let now = Instant::now();
        let mut learned = Learned::default();
        assert_eq!(learned.oldest_state(1000, now), None);
        learned.missing_state(500, 1000, now);
        assert_eq!(learned.oldest_state(1000, now), Some(501));
        assert_eq!(learned.oldest_state(1100, now), Some(601));
        learned.missing_state(100, 1000, now);
        assert_eq!(learned.oldest_state(1000, now), Some(501), "known already");
        learned.missing_state(870, 1000, now);
        assert_eq!(learned.oldest_state(1000, now), Some(871));
        learned.missing_state(998, 1000, now);
        assert_eq!(learned.oldest_state(1000, now), Some(999));
        assert_eq!(learned.oldest_state(1000, now + NEW_STATE_HOLDS), Some(871));
        assert_eq!(learned.oldest_state(1000, now + HOLDS), None);
    }

    #[test]
    fn a_batch_that_is_too_long_is_halved_and_others_end_batches() {
        let now = Instant::now();
        let mut learned = Learned::default();
        learned.refused_batch(100, true, now);
        assert_eq!(learned.batch_max(now), Some(50));
        learned.refused_batch(50, false, now);
        assert_eq!(learned.batch_max(now), Some(1));
        assert_eq!(learned.batch_max(now + HOLDS), None);
    }
}
