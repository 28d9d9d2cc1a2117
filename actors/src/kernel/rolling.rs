//! What happened in the last minutes, in bounded memory.
//!
//! A [`Rolling`] divides time into slots of equal length and keeps the latest ones. A question about a
//! window adds up the slots that the window touches, so its answer covers the window and at most one
//! slot more. A caller that needs the time covered gets it with the answer.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// A value that can be added to another one: a count, or a distribution.
pub trait Merge: Default {
    /// Adds `other` to this value.
    fn merge(&mut self, other: &Self);
}

/// The values of the latest slots of time.
#[derive(Debug)]
pub struct Rolling<T> {
    began: Instant,
    slot: Duration,
    /// Slots before the current one that the longest window touches.
    kept: u64,
    /// The slots in which something was added, with their numbers, oldest first.
    slots: VecDeque<(u64, T)>,
}

/// The sum of what was added in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window<T> {
    /// The sum.
    pub sum: T,
    /// The time that it covers: the window and at most one slot more, or less after the start.
    pub covers: Duration,
}

impl<T: Merge> Rolling<T> {
    /// Answers for windows up to `longest`, exact to a `slot`.
    pub fn new(slot: Duration, longest: Duration) -> Self {
        let slot = slot.max(Duration::from_nanos(1));
        Self {
            began: Instant::now(),
            slot,
            kept: slots_in(longest, slot),
            slots: VecDeque::new(),
        }
    }

    /// Adds a value now.
    pub fn add(&mut self, value: &T) {
        let now = self.current();
        let oldest = now.saturating_sub(self.kept);
        while self.slots.front().is_some_and(|(slot, _)| *slot < oldest) {
            self.slots.pop_front();
        }
        match self.slots.back_mut() {
            Some((slot, sum)) if *slot == now => sum.merge(value),
            _ => {
                let mut sum = T::default();
                sum.merge(value);
                self.slots.push_back((now, sum));
            }
        }
    }

    /// The sum of what was added in the last `window`, which is at most the longest.
    pub fn last(&self, window: Duration) -> Window<T> {
        let touched = slots_in(window, self.slot).min(self.kept);
        let oldest = self.current().saturating_sub(touched);
        let mut sum = T::default();
        for (_, value) in self.slots_from(oldest) {
            sum.merge(value);
        }
        Window {
            sum,
            covers: self.beginning(oldest).elapsed(),
        }
    }

    /// The slots of the longest window in which something was added, oldest first: the number, the
    /// beginning, the sum.
    pub fn slots(&self) -> impl Iterator<Item = (u64, Instant, &T)> {
        let slots = self.slots_from(self.current().saturating_sub(self.kept));
        slots.map(|(number, sum)| (*number, self.beginning(*number), sum))
    }

    fn slots_from(&self, oldest: u64) -> impl Iterator<Item = &(u64, T)> {
        self.slots
            .iter()
            .filter(move |(number, _)| *number >= oldest)
    }

    fn beginning(&self, number: u64) -> Instant {
        self.began
            + self
                .slot
                .saturating_mul(u32::try_from(number).unwrap_or(u32::MAX))
    }

    /// The number of the current slot, from 0.
    fn current(&self) -> u64 {
        let number = self.began.elapsed().as_nanos() / self.slot.as_nanos();
        u64::try_from(number).unwrap_or(u64::MAX)
    }
}

/// How many slots it takes to cover `window`, beside the current one.
fn slots_in(window: Duration, slot: Duration) -> u64 {
    u64::try_from(window.as_nanos().div_ceil(slot.as_nanos())).unwrap_or(u64::MAX)
}

impl Merge for u64 {
    fn merge(&mut self, other: &Self) {
        *self = self.saturating_add(*other);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);
    const SLOT: Duration = Duration::from_secs(15);

    fn rolling() -> Rolling<u64> {
        Rolling::new(SLOT, 15 * MINUTE)
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_counts_in_each_window_until_the_window_has_passed() {
        let mut rolling = rolling();
        advance(7 * SECOND).await;
        rolling.add(&3);
        for minutes in [1, 5, 15] {
            let window = minutes * MINUTE;
            advance(window.saturating_sub(rolling.began.elapsed() - 7 * SECOND)).await;
            assert_eq!(rolling.last(window).sum, 3, "after {minutes} min");
            advance(SLOT).await;
            assert_eq!(rolling.last(window).sum, 0, "a slot later");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_covers_at_most_a_slot_more_and_nothing_before_the_start() {
        let rolling = rolling();
        assert_eq!(rolling.last(MINUTE).covers, Duration::ZERO);
        advance(20 * SECOND).await;
        assert_eq!(rolling.last(MINUTE).covers, 20 * SECOND);
        for _ in 0..200 {
            advance(7 * SECOND).await;
            let covers = rolling.last(MINUTE).covers;
            let due = rolling.began.elapsed().min(MINUTE);
            assert!(covers >= due && covers < MINUTE + SLOT, "{covers:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_any_time_only_the_slots_of_the_longest_window_are_kept() {
        let mut rolling = rolling();
        for _ in 0..2_000 {
            rolling.add(&1);
            advance(SECOND).await;
        }
        assert_eq!(rolling.slots.len(), 61);
        advance(1_000 * MINUTE).await;
        assert_eq!(rolling.last(15 * MINUTE).sum, 0);
        rolling.add(&1);
        assert_eq!(rolling.slots.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_longer_than_the_longest_is_cut() {
        let mut rolling = rolling();
        rolling.add(&1);
        advance(20 * MINUTE).await;
        let window = rolling.last(60 * MINUTE);
        assert_eq!(window.sum, 0);
        assert!(window.covers <= 15 * MINUTE + SLOT);
    }

    proptest! {
        /// Compared with a list of everything that was added.
        #[test]
        fn a_window_has_what_was_added_in_the_time_that_it_covers(
            steps in prop::collection::vec((0_u64..40, 0_u64..9), 1..120),
            minutes in 1_u32..=15,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut rolling = rolling();
                let mut added = Vec::new();
                for (pause, value) in steps {
                    advance(Duration::from_secs(pause)).await;
                    rolling.add(&value);
                    added.push((Instant::now(), value));
                }
                let window = rolling.last(minutes * MINUTE);
                let since = Instant::now() - window.covers;
                let expected = added.iter().filter(|(at, _)| *at >= since);
                assert_eq!(window.sum, expected.map(|(_, value)| value).sum::<u64>());
            });
        }
    }
}
