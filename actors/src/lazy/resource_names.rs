//! The names of the resources in the catalogue, for readers that must not wait for the loader.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

/// The names. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct ResourceNames(Arc<RwLock<BTreeSet<String>>>);

impl ResourceNames {
    /// Whether a resource of this name is in the catalogue.
    pub fn contains(&self, name: &str) -> bool {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.contains(name)
    }

    pub(super) fn insert(&self, name: &str) {
        if !self.contains(name) {
            let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
            names.insert(name.to_owned());
        }
    }

    pub(super) fn remove(&self, name: &str) {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        names.remove(name);
    }
}
