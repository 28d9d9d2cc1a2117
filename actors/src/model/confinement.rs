//! What a process tells of its sandbox before it has loaded or read its model: how it is confined, and what it is denied.

use headroom_model_protocol::{DeniedAction, Frame, HostReply, Sandbox, SandboxMode, SandboxState};

use super::host_process::HostError;
use super::reports::Reports;

/// Reads the replies of one process up to its result.
#[derive(Debug)]
pub(super) struct Confinement {
    mode: SandboxMode,
    reported: Option<Sandbox>,
    reports: Reports,
}

impl Confinement {
    /// Of a process that was asked to confine itself by `mode`.
    pub(super) fn new(mode: SandboxMode) -> Self {
        Self {
            mode,
            reported: None,
            reports: Reports::new(),
        }
    }

    /// Takes a reply. Returns it unless it is about the sandbox. Fails at one that a process of ours would not send.
    pub(super) fn take(
        &mut self,
        Frame { header, payload }: Frame<HostReply>,
        on_denied: impl FnOnce(DeniedAction, u64),
    ) -> Result<Option<HostReply>, HostError> {
        if !payload.is_empty() {
            return Err(HostError::Unexpected("bytes beside a message"));
        }
        match header {
            // Later ones may come from the model.
            HostReply::Confined(sandbox) if self.reported.is_none() => {
                check(self.mode, &sandbox)?;
                self.reported = Some(sandbox);
            }
            HostReply::Denied { action, count } => {
                self.reports.take()?;
                on_denied(action, count);
            }
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    /// The process has loaded or read its model. Returns how it is confined.
    pub(super) fn finish(self) -> Result<Sandbox, HostError> {
        let sandbox = self.reported.unwrap_or_default();
        check(self.mode, &sandbox)?;
        Ok(sandbox)
    }
}

/// Whether a process that is confined like this may go on. The process has checked it, too.
fn check(mode: SandboxMode, sandbox: &Sandbox) -> Result<(), HostError> {
    match (mode, sandbox.state) {
        (SandboxMode::Required, SandboxState::Partial | SandboxState::Off) => {
            Err(HostError::NotConfined(sandbox.missing.join("; ")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_lacks_a_part_of_a_required_sandbox_is_refused() {
        for mode in SandboxMode::ALL {
            for state in SandboxState::ALL {
                let sandbox = Sandbox {
                    state,
                    missing: vec!["landlock".to_owned()],
                    ..Sandbox::default()
                };
                let checked = check(mode, &sandbox);
                let is_refused = mode == SandboxMode::Required && state != SandboxState::Full;
                assert_eq!(checked.is_err(), is_refused, "{mode:?} {state:?}");
                if let Err(error) = checked {
                    assert!(error.to_string().ends_with("landlock"), "{error}");
                }
            }
        }
    }
}
