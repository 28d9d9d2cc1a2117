//! Files that become uploads: the file first, then its row.
//!
//! Whoever adds a file holds the lock of its content in this process (`store`), claims the content if it sends it to the bucket
//! (`claims`), and commits after the file is durable. So a file is there for as long as an upload needs it, and a crash leaves
//! at worst one that no upload uses, which the sweep removes (`removal`).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::blocking::drop_apart;
use super::bucket::BucketError;
use super::caller::Caller;
use super::claims::Claim;
use super::error::UploadError;
use super::id::UploadId;
use super::receive::Received;
use super::records::{Records, TRIES, Upload, WITHIN, changes, signed};
use super::request_key::KeyedRequest;
use super::store::{ContentHash, ContentLocks, Store, hex};
use crate::kernel::Timestamp;
use crate::postgres::{self, Params, ToSql, Transaction};

/// How often files are sent whose claim others have ended, or that took too long.
const SENDS_MAX: u32 = 3;

/// What adds both rows of a file, for each row of `$source`. The row of the content is locked until the commit.
macro_rules! add {
    ($before:literal, $source:literal) => {
        concat!(
            "with ",
            $before,
            "added as (
                insert into headroom.upload
                (id, blake3, bytes, name, kind, media_type, caller, scanned, expires_at, details)
                select $1::text, $2::bytea, $3::int8, $4::text, $5::text, $6::text, $7::text, $8::bool,
                clock_timestamp() + make_interval(secs => $9), $11::text::jsonb from ",
            $source,
            " on conflict (id) do nothing returning created_at, expires_at),
            content as (
                insert into headroom.upload_content (blake3, sha256, bytes, uploads)
                select $2, $10::bytea, $3, 1 from added
                on conflict (blake3) do update set uploads = upload_content.uploads + 1)
            select (extract(epoch from created_at) * 1000000)::int8, (extract(epoch from expires_at) * 1000)::int8
            from added"
        )
    };
}

/// One statement for both rows: a round trip less for each file. It does nothing, and returns no row, if it was done before: the
/// id says so.
const ADD: &str = add!("", "(values (true)) form");
/// As [`ADD`], for an upload in parts, which becomes the upload `$1`. It does nothing if that has become an upload already, or has
/// ended. Its client has more time to learn what it has become.
const ADD_PARTIAL: &str = add!(
    "replaced as (
        update headroom.partial_upload
        set upload_id = $1, checked = null, expires_at = clock_timestamp() + make_interval(secs => $13)
        where id = $12 and upload_id is null and ended is null returning id),
    ",
    "replaced"
);
/// Locks an upload in parts that has not become an upload yet. A transaction whose server died may have been committed since.
const LOCK_PARTIAL: &str = "select 1 from headroom.partial_upload
    where id = $1 and upload_id is null and ended is null for update";
/// An upload in parts has become the upload `$2`. Its client has more time to learn that.
const REPLACE: &str = "update headroom.partial_upload
    set upload_id = $2, checked = null, expires_at = clock_timestamp() + make_interval(secs => $3) where id = $1";

/// Where files come from that are to be stored.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    /// A form.
    Form,
    /// A form that came with a key, which is remembered for this time.
    Keyed(&'a KeyedRequest, Duration),
    /// An upload in parts, whose place the file takes. Its row is kept for this time.
    Partial(&'a UploadId, Duration),
}

/// Files that are to be stored.
struct Addition<'a> {
    store: &'a Arc<Store>,
    files: Vec<Arc<Received>>,
    uploads: Vec<Upload>,
    /// All transactions lock in the same order, that of the hashes.
    order: Vec<usize>,
    ttl: Option<f64>,
    origin: Origin<'a>,
}

impl Addition<'_> {
    /// Each content once, though several files may have it.
    fn contents(&self) -> impl Iterator<Item = &Arc<Received>> {
        let mut last = None;
        let files = self.order.iter().filter_map(|&at| self.files.get(at));
        files.filter(move |file| last.replace(file.blake3) != Some(file.blake3))
    }
}

impl Records {
    /// Stores the files, and their rows: all of them, or none. Returns `None` if another request has their key, or the
    /// upload in parts has become a file already, or has ended.
    pub(super) async fn add(
        &self,
        store: &Arc<Store>,
        files: Vec<Received>,
        caller: Caller,
        ttl: Option<Duration>,
        origin: Origin<'_>,
    ) -> Result<Option<Vec<Upload>>, UploadError> {
        let uploads: Vec<_> = files.iter().map(|file| unsaved(file, caller)).collect();
        let files: Vec<_> = files.into_iter().map(Arc::new).collect();
        let mut order: Vec<usize> = (0..files.len()).collect();
        order.sort_by_key(|&at| files[at].blake3);
        let addition = Addition {
            store,
            files,
            uploads,
            order,
            ttl: ttl.map(|ttl| ttl.as_secs_f64()),
            origin,
        };
        let locks = store.lock(addition.contents().map(|file| file.blake3));
        let locks = locks.await;
        let mut sends = 1;
        let added = loop {
            match self.try_to_add(&addition, &locks).await {
                Err(UploadError::Bucket(BucketError::Lost)) if sends < SENDS_MAX => sends += 1,
                added => break added,
            }
        };
        if store.bucket.is_some() || added.is_err() {
            drop_apart(addition.files);
        }
        added
    }

    async fn try_to_add(
        &self,
        addition: &Addition<'_>,
        locks: &ContentLocks,
    ) -> Result<Option<Vec<Upload>>, UploadError> {
        let claim = self.claim(addition).await?;
        // Before the transaction, so that no connection waits for the disk or the bucket. After a failure, requests to the
        // store may still be on their way: the claim stays until its time is over.
        let contents: Vec<_> = addition.contents().collect();
        let stored = contents
            .iter()
            .map(|file| addition.store.add_content(file, locks, claim.as_ref()));
        let mut new = Vec::new();
        let mut failed = None;
        for (file, stored) in contents.iter().zip(join_all(stored).await) {
            match stored {
                Ok(is_new) => new.extend(is_new.then_some(file.blake3)),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            self.remove_new(addition, new, locks).await;
            return Err(error);
        }
        let added = match (addition.origin, &addition.files[..], &addition.uploads[..]) {
            // A transaction has a round trip more. A bucket keeps the row of a content locked for longer, and statements of
            // others would wait behind this one.
            (Origin::Form | Origin::Partial(..), [file], [upload]) if claim.is_none() => {
                let added = self.add_one(addition, file, upload.clone()).await;
                added.map(|upload| upload.map(|upload| vec![upload]))
            }
            _ => {
                let work = |transaction| add_rows(addition, claim.clone(), transaction);
                let added = self.database.transaction(changes(), work).await;
                added.map_err(|error| NotAdded {
                    is_undone: is_undone(&error),
                    error,
                })
            }
        };
        let added = match added {
            Ok(added) => Ok(added),
            Err(NotAdded { error, is_undone }) => {
                if is_undone {
                    self.remove_new(addition, new, locks).await;
                }
                Err(error)
            }
        };
        // Nothing is on its way to the store any more.
        let is_over = !matches!(added, Ok(Some(_)) | Err(UploadError::Database(_)));
        if let (Some(claim), true) = (&claim, is_over) {
            claim.release().await;
        }
        added
    }

    /// Removes files that get no row, and that were not there before. The sweep would do it, but clients that try again could
    /// fill the disk while the database is down.
    async fn remove_new(
        &self,
        addition: &Addition<'_>,
        new: Vec<ContentHash>,
        locks: &ContentLocks,
    ) {
        for hash in new {
            if let Err(error) = addition.store.remove_content(hash, locks).await {
                tracing::warn!(blake3 = hash.hex(), %error, "the file of an upload that was not stored is not removed yet");
            }
        }
    }

    /// Adds the row of the only file. A lost answer is asked for again: the statement does nothing the second time. Returns `None`
    /// if the upload in parts has become a file already, or has ended.
    async fn add_one(
        &self,
        addition: &Addition<'_>,
        file: &Received,
        mut upload: Upload,
    ) -> Result<Option<Upload>, NotAdded> {
        let replaced = match addition.origin {
            Origin::Partial(id, kept_for) => Some((id.as_str(), kept_for.as_secs_f64())),
            _ => None,
        };
        let deadline = Instant::now() + WITHIN;
        let (mut tries, mut may_be_stored) = (1, false);
        let added = loop {
            let new = NewRow::of(file, &upload, addition.ttl);
            let mut params = new.params().to_vec();
            let sql = match &replaced {
                Some((id, kept_for)) => {
                    params.extend([id as &(dyn ToSql + Sync), kept_for]);
                    ADD_PARTIAL
                }
                None => ADD,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.database.query(sql, &params, left).await {
                Ok(added) => break added,
                Err(error) => error,
            };
            let is_lost = matches!(error, postgres::Error::Lost { .. });
            let error = UploadError::from(error);
            may_be_stored |= !is_undone(&error);
            if !is_lost || tries == TRIES {
                let is_undone = !may_be_stored;
                return Err(NotAdded { error, is_undone });
            }
            tries += 1;
        };
        if let Some(row) = added.at_most_one().map_err(NotAdded::perhaps)? {
            upload.set_times(row.get(0), row.get(1));
            return Ok(Some(upload));
        }
        match self.find(&upload.id).await {
            Err(UploadError::NotFound(_)) if replaced.is_some() => Ok(None),
            // It was removed meanwhile.
            Err(UploadError::NotFound(_)) => Ok(Some(upload)),
            found => found.map(Some).map_err(NotAdded::perhaps),
        }
    }

    /// Claims the contents, if they are sent to a bucket.
    async fn claim(&self, addition: &Addition<'_>) -> Result<Option<Claim>, UploadError> {
        let Some(bucket) = &addition.store.bucket else {
            return Ok(None);
        };
        let (lasts, patience) = (bucket.step_within(), bucket.patience);
        let claim = Claim::new(&self.database, &addition.files, lasts, patience).await?;
        Ok(Some(claim))
    }
}

/// Adds the rows of files, all of which are stored.
async fn add_rows(
    addition: &Addition<'_>,
    claim: Option<Claim>,
    transaction: Arc<Transaction>,
) -> Result<Option<Vec<Upload>>, UploadError> {
    let (origin, mut saved) = (addition.origin, addition.uploads.clone());
    if let Origin::Keyed(request, ttl) = origin
        && !request.remember(&transaction, &saved, ttl).await?
    {
        return Ok(None);
    }
    if let Origin::Partial(replaced, _) = origin {
        let id: Params<'_> = &[&replaced.as_str()];
        let locked = transaction.query(LOCK_PARTIAL, id).await?;
        if locked.at_most_one()?.is_none() {
            return Ok(None);
        }
    }
    if let Some(claim) = claim {
        claim.end(&transaction).await?;
    }
    for &at in &addition.order {
        let new = NewRow::of(&addition.files[at], &saved[at], addition.ttl);
        let added = transaction.query(ADD, &new.params()).await?;
        let row = added.one()?;
        saved[at].set_times(row.get(0), row.get(1));
    }
    if let (Origin::Partial(replaced, kept_for), Some(upload)) = (origin, saved.first()) {
        let (id, upload, kept_for) = (
            replaced.as_str(),
            upload.id.as_str(),
            kept_for.as_secs_f64(),
        );
        let params: Params<'_> = &[&id, &upload, &kept_for];
        transaction.query(REPLACE, params).await?;
    }
    Ok(Some(saved))
}

fn unsaved(file: &Received, caller: Caller) -> Upload {
    Upload {
        id: UploadId::random(),
        name: file.name.as_str().to_owned(),
        kind: file.kind.slug().to_owned(),
        media_type: file.facts.media_type.to_string(),
        details: file.facts.detail,
        bytes: file.bytes,
        blake3: file.blake3.hex(),
        sha256: hex(&file.sha256),
        scanned: file.scanned,
        uploaded_by: caller.to_string(),
        created_at: Timestamp::now(),
        expires_at: None,
        created_micros: 0,
    }
}

/// Why rows were not added, as far as that is known.
struct NotAdded {
    error: UploadError,
    /// Whether nothing was committed for certain.
    is_undone: bool,
}

impl NotAdded {
    fn perhaps(error: impl Into<UploadError>) -> Self {
        Self {
            error: error.into(),
            is_undone: false,
        }
    }
}

/// Whether a statement or transaction that failed like this has committed nothing for certain.
fn is_undone(error: &UploadError) -> bool {
    use postgres::Error as E;
    matches!(
        error,
        UploadError::Database(
            E::Checkout(_)
                | E::Lost { sent: false, .. }
                | E::Deadline { sent: false }
                | E::Server(_)
                | E::Aborted
        )
    )
}

/// The parameters of [`ADD`].
struct NewRow<'a> {
    id: &'a str,
    blake3: &'a [u8],
    sha256: &'a [u8],
    bytes: i64,
    upload: &'a Upload,
    ttl: Option<f64>,
    details: Option<String>,
}

impl<'a> NewRow<'a> {
    fn of(file: &'a Received, upload: &'a Upload, ttl: Option<f64>) -> Self {
        Self {
            id: upload.id.as_str(),
            blake3: &file.blake3.0,
            sha256: &file.sha256,
            bytes: signed(file.bytes),
            upload,
            ttl,
            details: serde_json::to_string(&upload.details).ok(),
        }
    }

    fn params(&self) -> [&(dyn ToSql + Sync); 11] {
        let Upload {
            name,
            kind,
            media_type,
            uploaded_by,
            scanned,
            ..
        } = self.upload;
        [
            &self.id,
            &self.blake3,
            &self.bytes,
            name,
            kind,
            media_type,
            uploaded_by,
            scanned,
            &self.ttl,
            &self.sha256,
            &self.details,
        ]
    }
}
