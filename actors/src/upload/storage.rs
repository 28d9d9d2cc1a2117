//! The upload folder as a resource of the lazy loader: the first upload opens it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

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
    /// How long an upload waits for others.
    patience: Duration,
    opened: Arc<Mutex<Opened>>,
}

#[derive(Default)]
struct Opened {
    store: Option<Arc<Store>>,
    /// The last one. Work that outlives an unload may still use it, and has the folder locked.
    last: Weak<Store>,
}

impl Storage {
    pub(super) fn new(
        dir: PathBuf,
        bucket: Option<BucketConfig>,
        buffers: Arc<dyn Buffers>,
        patience: Duration,
    ) -> Self {
        Self {
            dir,
            bucket,
            buffers,
            patience,
            opened: Arc::default(),
        }
    }

    /// The folder. `None` while it is not open.
    pub(super) fn store(&self) -> Option<Arc<Store>> {
        self.opened().store.clone()
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self) -> Result<Arc<Store>, UploadError> {
        if let Some(store) = self.opened().last.upgrade() {
            return Ok(store);
        }
        let dir = self.dir.clone();
        let mut store = blocking(move || Ok(Store::open(&dir)?)).await?;
        if let Some(config) = &self.bucket {
            let bucket =
                Bucket::open(config, &self.dir, Arc::clone(&self.buffers), self.patience).await?;
            store.bucket = Some(Arc::new(bucket));
        }
        Ok(Arc::new(store))
    }

    pub(super) fn resource(&self, ttl: Option<Duration>) -> Resource {
        Resource {
            name: STORAGE.to_owned(),
            kind: "storage",
            depends_on: Vec::new(),
            ttl,
            // To unload it frees next to nothing, and would hold up new requests until the last one in progress ends.
            pinned: true,
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
            let mut opened = storage.opened();
            opened.last = Arc::downgrade(&store);
            opened.store = Some(store);
            drop(opened);
            Ok(Loaded {
                bytes: 0,
                died: pending().boxed(),
            })
        }
        .boxed()
    }

    fn unload(&self) -> BoxFuture<'static, ()> {
        self.opened().store = None;
        std::future::ready(()).boxed()
    }
}
