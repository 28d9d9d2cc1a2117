//! The state of a host that the model's owner and resource can see. It outlives the host's processes
//! and the host actor's incarnations.

use std::sync::{Arc, Weak};
use std::time::Duration;

use headroom_model_protocol::{DeniedAction, LoadedModel};
use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::memory_monitor::ReplaceReason;
use crate::kernel::{Clock, NoticeKind, ProcessExit, ProcessRef, Timestamp};

/// Counts the processes of one host that became ready, to tell one from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ProcessNumber(u64);

/// Why a process that had been ready has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndCause {
    /// It crashed.
    Crash,
    /// The kernel killed it because memory had run out.
    OomKill,
    /// [`HostState::kill`], because memory was exhausted. The model is being unloaded.
    Exhausted,
    /// Any other: it was killed from outside, for example.
    Other,
}

/// The shared state of one host. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct HostState(Arc<watch::Sender<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    /// The process that takes requests.
    serving: Option<ProcessNumber>,
    loaded: Option<Arc<LoadedModel>>,
    /// The latest process, ready or not.
    process: Weak<ProcessRef>,
    /// Whether [`HostState::kill`] has killed it.
    killed: bool,
    /// The last process that was ready.
    number: ProcessNumber,
    last_end: Option<(ProcessNumber, EndCause)>,
    replace_reason: Option<ReplaceReason>,
    overgrown_to: u64,
    measured: Option<Measured>,
    /// When the first of the last denials was told, and how many have been since.
    denials_told: Option<(Instant, usize)>,
}

/// In this time, denials of each kind are told once in the log: a process may report any number of them.
const DENIALS_WITHIN: Duration = Duration::from_secs(1);

/// The last measurement of a process.
#[derive(Debug, Clone, Copy)]
struct Measured {
    at: Instant,
    bytes: u64,
    growth: u64,
}

/// What is known of the memory of one host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostMemory {
    /// Its name, for example `silero-vad:1/host-0`.
    pub host: String,
    /// Bytes of its process that belong to no file.
    pub bytes: u64,
    /// Its growth since the load, when it was last measured for leaks.
    pub growth_bytes: u64,
    /// When its bytes were measured.
    pub measured_at: Timestamp,
    /// Why its process is to be replaced: it leaks, or uses far more than expected. `None` if all is
    /// well.
    pub finding: Option<NoticeKind>,
}

impl HostState {
    /// Changes the state, and wakes those who watch [`HostState::serving`] if that has changed.
    fn change(&self, change: impl FnOnce(&mut State)) {
        self.0.send_if_modified(|state| {
            let before = state.serving;
            change(state);
            state.serving != before
        });
    }

    /// What the last process that became ready reported.
    pub(super) fn loaded(&self) -> Option<Arc<LoadedModel>> {
        self.0.borrow().loaded.clone()
    }

    /// The process that takes requests. `None` while there is none, or while it is replaced.
    pub(super) fn serving(&self) -> Option<ProcessNumber> {
        self.0.borrow().serving
    }

    /// Receives every change of [`HostState::serving`].
    pub(super) fn watch_serving(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }

    /// Why the process `number` has ended. `None` while it runs, and after the next one has ended.
    pub(super) fn end_of(&self, number: Option<ProcessNumber>) -> Option<EndCause> {
        let (ended, cause) = self.0.borrow().last_end?;
        (Some(ended) == number).then_some(cause)
    }

    /// Why the process must be replaced, if it must.
    pub(super) fn replace_reason(&self) -> Option<ReplaceReason> {
        self.0.borrow().replace_reason
    }

    /// The most bytes that a process used when it was overgrown; 0 if none was.
    pub(super) fn overgrown_to(&self) -> u64 {
        self.0.borrow().overgrown_to
    }

    /// What is known of the memory of the host called `host`. `None` while it has no process, and
    /// before the first measurement.
    pub(super) fn memory(&self, host: String, clock: &Clock) -> Option<HostMemory> {
        let state = self.0.borrow();
        let measured = state.measured?;
        (state.process.strong_count() > 0).then(|| HostMemory {
            host,
            bytes: measured.bytes,
            growth_bytes: measured.growth,
            measured_at: clock.time_of(measured.at),
            finding: state.replace_reason.map(NoticeKind::from),
        })
    }

    /// The process was measured: its bytes, and its growth since the load.
    pub(super) fn set_measured(&self, bytes: u64, growth: u64) {
        let at = Instant::now();
        self.change(|state| state.measured = Some(Measured { at, bytes, growth }));
    }

    /// A process runs and will load the model.
    pub(super) fn set_process(&self, process: &Arc<ProcessRef>) {
        self.change(|state| {
            state.process = Arc::downgrade(process);
            state.killed = false;
            state.measured = None;
        });
    }

    /// The process is ready.
    pub(super) fn set_ready(&self, loaded: LoadedModel) {
        self.change(|state| {
            state.loaded = Some(Arc::new(loaded));
            state.replace_reason = None;
            state.number.0 += 1;
            state.serving = Some(state.number);
        });
    }

    /// Whether to log a denied action that the process reports.
    pub(super) fn tells_denial(&self) -> bool {
        let mut tells = false;
        self.change(|state| {
            let now = Instant::now();
            let current = state.denials_told;
            let current = current.filter(|(begun, _)| now - *begun < DENIALS_WITHIN);
            let (begun, told) = current.unwrap_or((now, 0));
            tells = told < DeniedAction::ALL.len();
            state.denials_told = Some((begun, told + usize::from(tells)));
        });
        tells
    }

    /// The process takes no more requests.
    pub(super) fn set_not_serving(&self) {
        self.change(|state| state.serving = None);
    }

    /// Kills the process at once, also during a forward, because memory is exhausted.
    pub(super) fn kill(&self) {
        self.change(|state| {
            if let Some(process) = state.process.upgrade() {
                state.killed = true;
                // It may have ended by itself.
                process.signal(Signal::SIGKILL).ok();
            }
        });
    }

    /// Whether [`HostState::kill`] has killed the latest process.
    pub(super) fn is_killed(&self) -> bool {
        self.0.borrow().killed
    }

    /// The process that was ready has ended. Returns why.
    pub(super) fn set_ended(&self, exit: ProcessExit, by_oom_killer: bool) -> EndCause {
        let killed = ProcessExit::Signal(Signal::SIGKILL as i32);
        let was_killed = exit == killed || exit == ProcessExit::Unknown;
        let cause = if was_killed && self.0.borrow().killed {
            EndCause::Exhausted
        } else if by_oom_killer {
            EndCause::OomKill
        } else if exit.is_crash() {
            EndCause::Crash
        } else {
            EndCause::Other
        };
        self.change(|state| state.last_end = Some((state.number, cause)));
        cause
    }

    /// The process must be replaced.
    pub(super) fn request_replacement(&self, reason: ReplaceReason) {
        self.change(|state| {
            state.replace_reason = Some(reason);
            if let ReplaceReason::Overgrown { bytes, .. } = reason {
                state.overgrown_to = state.overgrown_to.max(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn denials_that_come_in_masses_are_told_a_few_times() {
        let state = HostState::default();
        for _ in 0..2 {
            let told = (0..100).filter(|_| state.tells_denial()).count();
            assert_eq!(told, DeniedAction::ALL.len());
            tokio::time::advance(DENIALS_WITHIN).await;
        }
    }
}
