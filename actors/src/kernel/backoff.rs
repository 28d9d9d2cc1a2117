//! How long to wait before a retry.
//!
//! Exponential with full jitter (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture
//! Blog, 2015): the wait is uniform between zero and a ceiling that doubles with each failure, so
//! that children which failed together do not restart together.

use std::time::Duration;

use rand::Rng;

/// Exponential backoff with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    reset_after: Duration,
}

/// An invalid backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BackoffError {
    /// The first ceiling is above the last.
    #[error("the smallest backoff ({min:?}) is above the largest ({max:?})")]
    MinAboveMax {
        /// The first ceiling.
        min: Duration,
        /// The last ceiling.
        max: Duration,
    },
    /// A first ceiling of zero would never grow.
    #[error("the smallest backoff is zero")]
    Zero,
}

impl Backoff {
    /// The default of supervisors: ceilings from 100 ms to 10 s, reset after 30 s without a failure.
    pub const DEFAULT: Self = Self {
        min: Duration::from_millis(100),
        max: Duration::from_secs(10),
        reset_after: Duration::from_secs(30),
    };

    /// Ceilings double from `min` up to `max`. After a run of `reset_after` without a failure they
    /// start at `min` again.
    ///
    /// # Errors
    /// When `min` is zero or above `max`.
    pub fn try_new(
        min: Duration,
        max: Duration,
        reset_after: Duration,
    ) -> Result<Self, BackoffError> {
        if min.is_zero() {
            return Err(BackoffError::Zero);
        }
        if min > max {
            return Err(BackoffError::MinAboveMax { min, max });
        }
        Ok(Self {
            min,
            max,
            reset_after,
        })
    }

    /// The longest wait after `failures` failures in a row (1 for the first).
    pub fn ceiling(&self, failures: u32) -> Duration {
        let factor = 2u32.saturating_pow(failures.saturating_sub(1));
        self.min.saturating_mul(factor).min(self.max)
    }

    /// A random wait after `failures` failures in a row.
    pub fn delay(&self, failures: u32) -> Duration {
        rand::rng().random_range(Duration::ZERO..=self.ceiling(failures))
    }

    /// Whether a child that ran for `uptime` counts as stable again.
    pub fn is_stable(&self, uptime: Duration) -> bool {
        uptime >= self.reset_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn ceilings_double_up_to_the_largest() {
        let backoff = Backoff::try_new(ms(100), ms(1500), ms(0)).unwrap();
        let ceilings: Vec<_> = (1..=6).map(|n| backoff.ceiling(n)).collect();
        assert_eq!(
            ceilings,
            [ms(100), ms(200), ms(400), ms(800), ms(1500), ms(1500)]
        );
        assert_eq!(backoff.ceiling(u32::MAX), ms(1500));
    }

    #[test]
    fn delays_fill_the_range_and_never_leave_it() {
        let backoff = Backoff::try_new(ms(100), ms(1500), ms(0)).unwrap();
        let delays: Vec<_> = (0..2000).map(|_| backoff.delay(3)).collect();
        assert!(delays.iter().all(|delay| *delay <= ms(400)));
        assert!(
            delays.iter().any(|delay| *delay < ms(100)),
            "full jitter reaches down to zero"
        );
        assert!(
            delays.iter().any(|delay| *delay > ms(300)),
            "full jitter reaches the ceiling"
        );
    }

    #[test]
    fn an_invalid_backoff_is_refused() {
        assert_eq!(
            Backoff::try_new(ms(0), ms(1), ms(0)),
            Err(BackoffError::Zero)
        );
        assert!(Backoff::try_new(ms(2), ms(1), ms(0)).is_err());
    }
}
