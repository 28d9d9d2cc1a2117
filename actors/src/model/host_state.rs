//! What a host tells and hears beside its calls, for its owner and for the room. Outlives its
//! processes and the actor's incarnations.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headroom_model_protocol::LoadedModel;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use super::leak_monitor::ReplaceReason;
use crate::kernel::{ProcessExit, ProcessRef};

/// Trims that may be asked of one host at a time. One serves all who wait for it.
const TRIMS_MAX: usize = 16;

/// What a trim did, in bytes that belong to no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trimmed {
    pub(super) before: u64,
    pub(super) after: u64,
}

/// Somebody who waits for a trim.
pub(super) type TrimReply = oneshot::Sender<Trimmed>;

/// Counts the processes of one host that became ready: tells one from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Generation(u64);

/// How a process ended that had been ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) generation: Generation,
    pub(super) exit: ProcessExit,
    pub(super) cause: EndCause,
}

/// Who ended a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndCause {
    /// Neither of the others: itself, most likely.
    Other,
    /// The kernel, for want of memory.
    OomKiller,
    /// We did, because memory was exhausted. Its model is on its way out.
    Exhausted,
}

/// What is inner of one host.
#[derive(Debug, Clone)]
pub(super) struct HostState {
    ready: Arc<watch::Sender<Option<Arc<LoadedModel>>>>,
    serving: Arc<watch::Sender<Option<Generation>>>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The process that runs, ready or not.
    process: Option<Arc<ProcessRef>>,
    /// The last one that was ready.
    generation: Generation,
    /// Whether we have killed the process that runs because memory was exhausted.
    killed: bool,
    last_end: Option<Ended>,
    replace_reason: Option<ReplaceReason>,
    /// The most that its processes were found to hold.
    held: u64,
    /// Not the handle's way: whoever asks for a trim must never take the place of a forward.
    trims: Option<mpsc::Sender<TrimReply>>,
}

impl HostState {
    pub(super) fn new() -> Self {
        Self {
            ready: Arc::new(watch::Sender::new(None)),
            serving: Arc::new(watch::Sender::new(None)),
            inner: Arc::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last process said when it was ready.
    pub(super) fn ready(&self) -> Option<Arc<LoadedModel>> {
        self.ready.borrow().clone()
    }

    /// Which process takes requests; none while there is none, or it is being replaced.
    pub(super) fn serving(&self) -> Option<Generation> {
        *self.serving.borrow()
    }

    /// Tells of every change of [`HostState::serving`].
    pub(super) fn watch_serving(&self) -> watch::Receiver<Option<Generation>> {
        self.serving.subscribe()
    }

    /// How the process of this generation ended, if it has.
    pub(super) fn end_of(&self, generation: Option<Generation>) -> Option<Ended> {
        let ended = self.inner().last_end;
        ended.filter(|ended| Some(ended.generation) == generation)
    }

    /// Why its process is to be replaced, if it is.
    pub(super) fn replace_reason(&self) -> Option<ReplaceReason> {
        self.inner().replace_reason
    }

    /// The most that its processes were found to hold, where that was far more than thought.
    pub(super) fn held(&self) -> u64 {
        self.inner().held
    }

    /// Has the host give its free memory back, between two calls. `None` when there is no host, or
    /// it did not come to it `within` that time; it then does so later.
    pub(super) async fn trim(&self, within: Duration) -> Option<Trimmed> {
        let trims = self.inner().trims.clone()?;
        let (reply, trimmed) = oneshot::channel();
        trims.try_send(reply).ok()?;
        tokio::time::timeout(within, trimmed).await.ok()?.ok()
    }

    /// A process runs and is to load the model.
    pub(super) fn began(&self, process: Arc<ProcessRef>) {
        let mut inner = self.inner();
        inner.process = Some(process);
        inner.killed = false;
    }

    /// The process is ready.
    pub(super) fn started(&self, ready: LoadedModel) {
        self.ready.send_replace(Some(Arc::new(ready)));
        let mut inner = self.inner();
        inner.replace_reason = None;
        inner.generation.0 += 1;
        let generation = inner.generation;
        drop(inner);
        self.serving.send_replace(Some(generation));
    }

    /// The process did not become ready.
    pub(super) fn boot_failed(&self) {
        self.inner().process = None;
    }

    /// Lets go of the process `pid`, which has ended or is about to. Another one may run by now.
    pub(super) fn forget(&self, pid: i32) {
        let mut inner = self.inner();
        inner.process.take_if(|process| process.pid() == pid);
    }

    /// The process takes no more requests.
    pub(super) fn stopped_serving(&self) {
        self.serving.send_replace(None);
    }

    /// Kills the process, at once and whatever it does, because memory is exhausted.
    pub(super) fn kill(&self) {
        let mut inner = self.inner();
        if let Some(process) = inner.process.clone() {
            inner.killed = true;
            drop(inner);
            // It may have ended by itself.
            process.signal(Signal::SIGKILL).ok();
        }
    }

    /// The process ended like this, the kernel having said whether it was its doing.
    pub(super) fn ended(&self, exit: ProcessExit, by_oom_killer: bool) -> EndCause {
        let mut inner = self.inner();
        inner.process = None;
        let killed = ProcessExit::Signal(Signal::SIGKILL as i32);
        let cause = if inner.killed && (exit == killed || exit == ProcessExit::Unknown) {
            EndCause::Exhausted
        } else if by_oom_killer {
            EndCause::OomKiller
        } else {
            EndCause::Other
        };
        inner.last_end = Some(Ended {
            generation: inner.generation,
            exit,
            cause,
        });
        cause
    }

    /// Says what is wrong with the process.
    pub(super) fn misbehaves(&self, replace_reason: ReplaceReason) {
        let mut inner = self.inner();
        inner.replace_reason = Some(replace_reason);
        if let ReplaceReason::Overgrown { bytes, .. } = replace_reason {
            inner.held = inner.held.max(bytes);
        }
    }

    /// From now on this host is asked for trims.
    pub(super) fn hear_trims(&self) -> mpsc::Receiver<TrimReply> {
        let (sender, receiver) = mpsc::channel(TRIMS_MAX);
        self.inner().trims = Some(sender);
        receiver
    }
}
