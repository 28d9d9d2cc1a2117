//! Bounds how slow a client may be: a maximum pause and a minimum rate.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket of waiting time. It starts full. Time spent waiting for the client drains it, and
/// each byte refills it by the time that the minimum rate allows for one byte. Time in which the server
/// does not wait for the client is not counted.
#[derive(Debug, Clone)]
pub struct Pace {
    pause_max: Duration,
    bytes_per_second: u64,
    allowance: Duration,
    blocked_since: Option<Instant>,
}

impl Pace {
    /// The client may pause for `pause_max` and must otherwise keep up `bytes_per_second`. With a rate
    /// of 0, any progress refills the bucket.
    pub fn new(pause_max: Duration, bytes_per_second: u64) -> Self {
        Self {
            pause_max,
            bytes_per_second,
            allowance: pause_max,
            blocked_since: None,
        }
    }

    /// The client may pause for longer.
    pub fn allow(&mut self, pause_max: Duration) {
        self.allowance += pause_max.saturating_sub(self.pause_max);
        self.pause_max = self.pause_max.max(pause_max);
    }

    /// Records that the server waits for the client, and returns the deadline of this wait.
    pub fn blocked(&mut self, now: Instant) -> Instant {
        *self.blocked_since.get_or_insert(now) + self.allowance
    }

    /// Whether the server waits for the client.
    pub fn is_blocked(&self) -> bool {
        self.blocked_since.is_some()
    }

    /// How far the client was behind its rate before this wait.
    pub fn behind(&self) -> Duration {
        self.pause_max - self.allowance
    }

    /// Records that the client read or sent `bytes`.
    pub fn progress(&mut self, bytes: u64, now: Instant) {
        let waited = self.blocked_since.take().map(|since| now - since);
        let left = self.allowance.saturating_sub(waited.unwrap_or_default());
        let earned = match self.bytes_per_second {
            0 => self.pause_max,
            rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
        };
        self.allowance = left.saturating_add(earned).min(self.pause_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A client moves `bytes` every `every` seconds. Returns after how many seconds it counts as
    /// too slow, at most 1,000.
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
    fn who_may_pause_for_longer_has_as_much_longer() {
        let mut pace = Pace::new(10 * SECOND, 1000);
        let begin = Instant::now();
        pace.blocked(begin);
        pace.progress(0, begin + 4 * SECOND);
        for _ in 0..2 {
            pace.allow(30 * SECOND);
            assert_eq!(pace.blocked(begin), begin + 26 * SECOND);
        }
        pace.allow(SECOND);
        assert_eq!(pace.blocked(begin), begin + 26 * SECOND);
    }

    #[test]
    fn who_keeps_the_rate_is_never_cut_off_and_who_does_not_is() {
        assert_eq!(lasts(1000, 1), 1000);
        assert_eq!(lasts(9000, 9), 1000);
        assert_eq!(lasts(1_000_000, 9), 1000);
        // One pause longer than the maximum.
        assert_eq!(lasts(1_000_000, 11), 10);
        // Half of the rate: each second costs half a second of the allowance.
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
        // A second call in the same wait returns the same deadline.
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
