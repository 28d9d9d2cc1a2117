//! Files on their way to the bucket.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use super::super::blocking::blocking;
use super::super::claims::Claim;
use super::super::error::UploadError;
use super::super::receive::Received;
use super::super::records::WITHIN;
use super::super::store::{ContentHash, ContentLocks};
use super::error::{fault, found};
use super::{BACKOFF_MAX, Bucket, within};
use crate::kernel::{BudgetError, BufferReservation, Buffers};

/// A larger file is sent in parts of this size.
const PART_BYTES: u64 = 8 * 1024 * 1024;
/// The most parts that stores take. Those of a file that would have more are larger.
const PARTS_MAX: u64 = 10_000;
/// How long the store may take to make one object of the parts.
const COMPLETE_WITHIN: Duration = Duration::from_secs(120);

/// How much longer a claim lasts than the request that follows: for the answer of the database to it, and for the commit.
const CLAIM_SPARE: Duration = WITHIN.saturating_mul(2);

/// Time between two looks at the memory while a transfer waits for it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The right to hold one part of a file.
type Turn = (OwnedSemaphorePermit, BufferReservation);

impl Bucket {
    /// Sends a file, unless the bucket has it. When this returns, the store has acknowledged it. The caller holds the lock of
    /// the content, and has claimed it for [`Self::step_within`].
    pub(in super::super) async fn add(
        self: &Arc<Self>,
        file: &Arc<Received>,
        locks: &ContentLocks,
        claim: &Claim,
    ) -> Result<(), UploadError> {
        if self.size(file.blake3).await? == Some(file.bytes) {
            return Ok(());
        }
        let part_bytes = PART_BYTES.max(file.bytes.div_ceil(PARTS_MAX));
        let turn = self.turn(part_bytes.min(file.bytes)).await?;
        let (bucket, file, locks) = (Arc::clone(self), Arc::clone(file), Arc::clone(locks));
        let claim = claim.clone();
        let runtime = Handle::current();
        // Signing hashes each part: that is no work for the thread of the actors. A transfer whose caller is gone still
        // holds the lock.
        blocking(move || {
            runtime.block_on(bucket.send(&file, part_bytes, &claim))?;
            drop((locks, turn));
            Ok(())
        })
        .await
    }

    async fn turn(&self, bytes: u64) -> Result<Turn, UploadError> {
        let permit = Arc::clone(&self.transfers).acquire_owned().await;
        let permit = permit.map_err(|_| UploadError::Panicked)?;
        let buffers = &*self.buffers as &dyn Buffers;
        let mut memory = reserve(buffers, bytes, self.patience).await?;
        memory.fill(bytes);
        Ok((permit, memory))
    }

    async fn send(
        &self,
        file: &Received,
        part_bytes: u64,
        claim: &Claim,
    ) -> Result<(), UploadError> {
        let path = self.path(file.blake3);
        claim.renew(self.step_within()).await?;
        if file.bytes > part_bytes {
            return self.send_in_parts(&path, file, part_bytes, claim).await;
        }
        let whole = part(&file.temp.file, 0, file.bytes)?;
        let put = within(self.transfer_within(), self.s3.put(&path, whole)).await;
        put.map_err(fault)?;
        Ok(())
    }

    async fn send_in_parts(
        &self,
        path: &Path,
        file: &Received,
        part_bytes: u64,
        claim: &Claim,
    ) -> Result<(), UploadError> {
        let hash = file.blake3;
        self.end_parts(hash).await?;
        let created = self.call(self.s3.create_multipart(path)).await;
        let parts = created.map_err(fault)?;
        if let Err(error) = self.journal.write(hash, &parts) {
            // Nobody would find them.
            found(self.call(self.s3.abort_multipart(path, &parts)).await)?;
            return Err(error.into());
        }
        let sent = self.send_parts(path, &parts, file, part_bytes, claim).await;
        match &sent {
            Ok(()) => self.journal.remove(hash)?,
            Err(_) => {
                if let Err(error) = self.end_parts(hash).await {
                    tracing::warn!(blake3 = hash.hex(), %error, "parts in the bucket stay until the next sweep");
                }
            }
        }
        sent
    }

    async fn send_parts(
        &self,
        path: &Path,
        parts: &String,
        file: &Received,
        part_bytes: u64,
        claim: &Claim,
    ) -> Result<(), UploadError> {
        let mut ids: Vec<PartId> = Vec::new();
        let mut at = 0;
        while at < file.bytes {
            let length = part_bytes.min(file.bytes - at);
            let bytes = part(&file.temp.file, at, length)?;
            claim.renew(self.step_within()).await?;
            let put = self.s3.put_part(path, parts, ids.len(), bytes);
            let put = within(self.transfer_within(), put).await;
            ids.push(put.map_err(fault)?);
            at += length;
        }
        claim.renew(COMPLETE_WITHIN + CLAIM_SPARE).await?;
        let complete = self.s3.complete_multipart(path, parts, ids);
        let Err(error) = within(COMPLETE_WITHIN, complete).await else {
            return Ok(());
        };
        // The answer may have been lost, and a repetition finds no parts.
        match self.size(file.blake3).await? == Some(file.bytes) {
            true => Ok(()),
            false => Err(fault(error).into()),
        }
    }

    /// Removes the parts of a file that did not become whole.
    async fn end_parts(&self, hash: ContentHash) -> Result<(), UploadError> {
        let Some(parts) = self.journal.read(hash)? else {
            return Ok(());
        };
        // Half a note has no name.
        if !parts.is_empty() {
            let path = self.path(hash);
            found(self.call(self.s3.abort_multipart(&path, &parts)).await)?;
        }
        self.journal.remove(hash)?;
        Ok(())
    }

    /// The files whose parts may have stayed in the bucket.
    pub(in super::super) fn sending(&self) -> std::io::Result<Vec<ContentHash>> {
        self.journal.list()
    }

    /// Removes the parts that a dead server has left of a file. The caller holds the lock of the content, so that nobody sends
    /// it now.
    pub(in super::super) async fn sweep_parts(
        self: &Arc<Self>,
        hash: ContentHash,
        locks: ContentLocks,
    ) -> Result<(), UploadError> {
        let (bucket, runtime) = (Arc::clone(self), Handle::current());
        blocking(move || {
            runtime.block_on(bucket.end_parts(hash))?;
            drop(locks);
            Ok(())
        })
        .await
    }

    /// How long one part may take, with its repetitions.
    fn transfer_within(&self) -> Duration {
        (self.config.timeout + BACKOFF_MAX) * (self.config.retries + 1)
    }

    /// How long a claim must last for one request with bytes. The claim is renewed before each, so that it needs no guess
    /// about the whole file: when it is over, no request that makes the object is on its way.
    pub(in super::super) fn step_within(&self) -> Duration {
        self.transfer_within() + CLAIM_SPARE
    }
}

/// Waits for memory as an upload does before it begins.
async fn reserve(
    buffers: &dyn Buffers,
    bytes: u64,
    patience: Duration,
) -> Result<BufferReservation, BudgetError> {
    let deadline = Instant::now() + patience;
    loop {
        match buffers.reserve_after_reading(bytes).await {
            Err(_) if Instant::now() + LOOK_AGAIN < deadline => sleep(LOOK_AGAIN).await,
            reserved => return reserved,
        }
    }
}

fn part(file: &File, at: u64, length: u64) -> std::io::Result<PutPayload> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut bytes, at)?;
    Ok(Bytes::from(bytes).into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::kernel::testing::buffers::FixedBuffers;

    #[tokio::test(start_paused = true)]
    async fn a_transfer_waits_for_the_memory_of_a_part() {
        let account = FixedBuffers::new(10);
        let buffers = &account as &dyn Buffers;
        let patience = Duration::from_secs(5);
        let held = buffers.reserve(6).unwrap();
        assert!(reserve(buffers, 6, patience).await.is_err());
        let freed = async {
            sleep(patience / 2).await;
            drop(held);
        };
        let (reserved, ()) = tokio::join!(reserve(buffers, 6, patience), freed);
        assert_eq!(reserved.unwrap().bytes(), 6);
    }
}
