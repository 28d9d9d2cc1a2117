//! Uploads that are removed, and files that nothing uses.
//!
//! A file goes after its last upload. Whoever removes one holds the lock of its content in this process (`store`) and marks the
//! row, for longer than the removal may take: no server claims the content (`claims`) meanwhile. So no transaction waits for
//! the disk or the bucket, and what a dead server has marked can be used when that time is over.

use std::collections::HashSet;
use std::iter::once;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::bucket::BucketError;
use super::error::UploadError;
use super::id::UploadId;
use super::records::{Records, SWEEP_ROWS, WITHIN, changes};
use super::store::{ContentHash, ContentLocks, Store};
use crate::postgres::Transaction;

/// How long a request waits for the file of the upload that it has removed. The removal goes on.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a removal waits for those who have the content. Then it is left to the next sweep.
const LOCK_WITHIN: Duration = Duration::from_secs(1);
/// How long the statements of a removal may take, with some time to spare.
const STATEMENTS_WITHIN: Duration = WITHIN.saturating_mul(3);
/// Folders of files that one sweep looks at.
pub(super) const SWEEP_FOLDERS: u8 = 8;
/// So many files of a folder without a row are a sign that the database is not the right one, if they are most of its files.
const MANY_ORPHANS: usize = 16;
/// A sweep leaves files to the next one when the bucket has failed so often.
const FAILURES_MAX: u32 = 3;

const REMOVE: &str = "delete from headroom.upload where id = $1 returning blake3";
const RELEASE_CONTENT: &str =
    "update headroom.upload_content set uploads = uploads - 1 where blake3 = $1";
const EXPIRED: &str = "select id from headroom.upload where expires_at <= clock_timestamp() order by expires_at limit $1";
const UNUSED: &str = "select blake3 from headroom.upload_content
    where uploads = 0 and (sending = '{}' or sending_until <= clock_timestamp())
        and (removing_until is null or removing_until <= clock_timestamp())
    order by random() limit $1";
/// Marks the row of a content that nothing uses.
const MARK_UNUSED: &str = "update headroom.upload_content
    set removing_until = clock_timestamp() + make_interval(secs => $2)
    where blake3 = $1 and uploads = 0
        and (sending = '{}' or sending_until <= clock_timestamp())
        and (removing_until is null or removing_until <= clock_timestamp())
    returning 1";
/// Makes and marks the row of a file that has none.
const MARK_ORPHAN: &str = "insert into headroom.upload_content
    (blake3, sha256, bytes, uploads, removing_until)
    values ($1, decode(repeat('00', 32), 'hex'), 0, 0, clock_timestamp() + make_interval(secs => $2))
    on conflict do nothing returning 1";
const UNMARK: &str = "update headroom.upload_content set removing_until = null where blake3 = $1";
const REMOVE_CONTENT: &str = "delete from headroom.upload_content
    where blake3 = $1 and uploads = 0 and removing_until > clock_timestamp()";
const KNOWN: &str = "select blake3 from headroom.upload_content where blake3 = any($1)";

/// What a sweep has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Swept {
    /// Uploads whose time was over.
    pub expired: u64,
    /// Files that no upload uses.
    pub unused: u64,
}

impl Records {
    /// Removes an upload, and its file if no other needs it.
    pub(super) async fn remove(
        &self,
        store: &Arc<Store>,
        id: &UploadId,
    ) -> Result<(), UploadError> {
        let hash = self.remove_row(id).await?;
        // The upload is gone. What is left of its file, the next sweep removes too.
        let (records, store) = (self.clone(), Arc::clone(store));
        let removal = tokio::spawn(async move { records.remove_in_turn(&store, hash).await });
        match timeout(WAIT_MAX, removal).await {
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(error))) => {
                tracing::warn!(%id, %error, "the file of a removed upload is not removed yet");
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(%id, "the file of a removed upload is not removed yet");
            }
        }
        Ok(())
    }

    /// Removes an upload. Returns what it has used.
    async fn remove_row(&self, id: &UploadId) -> Result<ContentHash, UploadError> {
        let work = |transaction: Arc<Transaction>| async move {
            let removed = transaction.query(REMOVE, &[&id.as_str()]).await?;
            let row = removed.at_most_one()?;
            let row = row.ok_or_else(|| UploadError::NotFound(id.clone()))?;
            let hash: Vec<u8> = row.get(0);
            transaction.query(RELEASE_CONTENT, &[&hash]).await?;
            Ok::<_, UploadError>(hash)
        };
        let hash = self.database.transaction(changes(), work).await?;
        let hash = <[u8; 32]>::try_from(hash).map_err(|_| UploadError::Damaged)?;
        Ok(ContentHash(hash))
    }

    /// Removes uploads whose time is over. Their files follow.
    pub(super) async fn sweep_expired(&self) -> Result<u64, UploadError> {
        self.forget_requests().await?;
        let mut removed = 0;
        loop {
            let expired = self.database.query(EXPIRED, &[&SWEEP_ROWS], WITHIN).await?;
            for row in &expired.rows {
                let id: String = row.get(0);
                let Ok(id) = id.parse() else { continue };
                match self.remove_row(&id).await {
                    Ok(_) => removed += 1,
                    // Somebody else has removed it.
                    Err(UploadError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            if (expired.rows.len() as i64) < SWEEP_ROWS {
                return Ok(removed);
            }
        }
    }

    /// Removes the files that no upload uses.
    pub(super) async fn sweep_unused(&self, store: &Arc<Store>) -> Result<u64, UploadError> {
        let (mut removed, mut failures) = (0, 0);
        loop {
            let before = removed;
            let unused = self.database.query(UNUSED, &[&SWEEP_ROWS], WITHIN).await?;
            for row in &unused.rows {
                let hash: Vec<u8> = row.get(0);
                let Ok(hash) = <[u8; 32]>::try_from(hash).map(ContentHash) else {
                    continue;
                };
                match self.remove_unused(store, hash, MARK_UNUSED).await {
                    Err(error @ UploadError::Bucket(_)) => {
                        failures += 1;
                        if failures >= FAILURES_MAX {
                            return Err(error);
                        }
                    }
                    Ok(is_removed) => removed += u64::from(is_removed),
                    Err(_) => {}
                }
            }
            if removed == before || (unused.rows.len() as i64) < SWEEP_ROWS {
                return Ok(removed);
            }
        }
    }

    /// Removes the files without a row that are in some folders from `first` on.
    pub(super) async fn sweep_folders(
        &self,
        store: &Arc<Store>,
        first: u8,
    ) -> Result<u64, UploadError> {
        let mut removed = 0;
        for next in 0..SWEEP_FOLDERS {
            let prefix = first.wrapping_add(next);
            removed += self.sweep_folder(store, prefix).await?;
        }
        Ok(removed)
    }

    /// Removes the files without a row whose hash begins with `prefix`.
    async fn sweep_folder(&self, store: &Arc<Store>, prefix: u8) -> Result<u64, UploadError> {
        let stored = store.stored_contents(prefix).await?;
        let (mut removed, mut orphans) = (0, Vec::<ContentHash>::new());
        for some in stored.chunks(SWEEP_ROWS as usize) {
            let hashes: Vec<&[u8]> = some.iter().map(|hash| &hash.0[..]).collect();
            let known = self.database.query(KNOWN, &[&hashes], WITHIN).await?;
            let known: HashSet<Vec<u8>> = known.rows.iter().map(|row| row.get(0)).collect();
            let is_known = |hash: &&ContentHash| known.contains(&hash.0[..]);
            orphans.extend(some.iter().filter(|hash| !is_known(hash)));
        }
        if orphans.len() >= MANY_ORPHANS && orphans.len() > stored.len() / 2 {
            tracing::warn!(
                files = orphans.len(),
                "most files of a folder have no row: they stay; the database may be an older one"
            );
            return Ok(0);
        }
        for hash in orphans {
            let is_removed = self.remove_unused(store, hash, MARK_ORPHAN).await;
            removed += u64::from(is_removed.unwrap_or_default());
        }
        Ok(removed)
    }

    /// Removes a file that a sweep has found, unless somebody has its content now. What cannot be removed stays until the
    /// next sweep.
    async fn remove_unused(
        &self,
        store: &Arc<Store>,
        hash: ContentHash,
        mark: &'static str,
    ) -> Result<bool, UploadError> {
        let Some(locks) = store.try_lock(hash) else {
            return Ok(false);
        };
        let removed = self.remove_content(store, hash, &locks, mark).await;
        if let Err(error) = &removed {
            tracing::warn!(blake3 = hash.hex(), %error, "a file that no upload uses is not removed");
        }
        removed
    }

    /// Removes a file, if no upload uses it.
    async fn remove_in_turn(
        &self,
        store: &Arc<Store>,
        hash: ContentHash,
    ) -> Result<bool, UploadError> {
        // The lock first, so that nobody waits for another content with the turn.
        let locks = timeout(LOCK_WITHIN, store.lock(once(hash))).await;
        let locks = locks.map_err(|_| BucketError::Busy)?;
        let _turn = store.removal_turn().await?;
        self.remove_content(store, hash, &locks, MARK_UNUSED).await
    }

    /// Removes a file whose row the statement `mark` can mark.
    async fn remove_content(
        &self,
        store: &Arc<Store>,
        hash: ContentHash,
        locks: &ContentLocks,
        mark: &'static str,
    ) -> Result<bool, UploadError> {
        let blake3 = &hash.0[..];
        let lasts = (store.removal_within() + STATEMENTS_WITHIN).as_secs_f64();
        let marked = self
            .database
            .query(mark, &[&blake3, &lasts], WITHIN)
            .await?;
        if marked.at_most_one()?.is_none() {
            return Ok(false);
        }
        if let Err(error) = store.remove_content(hash, locks).await {
            // A request without an answer may still be carried out: then the mark stays until its time is over.
            if !matches!(error, UploadError::Bucket(BucketError::Unanswered(_))) {
                self.database.query(UNMARK, &[&blake3], WITHIN).await?;
            }
            return Err(error);
        }
        self.database
            .query(REMOVE_CONTENT, &[&blake3], WITHIN)
            .await?;
        Ok(true)
    }
}
