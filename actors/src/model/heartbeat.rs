//! Decides when a host process that does not answer counts as stuck.

use std::time::Duration;

/// Counts the pings that one process has left unanswered. It counts pings and not time, because a
/// server that is stopped sends no pings and reads no replies.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    /// Pings since the last frame of the process.
    unanswered: u32,
}

impl Heartbeat {
    /// A ping is sent every `interval`. After `timeout` without a frame the process counts as stuck.
    pub(super) fn new(interval: Duration, timeout: Duration) -> Self {
        Self {
            interval,
            timeout,
            unanswered: 0,
        }
    }

    /// The process has sent a frame.
    pub(super) fn on_frame(&mut self) {
        self.unanswered = 0;
    }

    /// To be called once per interval, before the next ping. Returns how long the process has sent
    /// nothing, if it counts as stuck.
    pub(super) fn before_ping(&mut self) -> Option<Duration> {
        let silent = self.interval.saturating_mul(self.unanswered);
        self.unanswered = self.unanswered.saturating_add(1);
        // Even with a short timeout, the first ping gets one interval to be answered.
        (silent > self.timeout && self.unanswered > 2).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_unanswered_pings_count() {
        let mut heartbeat = Heartbeat::new(SECOND, 2 * SECOND);
        for _ in 0..100 {
            assert_eq!(heartbeat.before_ping(), None);
            heartbeat.on_frame();
        }
        for _ in 0..3 {
            assert_eq!(heartbeat.before_ping(), None);
        }
        assert_eq!(heartbeat.before_ping(), Some(3 * SECOND));
    }

    #[test]
    fn a_ping_gets_one_interval_even_if_the_timeout_is_shorter() {
        let mut heartbeat = Heartbeat::new(SECOND, SECOND / 10);
        assert_eq!(
            (heartbeat.before_ping(), heartbeat.before_ping()),
            (None, None)
        );
        assert_eq!(heartbeat.before_ping(), Some(2 * SECOND));
    }
}
