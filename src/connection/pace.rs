//! How slow a client may be: a pause, and a least rate beyond it.

use std::time::Duration;

use tokio::time::Instant;

/// The time that a client may keep us waiting, as a leaky bucket: it begins full, waiting drains it,
/// and each byte fills it by the time that the least rate allows for it. Time in which we are not
/// waiting for the client does not count.
#[derive(Debug, Clone)]
pub struct Pace {
    patience_max: Duration,
    bytes_per_second: u64,
    patience: Duration,
    blocked_since: Option<Instant>,
}

impl Pace {
    /// A client that may pause for `patience_max`, and must keep up `bytes_per_second` otherwise; 0
    /// asks for no rate, only for progress.
    pub fn new(patience_max: Duration, bytes_per_second: u64) -> Self {
        Self {
            patience_max,
            bytes_per_second,
            patience: patience_max,
            blocked_since: None,
        }
    }

    /// We are waiting for the client: until when.
    pub fn blocked(&mut self, now: Instant) -> Instant {
        *self.blocked_since.get_or_insert(now) + self.patience
    }

    /// The client took or sent `bytes`.
    pub fn progress(&mut self, bytes: u64, now: Instant) {
        let waited = self.blocked_since.take().map(|since| now - since);
        let left = self.patience.saturating_sub(waited.unwrap_or_default());
        let earned = match self.bytes_per_second {
            0 => self.patience_max,
            rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
        };
        self.patience = left.saturating_add(earned).min(self.patience_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// For how many seconds a client lasts that moves `bytes` every `every` seconds, up to 1,000.
    fn lasts(bytes: u64, every: u32) -> u32 {
        let mut pace = Pace::new(10 * SECOND, 1000);
        let begin = Instant::now();
        let mut now = begin;
        while now < begin + 1000 * SECOND {
            if pace.blocked(now) < now + every * SECOND {
                return (pace.blocked(now) - begin).as_secs() as u32;
            }
            now += every * SECOND;
            pace.progress(bytes, now);
        }
        1000
    }

    #[test]
    fn who_keeps_the_rate_is_never_cut_off_and_who_does_not_is() {
        assert_eq!(lasts(1000, 1), 1000);
        assert_eq!(lasts(9000, 9), 1000);
        assert_eq!(lasts(1_000_000, 9), 1000);
        // A pause beyond the patience, whatever came before.
        assert_eq!(lasts(1_000_000, 11), 10);
        // Half the rate: half of the patience is lost each second.
        assert!((18..=21).contains(&lasts(500, 1)), "{}", lasts(500, 1));
        assert!(lasts(1, 1) <= 11);
    }

    #[test]
    fn time_in_which_nobody_waits_for_the_client_does_not_count() {
        let mut pace = Pace::new(10 * SECOND, 1000);
        let now = Instant::now();
        pace.progress(1, now + 500 * SECOND);
        let deadline = pace.blocked(now + 500 * SECOND);
        assert_eq!(deadline, now + 510 * SECOND);
        // Asked again, it is the same wait.
        assert_eq!(pace.blocked(now + 505 * SECOND), deadline);
    }

    #[test]
    fn without_a_rate_any_progress_will_do() {
        let mut pace = Pace::new(10 * SECOND, 0);
        let mut now = Instant::now();
        for _ in 0..100 {
            assert!(pace.blocked(now) >= now + 9 * SECOND);
            now += 9 * SECOND;
            pace.progress(1, now);
        }
    }
}
