//! One at a time works on an upload in parts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::id::UploadId;
use super::super::patience::Patience;

/// How long a part that has stalled may take to end.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How often to look whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The uploads in parts that somebody works on, with the waits of a part that arrives. Each has a request or the sweep behind
/// it, so their number is bounded.
#[derive(Clone, Default)]
pub(super) struct Locks(Arc<Mutex<HashMap<UploadId, Option<Patience>>>>);

/// The right to work on one upload in parts, until it is dropped.
pub(super) struct Lock {
    id: UploadId,
    locks: Locks,
}

impl Locks {
    /// `None` while another has it.
    pub(super) fn lock(&self, id: &UploadId) -> Option<Lock> {
        let mut held = self.held();
        if held.contains_key(id) {
            return None;
        }
        held.insert(id.clone(), None);
        Some(Lock {
            id: id.clone(),
            locks: self.clone(),
        })
    }

    /// As [`Self::lock`], but takes it from a part that has stalled.
    pub(super) async fn take(&self, id: &UploadId) -> Option<Lock> {
        self.end_stalled(id).await;
        self.lock(id)
    }

    /// Has a part end whose client has stalled, and waits for that. A client that has lost its connection comes back over a new
    /// one before the server learns that the old one is dead.
    pub(super) async fn end_stalled(&self, id: &UploadId) {
        let deadline = Instant::now() + END_WITHIN;
        while self.is_ending(id) && Instant::now() < deadline {
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether a part has stalled, and so ends.
    fn is_ending(&self, id: &UploadId) -> bool {
        let held = self.held();
        let part = held.get(id).and_then(Option::as_ref);
        part.is_some_and(Patience::end_if_stalled)
    }

    pub(super) fn is_locked(&self, id: &UploadId) -> bool {
        self.held().contains_key(id)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<UploadId, Option<Patience>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lock {
    /// The work waits for a client like this.
    pub(super) fn set_patience(&self, patience: Patience) {
        self.locks.held().insert(self.id.clone(), Some(patience));
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.locks.held().remove(&self.id);
    }
}
