//! How recent the data is that a replica shows over one connection.
//!
//! The tracker keeps the latest moment up to which every commit is known to be visible. That moment
//! never moves back, and the lag grows no faster than time passes. So an earlier reading stays true,
//! and a new one is needed once per interval, not once per call.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::fallback::FallbackReason;

/// The greatest age of a reading in use: one short query four times a second for each connection, and for
/// the primary.
const READING_AGE_MAX: Duration = Duration::from_millis(250);

/// What a server was found to show.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reading {
    /// The server takes writes: it is not a replica any more.
    IsPrimary,
    /// Every commit before this moment.
    VisibleUntil(Instant),
    /// Nothing can be said: it follows no primary, or another one, or the primary cannot be asked.
    Unknown,
}

/// How recent the data must be that a caller reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct FreshnessBound {
    /// How far the data may be behind the primary's.
    pub(super) lag_max: Duration,
    /// Every commit before this moment must be visible, whatever the lag may be.
    pub(super) includes: Option<Instant>,
}

impl FreshnessBound {
    /// The greatest age of a reading in use. A replica's reading and the primary's add up to half of the
    /// bound at most.
    pub(super) fn reading_age_max(self) -> Duration {
        READING_AGE_MAX.min(self.lag_max / 4)
    }

    /// Whether data that shows all before `moment` is within the bound, and will be for a while.
    pub(super) fn may_include(self, moment: Instant) -> bool {
        moment.elapsed() <= self.lag_max / 2 && self.includes.is_none_or(|needed| needed <= moment)
    }
}

/// The readings of one connection.
#[derive(Debug, Default)]
pub(super) struct FreshnessTracker {
    readings: Mutex<Readings>,
    /// Held while the server is asked: callers that need a reading at the same time ask once.
    pub(super) asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Readings {
    /// Every commit before this moment is visible.
    visible_until: Option<Instant>,
    last_reading_at: Option<Instant>,
    is_primary: bool,
}

impl FreshnessTracker {
    /// Whether the data is within `bound` by a recent reading, or why not; `None` when there is no such
    /// reading.
    pub(super) fn recent(&self, bound: FreshnessBound) -> Option<Result<(), FallbackReason>> {
        let readings = self.readings();
        let is_recent = readings
            .last_reading_at
            .is_some_and(|at| at.elapsed() < bound.reading_age_max());
        is_recent.then(|| readings.compare(bound))
    }

    /// Adds a reading, and compares the data with `bound`. The server was asked at `asked_at`.
    pub(super) fn record(
        &self,
        asked_at: Instant,
        reading: Reading,
        bound: FreshnessBound,
    ) -> Result<(), FallbackReason> {
        let mut readings = self.readings();
        readings.record(asked_at, reading);
        readings.compare(bound)
    }

    fn readings(&self) -> MutexGuard<'_, Readings> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Readings {
    fn record(&mut self, asked_at: Instant, reading: Reading) {
        self.last_reading_at = Some(asked_at);
        self.is_primary = reading == Reading::IsPrimary;
        if let Reading::VisibleUntil(until) = reading {
            self.visible_until = self.visible_until.max(Some(until));
        }
    }

    fn compare(&self, bound: FreshnessBound) -> Result<(), FallbackReason> {
        if self.is_primary {
            return Err(FallbackReason::Promoted);
        }
        let is_fresh = self.visible_until.is_some_and(|until| {
            until.elapsed() <= bound.lag_max && bound.includes.is_none_or(|moment| moment <= until)
        });
        is_fresh.then_some(()).ok_or(FallbackReason::Lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(lag_max: Duration) -> FreshnessBound {
        FreshnessBound {
            lag_max,
            includes: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_reading_bounds_the_lag_from_then_on() {
        const SECOND: Duration = Duration::from_secs(1);
        let mut readings = Readings::default();
        let within = |readings: &Readings, lag: Duration| readings.compare(bound(lag)).is_ok();
        assert!(!within(&readings, SECOND * 100), "there is no reading yet");
        let start = Instant::now();
        tokio::time::advance(SECOND * 1000).await;
        readings.record(Instant::now(), Reading::VisibleUntil(Instant::now()));
        tokio::time::advance(SECOND * 3).await;
        // An earlier moment says nothing new: all was visible three seconds ago.
        readings.record(Instant::now(), Reading::VisibleUntil(start));
        assert!(within(&readings, SECOND * 3) && !within(&readings, SECOND * 2));
        readings.record(Instant::now(), Reading::Unknown);
        assert!(within(&readings, SECOND * 3));
        tokio::time::advance(SECOND).await;
        assert!(!within(&readings, SECOND * 3));
        readings.record(
            Instant::now(),
            Reading::VisibleUntil(Instant::now() - SECOND),
        );
        assert!(within(&readings, SECOND));
        let after = FreshnessBound {
            includes: Some(Instant::now()),
            ..bound(SECOND)
        };
        assert_eq!(readings.compare(after), Err(FallbackReason::Lag));
        readings.record(Instant::now(), Reading::IsPrimary);
        let promoted = Err(FallbackReason::Promoted);
        assert_eq!(readings.compare(bound(SECOND)), promoted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_is_used_for_a_while() {
        let tracker = FreshnessTracker::default();
        let bound = bound(READING_AGE_MAX * 4);
        assert_eq!(tracker.recent(bound), None);
        let recorded = tracker.record(Instant::now(), Reading::Unknown, bound);
        let stale = Err(FallbackReason::Lag);
        assert_eq!(recorded, stale);
        assert_eq!(tracker.recent(bound), Some(stale));
        tokio::time::advance(READING_AGE_MAX).await;
        assert_eq!(tracker.recent(bound), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_recent_enough_for_half_of_the_bound() {
        let bound = bound(Duration::from_secs(10));
        let moment = Instant::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(bound.may_include(moment));
        let after = FreshnessBound {
            includes: Some(Instant::now()),
            ..bound
        };
        assert!(!after.may_include(moment) && after.may_include(Instant::now()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!bound.may_include(moment));
    }
}
