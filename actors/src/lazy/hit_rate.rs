//! How often callers found their resource ready, since the start and in the last minutes.
//!
//! The loads of dependents are not counted: each of them finds its dependencies ready because another
//! load was slow before.

use std::time::Duration;

use serde::Serialize;

/// The time that one bucket of the ring covers, in seconds.
const BUCKET_SECONDS: u64 = 10;

/// The longest window, in buckets.
const WINDOW_MAX: u64 = 15 * 60 / BUCKET_SECONDS;

/// One bucket more than the longest window has: the present bucket is not full.
const BUCKETS: usize = WINDOW_MAX as usize + 1;

/// Hits divided by hits and misses, from 0 to 1. `None` if there was no use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct HitRates {
    /// Since the loader started.
    pub since_start: Option<f64>,
    /// In the last minute. Each window may be up to ten seconds longer.
    pub last_1_minute: Option<f64>,
    /// In the last 5 minutes.
    pub last_5_minutes: Option<f64>,
    /// In the last 15 minutes.
    pub last_15_minutes: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    hits: u64,
    uses: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.hits += other.hits;
        self.uses += other.uses;
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate needs no exact counts")]
    fn rate(self) -> Option<f64> {
        (self.uses > 0).then(|| self.hits as f64 / self.uses as f64)
    }
}

/// Counts the uses of all resources. Times are relative to the loader's start.
#[derive(Debug)]
pub(super) struct HitRate {
    total: Tally,
    /// The tally of each of the last buckets, with the number of the bucket. A place of the ring that
    /// was not used since has an older number.
    ring: [(u64, Tally); BUCKETS],
}

impl Default for HitRate {
    fn default() -> Self {
        Self {
            total: Tally::default(),
            ring: [(0, Tally::default()); BUCKETS],
        }
    }
}

impl HitRate {
    pub(super) fn record(&mut self, now: Duration, is_hit: bool) {
        let one = Tally {
            hits: u64::from(is_hit),
            uses: 1,
        };
        self.total.add(one);
        let number = now.as_secs() / BUCKET_SECONDS;
        let place = usize::try_from(number).unwrap_or(0) % BUCKETS;
        let (used_for, tally) = &mut self.ring[place];
        if std::mem::replace(used_for, number) != number {
            *tally = Tally::default();
        }
        tally.add(one);
    }

    pub(super) fn rates(&self, now: Duration) -> HitRates {
        let current = now.as_secs() / BUCKET_SECONDS;
        let last = |minutes: u64| {
            let buckets = minutes * 60 / BUCKET_SECONDS;
            let mut sum = Tally::default();
            for (number, tally) in &self.ring {
                if number + buckets >= current {
                    sum.add(*tally);
                }
            }
            sum.rate()
        };
        HitRates {
            since_start: self.total.rate(),
            last_1_minute: last(1),
            last_5_minutes: last(5),
            last_15_minutes: last(15),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn there_is_no_rate_without_a_use() {
        let rate = HitRate::default();
        assert_eq!(rate.rates(seconds(0)), HitRates::default());
        assert_eq!(rate.rates(seconds(100_000)), HitRates::default());
    }

    #[test]
    fn each_window_forgets_what_is_older() {
        let mut rate = HitRate::default();
        rate.record(seconds(5), false);
        let at = |now| {
            let rates = rate.rates(seconds(now));
            assert_eq!(rates.since_start, Some(0.0));
            [
                rates.last_1_minute,
                rates.last_5_minutes,
                rates.last_15_minutes,
            ]
        };
        let (none, all) = (None, Some(0.0));
        assert_eq!(at(65), [all, all, all]);
        assert_eq!(at(75), [none, all, all]);
        assert_eq!(at(305), [none, all, all]);
        assert_eq!(at(315), [none, none, all]);
        assert_eq!(at(905), [none, none, all]);
        assert_eq!(at(915), [none, none, none]);
    }

    #[test]
    fn a_place_of_the_ring_is_used_again() {
        let mut rate = HitRate::default();
        for _ in 0..3 {
            rate.record(seconds(0), true);
        }
        let around = BUCKETS as u64 * BUCKET_SECONDS;
        rate.record(seconds(around), false);
        rate.record(seconds(around), true);
        let rates = rate.rates(seconds(around));
        assert_eq!(rates.since_start, Some(0.8));
        assert_eq!(rates.last_1_minute, Some(0.5));
        assert_eq!(rates.last_15_minutes, Some(0.5));
    }
}
