//! Where the load of the files of one version stands.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kernel::{LoadError, LoadErrorKind};

/// The names of the supervisors of one version. While changed files are loaded beside the earlier ones,
/// there are two.
pub(super) struct TreeNames {
    resource: String,
    taken: Mutex<BTreeSet<u32>>,
}

impl TreeNames {
    pub(super) fn new(resource: String) -> Arc<Self> {
        Arc::new(Self {
            resource,
            taken: Mutex::default(),
        })
    }

    /// Takes the first name that is free. The names in use at one time are few, and so are all that
    /// metrics ever see.
    fn take(self: &Arc<Self>) -> TreeName {
        let mut taken = lock(&self.taken);
        let mut number = 0;
        while !taken.insert(number) {
            number += 1;
        }
        TreeName {
            names: Arc::clone(self),
            number,
        }
    }
}

/// The name of a supervisor: that of the resource, with a number if that is taken. The name is free again
/// after this.
struct TreeName {
    names: Arc<TreeNames>,
    number: u32,
}

impl fmt::Display for TreeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.resource)?;
        match self.number {
            0 => Ok(()),
            number => write!(f, "+{number}"),
        }
    }
}

impl Drop for TreeName {
    fn drop(&mut self) {
        lock(&self.names.taken).remove(&self.number);
    }
}

/// The state of the load of some files.
#[derive(Default)]
pub(super) struct LoadState(Mutex<State>);

#[derive(Default)]
struct State {
    /// From the begin of a load until the end of the unload.
    tree: Option<TreeName>,
    is_loaded: bool,
    failure: Option<LoadError>,
}

impl LoadState {
    /// A load begins. Returns the name of its supervisor.
    pub(super) fn begin(&self, names: &Arc<TreeNames>) -> String {
        let mut state = lock(&self.0);
        let name = names.take();
        let text = name.to_string();
        state.tree = Some(name);
        text
    }

    /// The load has ended.
    pub(super) fn end<T>(&self, result: &Result<T, LoadError>) {
        let mut state = lock(&self.0);
        state.is_loaded = result.is_ok();
        state.failure = match result {
            Err(error) if error.kind == LoadErrorKind::Invalid => Some(error.clone()),
            // These say nothing about the files.
            Err(_) => state.failure.take(),
            Ok(_) => None,
        };
    }

    /// The files have shown, without a load, that they cannot be loaded.
    pub(super) fn refuse(&self, error: LoadError) {
        lock(&self.0).failure = Some(error);
    }

    /// The files are unloaded, also after a failed load.
    pub(super) fn unloaded(&self) {
        let mut state = lock(&self.0);
        state.is_loaded = false;
        state.tree = None;
    }

    /// Whether they are loaded.
    pub(super) fn is_loaded(&self) -> bool {
        lock(&self.0).is_loaded
    }

    /// Whether they are loaded, or are being loaded or unloaded.
    pub(super) fn is_active(&self) -> bool {
        lock(&self.0).tree.is_some()
    }

    /// The name of their supervisor, while there is one.
    pub(super) fn tree(&self) -> Option<String> {
        lock(&self.0).tree.as_ref().map(ToString::to_string)
    }

    /// Why these files cannot be loaded, if that is known: the last load has shown it.
    pub(super) fn failure(&self) -> Option<LoadError> {
        lock(&self.0).failure.clone()
    }
}

/// Each change under the lock is complete, so a panic elsewhere leaves it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_supervisor_is_free_after_the_unload() {
        let names = TreeNames::new("m:1".to_owned());
        let (old, new) = (LoadState::default(), LoadState::default());
        assert_eq!(old.begin(&names), "m:1");
        assert_eq!(new.begin(&names), "m:1+1");
        old.unloaded();
        assert_eq!(old.tree(), None);
        assert_eq!(old.begin(&names), "m:1");
        new.unloaded();
        assert_eq!(new.begin(&names), "m:1+1");
    }

    #[test]
    fn only_a_failure_that_the_files_cause_is_known_until_a_load() {
        let state = LoadState::default();
        let fail = |kind| state.end::<()>(&Err(LoadError::new(kind, "why")));
        fail(LoadErrorKind::Unavailable);
        assert!(state.failure().is_none());
        fail(LoadErrorKind::Invalid);
        fail(LoadErrorKind::Deadline);
        state.unloaded();
        assert!(state.failure().is_some());
        state.end(&Ok(()));
        assert!(state.failure().is_none());
    }
}
