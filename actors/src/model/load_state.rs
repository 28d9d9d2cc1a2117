//! Where the load of the files of one version stands.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kernel::{LoadError, LoadErrorKind};

/// The names of the supervisors of loaded models. While changed files of a version are loaded beside the earlier ones, the
/// version has two.
#[derive(Default)]
pub(super) struct TreeNames(Mutex<BTreeSet<String>>);

impl TreeNames {
    /// Takes the name of the resource, with a number if that is taken. The names in use at one time are few, and so are all
    /// that metrics ever see.
    fn take(self: &Arc<Self>, resource: &str) -> TreeName {
        let mut taken = lock(&self.0);
        let mut name = resource.to_owned();
        let mut number = 0;
        while taken.contains(&name) {
            number += 1;
            name = format!("{resource}+{number}");
        }
        taken.insert(name.clone());
        TreeName {
            names: Arc::clone(self),
            name,
        }
    }
}

/// The name of a supervisor. It is free again after this.
struct TreeName {
    names: Arc<TreeNames>,
    name: String,
}

impl Drop for TreeName {
    fn drop(&mut self) {
        lock(&self.names.0).remove(&self.name);
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
    is_draining: bool,
    failure: Option<LoadError>,
}

impl LoadState {
    /// A load of `resource` begins. Returns the name of its supervisor.
    pub(super) fn begin(&self, names: &Arc<TreeNames>, resource: &str) -> String {
        let taken = names.take(resource);
        let name = taken.name.clone();
        let mut state = lock(&self.0);
        state.tree = Some(taken);
        state.is_draining = false;
        name
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

    /// They are to be unloaded when no request uses them.
    pub(super) fn drain(&self) {
        lock(&self.0).is_draining = true;
    }

    /// Whether they are to be unloaded.
    pub(super) fn is_draining(&self) -> bool {
        lock(&self.0).is_draining
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
        lock(&self.0).tree.as_ref().map(|tree| tree.name.clone())
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
        let names = Arc::<TreeNames>::default();
        let (old, new) = (LoadState::default(), LoadState::default());
        assert_eq!(old.begin(&names, "m:1"), "m:1");
        assert_eq!(new.begin(&names, "m:1"), "m:1+1");
        old.unloaded();
        assert_eq!(old.tree(), None);
        assert_eq!(old.begin(&names, "m:1"), "m:1");
        new.unloaded();
        assert_eq!(new.begin(&names, "m:1"), "m:1+1");
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
