//! Decides when a host process that does not answer counts as stuck, and which answers it owes.

use std::time::Duration;

use super::host_process::HostError;
use super::reports::Reports;

/// Counts the pings that one process has left unanswered. It counts pings and not time, because a
/// server that is stopped sends no pings and reads no replies.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    unanswered: u32,
    /// Reports that may come before the next answer.
    reports: Reports,
}

impl Heartbeat {
    /// A ping is sent every `interval`. A process that is behind by `timeout` counts as stuck.
    pub(super) fn new(interval: Duration, timeout: Duration) -> Self {
        Self {
            interval,
            timeout,
            unanswered: 0,
            reports: Reports::new(),
        }
    }

    /// There is another process.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.interval, self.timeout);
    }

    /// The process has answered a ping.
    pub(super) fn on_pong(&mut self) -> Result<(), HostError> {
        let rest = self.unanswered.checked_sub(1);
        self.unanswered = rest.ok_or(HostError::Unexpected("the answer to a ping"))?;
        self.reports = Reports::new();
        Ok(())
    }

    /// The process has reported denied actions, which it does before it answers a ping.
    pub(super) fn on_report(&mut self) -> Result<(), HostError> {
        match self.unanswered {
            0 => Err(HostError::Unexpected("a report of denied actions")),
            _ => self.reports.take(),
        }
    }

    /// To be called once per interval, before the next ping. Returns for how long the process has not answered, if it
    /// counts as stuck.
    pub(super) fn before_ping(&mut self) -> Option<Duration> {
        let silent = self.interval.saturating_mul(self.unanswered);
        self.unanswered = self.unanswered.saturating_add(1);
        // Even with a short timeout, the first ping gets one interval to be answered.
        (silent > self.timeout && self.unanswered > 2).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use headroom_model_protocol::DeniedAction;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_unanswered_pings_count() {
        let mut heartbeat = Heartbeat::new(SECOND, 2 * SECOND);
        for _ in 0..100 {
            assert_eq!(heartbeat.before_ping(), None);
            heartbeat.on_pong().unwrap();
        }
        for _ in 0..3 {
            assert_eq!(heartbeat.before_ping(), None);
        }
        assert_eq!(heartbeat.before_ping(), Some(3 * SECOND));
        heartbeat.restart();
        assert_eq!(heartbeat.before_ping(), None);
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

    #[test]
    fn each_answer_and_each_report_needs_a_ping_before_it() {
        let mut heartbeat = Heartbeat::new(SECOND, 10 * SECOND);
        for pings in 0..3 {
            assert!(heartbeat.on_pong().is_err());
            assert!(heartbeat.on_report().is_err());
            for _ in 0..pings {
                heartbeat.before_ping();
            }
            for _ in 0..pings {
                for _ in DeniedAction::ALL {
                    heartbeat.on_report().unwrap();
                }
                assert!(heartbeat.on_report().is_err());
                heartbeat.on_pong().unwrap();
            }
        }
    }
}
