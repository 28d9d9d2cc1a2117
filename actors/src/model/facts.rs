//! What a host tells and hears beside its calls, for its owner and for the room. Outlives its
//! processes and the actor's incarnations.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headroom_model_protocol::Ready;
use tokio::sync::{mpsc, oneshot, watch};

use super::upkeep::Misbehaviour;
use crate::kernel::ProcessExit;

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

/// What is told of one host.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    ready: Arc<watch::Sender<Option<Arc<Ready>>>>,
    told: Arc<Mutex<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    last_exit: Option<ProcessExit>,
    misbehaviour: Option<Misbehaviour>,
    /// The most that its processes were found to hold.
    held: u64,
    /// Not the handle's way: whoever asks for a trim must never take the place of a forward.
    trims: Option<mpsc::Sender<TrimReply>>,
}

impl Facts {
    pub(super) fn new() -> Self {
        Self {
            ready: Arc::new(watch::Sender::new(None)),
            told: Arc::default(),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last process said when it was ready.
    pub(super) fn ready(&self) -> Option<Arc<Ready>> {
        self.ready.borrow().clone()
    }

    /// How the last process that ended did so.
    pub(super) fn last_exit(&self) -> Option<ProcessExit> {
        self.told().last_exit
    }

    /// Why its process is to be replaced, if it is.
    pub(super) fn misbehaviour(&self) -> Option<Misbehaviour> {
        self.told().misbehaviour
    }

    /// The most that its processes were found to hold, where that was far more than thought.
    pub(super) fn held(&self) -> u64 {
        self.told().held
    }

    /// Has the host give its free memory back, between two calls. `None` when there is no host, or
    /// it did not come to it `within` that time; it then does so later.
    pub(super) async fn trim(&self, within: Duration) -> Option<Trimmed> {
        let trims = self.told().trims.clone()?;
        let (reply, trimmed) = oneshot::channel();
        trims.try_send(reply).ok()?;
        tokio::time::timeout(within, trimmed).await.ok()?.ok()
    }

    /// A process is ready.
    pub(super) fn started(&self, ready: Ready) {
        self.ready.send_replace(Some(Arc::new(ready)));
        self.told().misbehaviour = None;
    }

    pub(super) fn ended(&self, exit: ProcessExit) {
        self.told().last_exit = Some(exit);
    }

    /// Says what is wrong with the process.
    pub(super) fn misbehaves(&self, misbehaviour: Misbehaviour) {
        let mut told = self.told();
        told.misbehaviour = Some(misbehaviour);
        if let Misbehaviour::Overgrown { bytes, .. } = misbehaviour {
            told.held = told.held.max(bytes);
        }
    }

    /// From now on this host is asked for trims.
    pub(super) fn hear_trims(&self) -> mpsc::Receiver<TrimReply> {
        let (sender, receiver) = mpsc::channel(TRIMS_MAX);
        self.told().trims = Some(sender);
        receiver
    }
}
