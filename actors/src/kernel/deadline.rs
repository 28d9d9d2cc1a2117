//! Deadlines of calls.

use std::time::Duration;

use tokio::time::Instant;

/// The longest wait: a longer one could overflow the clock.
const WITHIN_MAX: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// The moment that is `within` from now, a year at most. [`Duration::MAX`] is allowed, so a caller
/// can ask for "no deadline" and never overflows the clock.
pub fn deadline(within: Duration) -> Instant {
    Instant::now() + within.min(WITHIN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_duration_gives_a_deadline_too() {
        let now = Instant::now();
        assert_eq!(deadline(WITHIN_MAX / 2), now + WITHIN_MAX / 2);
        assert_eq!(deadline(Duration::MAX), now + WITHIN_MAX);
    }
}
