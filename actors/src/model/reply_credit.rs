//! How many replies a process may still send beside those to a call.
//!
//! Native code of a model that has taken over its process can write frames as fast as the server reads them. So each
//! such reply needs a request of the server before it, and a reply without one ends the process.

use headroom_model_protocol::DeniedAction;

use super::host_process::HostError;

/// Reports of denied actions that may come at once: one for each kind.
const REPORTS: u32 = DeniedAction::ALL.len() as u32;

/// The replies that the server waits for.
#[derive(Debug)]
pub(super) struct ReplyCredit {
    pongs: u32,
    reports: u32,
}

impl ReplyCredit {
    /// For a process that opens a model. It reports once what was denied meanwhile.
    pub(super) fn new() -> Self {
        Self {
            pongs: 0,
            reports: REPORTS,
        }
    }

    /// The server sends a ping. The process reports before it answers.
    pub(super) fn on_ping(&mut self) {
        self.pongs = self.pongs.saturating_add(1);
        self.reports = self.reports.saturating_add(REPORTS);
    }

    /// The process has answered a ping.
    pub(super) fn on_pong(&mut self) -> Result<(), HostError> {
        take(&mut self.pongs, "the answer to a ping")
    }

    /// The process has reported denied actions of one kind.
    pub(super) fn on_report(&mut self) -> Result<(), HostError> {
        take(&mut self.reports, "a report of denied actions")
    }
}

fn take(credit: &mut u32, reply: &'static str) -> Result<(), HostError> {
    let rest = credit.checked_sub(1);
    *credit = rest.ok_or(HostError::Unexpected(reply))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reply_needs_a_request_before_it() {
        let mut credit = ReplyCredit::new();
        assert!(credit.on_pong().is_err());
        for pings in 0..3 {
            for _ in 0..REPORTS {
                credit.on_report().unwrap();
            }
            assert!(credit.on_report().is_err(), "after {pings} pings");
            credit.on_ping();
            credit.on_pong().unwrap();
            assert!(credit.on_pong().is_err());
        }
    }
}
