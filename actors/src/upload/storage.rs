//! The upload folder as a resource of the lazy loader: the first upload opens it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{BoxFuture, FutureExt, pending};

use super::blocking::blocking;
use super::store::Store;
use crate::kernel::{Load, LoadContext, LoadError, LoadErrorKind, Loaded, Resource};

/// The name of the resource in the catalogue.
pub const STORAGE: &str = "uploads";

/// What the server needs for uploads besides their buffers: a few lists.
const BYTES: u64 = 1024 * 1024;

/// The upload folder, if it is open.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    dir: PathBuf,
    store: Arc<Mutex<Option<Arc<Store>>>>,
}

impl Storage {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            store: Arc::default(),
        }
    }

    /// The folder. `None` while it is not open.
    pub(super) fn store(&self) -> Option<Arc<Store>> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.clone()
    }

    fn set(&self, store: Option<Arc<Store>>) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = store;
    }

    pub(super) fn resource(&self, ttl: Option<std::time::Duration>) -> Resource {
        Resource {
            name: STORAGE.to_owned(),
            kind: "storage",
            depends_on: Vec::new(),
            ttl,
            pinned: false,
            estimated_bytes: BYTES,
            load: Arc::new(self.clone()),
        }
    }
}

impl Load for Storage {
    fn load(&self, _: LoadContext) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let storage = self.clone();
        async move {
            let dir = storage.dir.clone();
            let store = blocking(move || Ok(Store::open(&dir)?)).await;
            let store = store.map_err(|error| {
                tracing::warn!(dir = %storage.dir.display(), %error, "the upload folder cannot be opened");
                let message = "the upload folder cannot be opened; see the log for the cause";
                LoadError::new(LoadErrorKind::Unavailable, message)
            })?;
            storage.set(Some(Arc::new(store)));
            Ok(Loaded {
                bytes: 0,
                died: pending().boxed(),
            })
        }
        .boxed()
    }

    fn unload(&self) -> BoxFuture<'static, ()> {
        self.set(None);
        std::future::ready(()).boxed()
    }
}
