//! The upload folder as a resource of the lazy loader: the first upload opens it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{BoxFuture, FutureExt, pending};

use super::blocking::blocking;
use super::bucket::{Bucket, BucketConfig};
use super::error::UploadError;
use super::store::Store;
use crate::kernel::{Buffers, Load, LoadContext, LoadError, LoadErrorKind, Loaded, Resource};

/// The name of the resource in the catalogue.
pub const STORAGE: &str = "uploads";

/// What the server needs for uploads besides their buffers: a few lists.
const BYTES: u64 = 1024 * 1024;

/// The upload folder, if it is open.
#[derive(Clone)]
pub(super) struct Storage {
    dir: PathBuf,
    bucket: Option<BucketConfig>,
    buffers: Arc<dyn Buffers>,
    store: Arc<Mutex<Option<Arc<Store>>>>,
}

impl Storage {
    pub(super) fn new(
        dir: PathBuf,
        bucket: Option<BucketConfig>,
        buffers: Arc<dyn Buffers>,
    ) -> Self {
        Self {
            dir,
            bucket,
            buffers,
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

    async fn open(&self) -> Result<Store, UploadError> {
        let dir = self.dir.clone();
        let mut store = blocking(move || Ok(Store::open(&dir)?)).await?;
        if let Some(config) = &self.bucket {
            let bucket = Bucket::open(config, &self.dir, Arc::clone(&self.buffers)).await?;
            store.bucket = Some(Arc::new(bucket));
        }
        Ok(store)
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

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Storage");
        fields
            .field("dir", &self.dir)
            .field("bucket", &self.bucket)
            .finish()
    }
}

impl Load for Storage {
    fn load(&self, _: LoadContext) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let storage = self.clone();
        async move {
            let store = storage.open().await.map_err(|error| {
                tracing::warn!(?storage, %error, "the upload storage cannot be opened");
                let message = "the upload storage cannot be opened; see the log for the cause";
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
