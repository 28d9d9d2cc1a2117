//! One at a time works on an upload in parts.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::id::UploadId;

/// The uploads in parts that somebody works on. Each has a request or the sweep behind it, so their number is bounded.
#[derive(Debug, Clone, Default)]
pub(super) struct Locks(Arc<Mutex<HashSet<UploadId>>>);

/// The right to work on one upload in parts, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    id: UploadId,
    locks: Locks,
}

impl Locks {
    /// `None` while another has it.
    pub(super) fn lock(&self, id: &UploadId) -> Option<Lock> {
        self.ids().insert(id.clone()).then(|| Lock {
            id: id.clone(),
            locks: self.clone(),
        })
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<UploadId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.locks.ids().remove(&self.id);
    }
}
