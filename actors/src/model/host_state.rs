//! The state of a host that its owner and its resource can see. It outlives the host's processes
//! and the actor's incarnations.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use headroom_model_protocol::LoadedModel;
use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::memory_monitor::ReplaceReason;
use crate::kernel::{ProcessExit, ProcessRef};

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
#[derive(Debug, Clone)]
pub(super) struct HostState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    serving: watch::Sender<Option<ProcessNumber>>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
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
}

impl HostState {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            serving: watch::Sender::new(None),
            inner: Mutex::default(),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last process that became ready reported.
    pub(super) fn loaded(&self) -> Option<Arc<LoadedModel>> {
        self.inner().loaded.clone()
    }

    /// The process that takes requests. `None` while there is none, or while it is replaced.
    pub(super) fn serving(&self) -> Option<ProcessNumber> {
        *self.0.serving.borrow()
    }

    /// Receives every change of [`HostState::serving`].
    pub(super) fn watch_serving(&self) -> watch::Receiver<Option<ProcessNumber>> {
        self.0.serving.subscribe()
    }

    /// Why the process `number` has ended. `None` while it runs, and after the next one has ended.
    pub(super) fn end_of(&self, number: Option<ProcessNumber>) -> Option<EndCause> {
        let (ended, cause) = self.inner().last_end?;
        (Some(ended) == number).then_some(cause)
    }

    /// Why the process must be replaced, if it must.
    pub(super) fn replace_reason(&self) -> Option<ReplaceReason> {
        self.inner().replace_reason
    }

    /// The most bytes that a process used when it was overgrown; 0 if none was.
    pub(super) fn overgrown_to(&self) -> u64 {
        self.inner().overgrown_to
    }

    /// A process runs and will load the model.
    pub(super) fn set_process(&self, process: &Arc<ProcessRef>) {
        let mut inner = self.inner();
        inner.process = Arc::downgrade(process);
        inner.killed = false;
    }

    /// The process is ready.
    pub(super) fn set_ready(&self, loaded: LoadedModel) {
        let mut inner = self.inner();
        inner.loaded = Some(Arc::new(loaded));
        inner.replace_reason = None;
        inner.number.0 += 1;
        let number = inner.number;
        drop(inner);
        self.0.serving.send_replace(Some(number));
    }

    /// The process takes no more requests.
    pub(super) fn set_not_serving(&self) {
        self.0.serving.send_replace(None);
    }

    /// Kills the process at once, also during a forward, because memory is exhausted.
    pub(super) fn kill(&self) {
        let mut inner = self.inner();
        if let Some(process) = inner.process.upgrade() {
            inner.killed = true;
            drop(inner);
            // It may have ended by itself.
            process.signal(Signal::SIGKILL).ok();
        }
    }

    /// The process that was ready has ended. Returns why.
    pub(super) fn set_ended(&self, exit: ProcessExit, by_oom_killer: bool) -> EndCause {
        let mut inner = self.inner();
        let killed = ProcessExit::Signal(Signal::SIGKILL as i32);
        let cause = if inner.killed && (exit == killed || exit == ProcessExit::Unknown) {
            EndCause::Exhausted
        } else if by_oom_killer {
            EndCause::OomKill
        } else if exit.is_crash() {
            EndCause::Crash
        } else {
            EndCause::Other
        };
        inner.last_end = Some((inner.number, cause));
        cause
    }

    /// The process must be replaced.
    pub(super) fn request_replacement(&self, reason: ReplaceReason) {
        let mut inner = self.inner();
        inner.replace_reason = Some(reason);
        if let ReplaceReason::Overgrown { bytes, .. } = reason {
            inner.overgrown_to = inner.overgrown_to.max(bytes);
        }
    }
}
