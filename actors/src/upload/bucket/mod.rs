//! A bucket of an S3-compatible store that holds the complete files of uploads.
//!
//! Why it exists: the disk of a server is small, and may go with the server. Bytes that arrive are still collected in the
//! upload folder, where they are checked; a complete file is sent to the bucket before its row is committed.
//!
//! Guarantees:
//! - **Bounded**: each call has a deadline, its attempts are counted, and a transfer holds one part of a file in memory
//!   that is reserved in the memory budget.
//! - **Nothing half**: an object is there whole or not at all. Parts of one that did not become whole are removed, also
//!   after a death of the server (`journal`).
//! - **Never shown**: the keys are in no log, error or state.
//!
//! Objects have the names that files in the folder have, `content/ab/ab…`, below a prefix. The object `id` there says
//! which database knows them.

mod error;
mod http;
mod journal;
mod transfer;

use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{BackoffConfig, GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::blocking::blocking;
use super::error::UploadError;
use super::store::ContentHash;
use crate::kernel::Buffers;

pub use error::BucketError;
use error::{fault, found};
use http::Connector;
use journal::Journal;

/// Removals at the same time.
const REMOVALS_MAX: usize = 8;
/// How long one may wait for its turn. Then it is left to the next sweep.
const TURN_WITHIN: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// As in the upload folder.
const CONTENT: &str = "content";
const IDENTITY: &str = "id";
/// The most bytes of the object that holds the identity.
const IDENTITY_MAX: u64 = 1024;

/// Where the bucket is, and how it is used.
#[derive(Clone)]
pub struct BucketConfig {
    /// Its name.
    pub bucket: String,
    /// The URL of the store. `None`: that of AWS in the region.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// What the names of objects begin with.
    pub prefix: String,
    /// The access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// Whether the bucket is in the path of URLs. Otherwise it is in their host.
    pub path_style: bool,
    /// How long one request may take, and how long a download may stand still.
    pub timeout: Duration,
    /// How often a failed request is sent again.
    pub retries: u32,
    /// Files that are sent at the same time.
    pub transfers_max: u32,
}

impl fmt::Debug for BucketConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("BucketConfig");
        fields
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint);
        fields.field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A bucket that was found.
pub(super) struct Bucket {
    s3: AmazonS3,
    config: BucketConfig,
    journal: Journal,
    transfers: Arc<Semaphore>,
    removals: Arc<Semaphore>,
    buffers: Arc<dyn Buffers>,
    /// How long an upload waits for others.
    pub(super) patience: Duration,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

impl Bucket {
    /// Finds the bucket. `dir` is the upload folder, `patience` how long uploads wait for others.
    pub(super) async fn open(
        config: &BucketConfig,
        dir: &FilePath,
        buffers: Arc<dyn Buffers>,
        patience: Duration,
    ) -> Result<Self, UploadError> {
        let dir = dir.to_owned();
        let endpoint = config.endpoint.as_deref().unwrap_or(&config.region);
        let place = format!("{endpoint} {} {}", config.bucket, root(config));
        Ok(Self {
            s3: find(config).await?.0,
            journal: blocking(move || Ok(Journal::open(&dir, place)?)).await?,
            transfers: Arc::new(Semaphore::new(config.transfers_max as usize)),
            removals: Arc::new(Semaphore::new(REMOVALS_MAX)),
            config: config.clone(),
            buffers,
            patience,
        })
    }

    /// Which database knows the bucket. `None`: none yet.
    pub(super) async fn identity(&self) -> Result<Option<String>, BucketError> {
        identity(&self.s3, &self.config).await
    }

    /// Says which database knows the bucket. Stores differ in whether they can refuse to replace an object, so the caller
    /// reads what is there afterwards.
    pub(super) async fn set_identity(&self, identity: &str) -> Result<(), BucketError> {
        let path = root(&self.config).join(IDENTITY);
        let put = self.s3.put(&path, identity.to_owned().into());
        self.call(put).await.map(drop).map_err(fault)
    }

    /// Whether it holds no file.
    pub(super) async fn is_empty(&self) -> Result<bool, BucketError> {
        let content = root(&self.config).join(CONTENT);
        let mut objects = self.s3.list(Some(&content));
        let first = self.call(async { objects.try_next().await }).await;
        Ok(first.map_err(fault)?.is_none())
    }

    /// The size of a stored file. `None`: it is not there.
    pub(super) async fn size(&self, hash: ContentHash) -> Result<Option<u64>, BucketError> {
        let path = self.path(hash);
        let head = self.call(self.s3.head(&path)).await;
        Ok(found(head)?.map(|object| object.size))
    }

    /// Bytes of a stored file, as they come. Whoever drops the stream ends the request. `None`: the file is not there.
    pub(super) async fn read(
        &self,
        hash: ContentHash,
        range: Range<u64>,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, BucketError>>>, BucketError> {
        if range.is_empty() {
            return Ok(Some(stream::empty().boxed()));
        }
        let path = self.path(hash);
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let answer = found(self.call(self.s3.get_opts(&path, options)).await)?;
        Ok(answer.map(|answer| answer.into_stream().map_err(fault).boxed()))
    }

    /// Waits for the turn to remove a file.
    pub(super) async fn removal_turn(&self) -> Result<OwnedSemaphorePermit, BucketError> {
        let turn = timeout(TURN_WITHIN, Arc::clone(&self.removals).acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or(BucketError::Busy)
    }

    /// Removes a stored file, if it is there. The caller has its turn.
    pub(super) async fn remove(&self, hash: ContentHash) -> Result<(), BucketError> {
        let path = self.path(hash);
        found(self.call(self.s3.delete(&path)).await).map(drop)
    }

    /// How long a call without the bytes of a file may take, with its repetitions.
    pub(super) fn call_within(&self) -> Duration {
        self.config.timeout
    }

    /// Bounds a call without the bytes of a file.
    async fn call<T>(
        &self,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        within(self.call_within(), call).await
    }

    fn path(&self, hash: ContentHash) -> Path {
        let name = hash.hex();
        root(&self.config)
            .join(CONTENT)
            .join(&name[..2])
            .join(name.as_str())
    }
}

/// Asks once whether the store is there, accepts the keys, and has the bucket. Nothing is written. Returns which database
/// knows it, if one does.
///
/// # Errors
/// Why the bucket cannot be used.
pub async fn try_once(config: &BucketConfig) -> Result<Option<String>, UploadError> {
    find(config).await.map(|(_, identity)| identity)
}

/// Finds the bucket.
async fn find(config: &BucketConfig) -> Result<(AmazonS3, Option<String>), UploadError> {
    let building = config.clone();
    // The certificates of the system are read.
    let s3 = blocking(move || Ok(client(&building)?)).await?;
    let identity = identity(&s3, config).await?;
    Ok((s3, identity))
}

async fn identity(s3: &AmazonS3, config: &BucketConfig) -> Result<Option<String>, BucketError> {
    let path = root(config).join(IDENTITY);
    let read = async {
        let answer = s3.get(&path).await?;
        // What is larger is none, nor is an empty one, of which stores have no range.
        match answer.meta.size {
            1..=IDENTITY_MAX => answer.bytes().await,
            _ => Ok(Bytes::new()),
        }
    };
    let bytes = found(within(config.timeout, read).await)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
}

fn root(config: &BucketConfig) -> Path {
    Path::from(config.prefix.as_str())
}

/// Bounds a call of the store.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = object_store::Result<T>>,
) -> object_store::Result<T> {
    let answer = timeout(limit, call).await;
    answer.unwrap_or_else(|_| {
        Err(object_store::Error::Generic {
            store: "S3",
            source: Box::new(BucketError::late(limit)),
        })
    })
}

fn client(config: &BucketConfig) -> Result<AmazonS3, BucketError> {
    let retries = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: BACKOFF_MIN,
            max_backoff: BACKOFF_MAX,
            base: 2.0,
        },
        max_retries: config.retries as usize,
        retry_timeout: config.timeout * (config.retries + 1),
    };
    let connector = Connector::new(config).map_err(|error| {
        BucketError::Unavailable(format!("the certificates of the system: {error}"))
    })?;
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&config.bucket)
        .with_region(&config.region)
        .with_access_key_id(&config.access_key_id)
        .with_secret_access_key(&config.secret_access_key)
        .with_virtual_hosted_style_request(!config.path_style)
        // Not every store can delete several objects at once.
        .with_disable_bulk_delete(true)
        .with_retry(retries)
        .with_http_connector(connector);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder.build().map_err(fault)
}
