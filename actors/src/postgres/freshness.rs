//! How recent the data is that a replica shows over one connection.
//!
//! Kept as the moment up to which all that was committed is known to be visible. That moment only moves
//! on, and lag cannot grow faster than time does: so what was found once stays true, and is asked for
//! again not per call but per interval.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::error::Error;
use super::server_info::{self, Lag};

/// How old a reading may be: a small question four times a second, per connection in use.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What is known of one connection's server.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    known: Mutex<Known>,
    /// Held by the one who asks.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Known {
    /// All that was committed before is visible.
    as_of: Option<Instant>,
    asked_at: Option<Instant>,
    /// It takes writes: it was promoted.
    is_primary: bool,
}

/// What data a caller is content with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// How far it may be behind.
    pub(super) lag_max: Duration,
    /// What was committed before this moment must be visible in any case.
    pub(super) since: Option<Instant>,
}

/// What the data is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As recent as is wanted.
    Fresh,
    /// Not so, or not for sure.
    Stale,
    /// The server is no replica any more.
    IsPrimary,
}

impl Freshness {
    /// Whether what `connection`, to which this belongs, shows is as recent as `wanted`. Asks the
    /// server where that was not done lately; several callers ask once.
    ///
    /// # Errors
    /// When the server cannot be asked. The caller bounds the time.
    pub(super) async fn judge(
        &self,
        connection: &Arc<Connection>,
        wanted: Wanted,
    ) -> Result<Verdict, Error> {
        let again = LOOK_AGAIN.min(wanted.lag_max / 2);
        if let Some(verdict) = self.known().verdict(wanted, again) {
            return Ok(verdict);
        }
        let _asking = self.asking.lock().await;
        if let Some(verdict) = self.known().verdict(wanted, again) {
            return Ok(verdict);
        }
        let asked = Instant::now();
        let lag = server_info::lag(connection).await?;
        let mut known = self.known();
        known.learn(asked, lag);
        Ok(known.judge(wanted))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn learn(&mut self, asked: Instant, lag: Lag) {
        self.asked_at = Some(asked);
        self.is_primary = lag == Lag::IsPrimary;
        if let Lag::Behind(lag) = lag {
            self.as_of = self.as_of.max(asked.checked_sub(lag));
        }
    }

    /// What is known, if it is from within the last `again`.
    fn verdict(&self, wanted: Wanted, again: Duration) -> Option<Verdict> {
        let is_recent = self.asked_at.is_some_and(|at| at.elapsed() < again);
        is_recent.then(|| self.judge(wanted))
    }

    fn judge(&self, wanted: Wanted) -> Verdict {
        if self.is_primary {
            return Verdict::IsPrimary;
        }
        let is_fresh = self.as_of.is_some_and(|as_of| {
            as_of.elapsed() <= wanted.lag_max && wanted.since.is_none_or(|since| since <= as_of)
        });
        if is_fresh {
            Verdict::Fresh
        } else {
            Verdict::Stale
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(lag_max: Duration) -> Wanted {
        Wanted {
            lag_max,
            since: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_visible_once_bounds_the_lag_from_then_on() {
        const SECOND: Duration = Duration::from_secs(1);
        let mut known = Known::default();
        let within = |known: &Known, lag: Duration| known.judge(wanted(lag)) == Verdict::Fresh;
        assert!(!within(&known, SECOND * 100), "nothing is known yet");
        tokio::time::advance(SECOND * 1000).await;
        known.learn(Instant::now(), Lag::Behind(Duration::ZERO));
        tokio::time::advance(SECOND * 3).await;
        // The last transaction is an hour old, but all was there three seconds ago.
        known.learn(Instant::now(), Lag::Behind(SECOND * 3600));
        assert!(within(&known, SECOND * 3) && !within(&known, SECOND * 2));
        known.learn(Instant::now(), Lag::Unknown);
        assert!(within(&known, SECOND * 3));
        tokio::time::advance(SECOND).await;
        assert!(!within(&known, SECOND * 3));
        known.learn(Instant::now(), Lag::Behind(SECOND));
        assert!(within(&known, SECOND));
        let after = Wanted {
            since: Some(Instant::now()),
            ..wanted(SECOND)
        };
        assert_eq!(known.judge(after), Verdict::Stale);
        known.learn(Instant::now(), Lag::IsPrimary);
        assert_eq!(known.judge(wanted(SECOND)), Verdict::IsPrimary);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_is_of_use_for_a_while() {
        let mut known = Known::default();
        assert_eq!(known.verdict(wanted(LOOK_AGAIN), LOOK_AGAIN), None);
        known.learn(Instant::now(), Lag::Unknown);
        let verdict = known.verdict(wanted(LOOK_AGAIN), LOOK_AGAIN);
        assert_eq!(verdict, Some(Verdict::Stale));
        tokio::time::advance(LOOK_AGAIN).await;
        assert_eq!(known.verdict(wanted(LOOK_AGAIN), LOOK_AGAIN), None);
    }
}
