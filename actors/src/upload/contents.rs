//! Complete files: in the bucket if there is one, otherwise in the folder.
//!
//! Files that were stored in the folder before there was a bucket stay there, and are read there.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;

use super::blocking::blocking;
use super::bucket::Bucket;
use super::claims::Claim;
use super::error::UploadError;
use super::receive::Received;
use super::store::{ContentHash, ContentLocks, Store};

/// Bytes of a file that are read at once.
pub const PIECE_BYTES: u64 = 256 * 1024;

/// A stored file that can be read.
pub struct Content(Place);

enum Place {
    Folder(Arc<File>),
    Bucket(Arc<Bucket>, ContentHash),
}

impl Content {
    /// The bytes of a range, piece by piece, each when it is asked for. Whoever drops the stream ends the reading.
    ///
    /// # Errors
    /// The store cannot be reached, or has lost the file.
    pub async fn read(
        &self,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, UploadError> {
        match &self.0 {
            Place::Folder(file) => Ok(pieces(Arc::clone(file), range).boxed()),
            Place::Bucket(bucket, hash) => {
                let pieces = bucket.read(*hash, range).await?;
                let pieces = pieces.ok_or(UploadError::Damaged)?;
                Ok(pieces.map(|piece| piece.map_err(io::Error::other)).boxed())
            }
        }
    }
}

fn pieces(
    file: Arc<File>,
    range: Range<u64>,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(range.start, move |at| {
        let file = Arc::clone(&file);
        async move {
            if at >= range.end {
                return Ok(None);
            }
            let length = PIECE_BYTES.min(range.end - at);
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
                file.read_exact_at(&mut piece, at)?;
                Ok::<_, io::Error>(Bytes::from(piece))
            });
            let piece = read.await.map_err(io::Error::other)??;
            Ok(Some((piece, at + length)))
        }
    })
}

impl Store {
    /// Opens a stored file of so many bytes.
    pub(super) async fn open_content(
        self: &Arc<Self>,
        hash: ContentHash,
        bytes: u64,
    ) -> Result<Content, UploadError> {
        // The folder first: what is in it can be read while the store of the bucket is away.
        let store = Arc::clone(self);
        let file = blocking(move || {
            let file = match store.read(hash) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                file => file?,
            };
            let is_whole = file.metadata()?.len() == bytes;
            Ok(is_whole.then_some(file))
        });
        if let Some(file) = file.await? {
            return Ok(Content(Place::Folder(Arc::new(file))));
        }
        let Some(bucket) = &self.bucket else {
            return Err(UploadError::Damaged);
        };
        match bucket.size(hash).await? {
            Some(size) if size == bytes => Ok(Content(Place::Bucket(Arc::clone(bucket), hash))),
            _ => Err(UploadError::Damaged),
        }
    }

    /// Stores a complete file. When this returns, it is durable. The caller holds the lock of the content, and has claimed
    /// it if there is a bucket. Returns whether the folder had no such file.
    pub(super) async fn add_content(
        self: &Arc<Self>,
        file: &Arc<Received>,
        locks: &ContentLocks,
        claim: Option<&Claim>,
    ) -> Result<bool, UploadError> {
        if let (Some(bucket), Some(claim)) = (&self.bucket, claim) {
            // What the kernel could not write to the disk, it may read back as zeros.
            let syncing = Arc::clone(file);
            let sync = move || syncing.temp.file.sync_all().map_err(UploadError::Unsynced);
            blocking(sync).await?;
            bucket.add(file, locks, claim).await?;
            return Ok(false);
        }
        let (store, file, locks) = (Arc::clone(self), Arc::clone(file), Arc::clone(locks));
        blocking(move || {
            let is_new = store.add(&file.temp, file.blake3)?;
            drop(locks);
            Ok(is_new)
        })
        .await
    }

    /// Waits for the turn to remove a file. While the store hangs, removals must not become more and more.
    pub(super) async fn removal_turn(&self) -> Result<Option<OwnedSemaphorePermit>, UploadError> {
        match &self.bucket {
            Some(bucket) => Ok(Some(bucket.removal_turn().await?)),
            None => Ok(None),
        }
    }

    /// How long [`Self::remove_content`] may take.
    pub(super) fn removal_within(&self) -> Duration {
        let bucket = self.bucket.as_ref();
        bucket.map_or(Duration::ZERO, |bucket| bucket.call_within())
    }

    /// Removes a stored file, whose row the caller has marked, or which has none.
    pub(super) async fn remove_content(
        self: &Arc<Self>,
        hash: ContentHash,
        locks: &ContentLocks,
    ) -> Result<(), UploadError> {
        if let Some(bucket) = &self.bucket {
            // A removal whose caller is gone still holds the lock.
            let (bucket, locks) = (Arc::clone(bucket), Arc::clone(locks));
            let removed = tokio::spawn(async move {
                let removed = bucket.remove(hash).await;
                drop(locks);
                removed
            });
            removed.await.map_err(|_| UploadError::Panicked)??;
        }
        let (store, locks) = (Arc::clone(self), Arc::clone(locks));
        blocking(move || {
            store.remove(hash)?;
            drop(locks);
            Ok(())
        })
        .await
    }

    /// The hashes of all files in the folder whose hash begins with `prefix`.
    pub(super) async fn stored_contents(
        self: &Arc<Self>,
        prefix: u8,
    ) -> Result<Vec<ContentHash>, UploadError> {
        let store = Arc::clone(self);
        blocking(move || Ok(store.stored(prefix)?)).await
    }

    /// Removes the parts that dead servers have left in the bucket.
    pub(super) async fn sweep_parts(self: &Arc<Self>) -> Result<(), UploadError> {
        let Some(bucket) = &self.bucket else {
            return Ok(());
        };
        let reading = Arc::clone(bucket);
        for hash in blocking(move || Ok(reading.sending()?)).await? {
            // Whoever holds the lock may be sending it now.
            if let Some(locks) = self.try_lock(hash)
                && let Err(error) = bucket.sweep_parts(hash, locks).await
            {
                tracing::warn!(blake3 = hash.hex(), %error, "parts in the bucket stay until the next sweep");
            }
        }
        Ok(())
    }
}
