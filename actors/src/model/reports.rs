//! Reports of denied actions: how many a process may send at once, and what the log says of them.
//!
//! Native code of a model that has taken over its process can write frames as fast as the server reads them. So each frame
//! needs something that the server has asked for, and one that does not ends the process.

use headroom_model_protocol::DeniedAction;

use super::host_process::HostError;

/// The reports that may come before the process has answered: one for each kind of action.
#[derive(Debug)]
pub(super) struct Reports(usize);

impl Reports {
    pub(super) fn new() -> Self {
        Self(DeniedAction::ALL.len())
    }

    /// The process has sent one.
    pub(super) fn take(&mut self) -> Result<(), HostError> {
        let rest = self.0.checked_sub(1);
        self.0 = rest.ok_or(HostError::Unexpected("a report of denied actions"))?;
        Ok(())
    }
}

/// Logs that the sandbox has denied `host` some actions. The process's own lines tell more of each.
pub(super) fn log_denied(host: &str, action: DeniedAction, count: u64) {
    let denied = action.label();
    tracing::warn!(host, denied, count, "a model tried what its sandbox denies");
}
