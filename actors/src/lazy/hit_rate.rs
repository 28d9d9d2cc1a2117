//! How often callers found their resource ready, since the start and in the last minutes.
//!
//! The loads of dependents are not counted: each of them finds its dependencies ready because another
//! load was slow before.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::kernel::{Merge, Rolling};

/// The windows are exact to this time.
const SLOT: Duration = Duration::from_secs(10);

const MINUTE: Duration = Duration::from_secs(60);

/// Hits divided by hits and misses, from 0 to 1. `None` if there was no use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
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
    #[allow(clippy::cast_precision_loss, reason = "a rate needs no exact counts")]
    fn rate(self) -> Option<f64> {
        (self.uses > 0).then(|| self.hits as f64 / self.uses as f64)
    }
}

impl Merge for Tally {
    fn merge(&mut self, other: &Self) {
        self.hits += other.hits;
        self.uses += other.uses;
    }
}

/// Counts the uses of all resources.
#[derive(Debug)]
pub(super) struct HitRate {
    since_start: Tally,
    recent: Rolling<Tally>,
}

impl HitRate {
    pub(super) fn new() -> Self {
        Self {
            since_start: Tally::default(),
            recent: Rolling::new(SLOT, 15 * MINUTE),
        }
    }

    pub(super) fn record(&mut self, is_hit: bool) {
        let one = Tally {
            hits: u64::from(is_hit),
            uses: 1,
        };
        self.since_start.merge(&one);
        self.recent.add(&one);
    }

    pub(super) fn rates(&self) -> HitRates {
        let last = |minutes| self.recent.last(minutes * MINUTE).sum.rate();
        HitRates {
            since_start: self.since_start.rate(),
            last_1_minute: last(1),
            last_5_minutes: last(5),
            last_15_minutes: last(15),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_is_no_rate_without_a_use_and_each_window_forgets_what_is_older() {
        let mut rate = HitRate::new();
        assert_eq!(rate.rates(), HitRates::default());
        rate.record(true);
        rate.record(true);
        advance(2 * MINUTE).await;
        rate.record(true);
        rate.record(false);
        let rates = rate.rates();
        assert_eq!(rates.last_1_minute, Some(0.5));
        assert_eq!(rates.last_5_minutes, Some(0.75));
        advance(20 * MINUTE).await;
        let expected = HitRates {
            since_start: Some(0.75),
            ..HitRates::default()
        };
        assert_eq!(rate.rates(), expected);
    }
}
