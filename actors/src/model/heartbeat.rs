//! When a silent process counts as stuck.

use std::time::Duration;

/// Counts the pings that one process has left unanswered. By pings and not by the clock: while the
/// server itself does not run it sends none, and reads no answer either.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    /// Pings since the last sign of life.
    unanswered: u32,
}

impl Heartbeat {
    /// A ping is sent every `interval`; silence longer than `timeout` is too long.
    pub(super) fn new(interval: Duration, timeout: Duration) -> Self {
        Self {
            interval,
            timeout,
            unanswered: 0,
        }
    }

    /// The process has said something.
    pub(super) fn on_sign(&mut self) {
        self.unanswered = 0;
    }

    /// To be called once per interval, before the next ping. Says how long the process has been
    /// silent, when that is too long.
    pub(super) fn on_beat(&mut self) -> Option<Duration> {
        let silent = self.interval.saturating_mul(self.unanswered);
        self.unanswered = self.unanswered.saturating_add(1);
        // The first unanswered ping must have had its interval, however short the timeout is.
        (silent > self.timeout && self.unanswered > 2).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_pings_that_were_sent_and_not_answered_count() {
        let mut heartbeat = Heartbeat::new(SECOND, 2 * SECOND);
        for _ in 0..100 {
            assert_eq!(heartbeat.on_beat(), None);
            heartbeat.on_sign();
        }
        for _ in 0..3 {
            assert_eq!(heartbeat.on_beat(), None);
        }
        assert_eq!(heartbeat.on_beat(), Some(3 * SECOND));
    }

    #[test]
    fn a_timeout_below_the_interval_still_leaves_a_ping_its_time() {
        let mut heartbeat = Heartbeat::new(SECOND, SECOND / 10);
        assert_eq!((heartbeat.on_beat(), heartbeat.on_beat()), (None, None));
        assert_eq!(heartbeat.on_beat(), Some(2 * SECOND));
    }
}
