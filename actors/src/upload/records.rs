//! The rows of uploads in PostgreSQL.
//!
//! Whoever adds or removes a file holds the lock of its content in this process (`store`), then that of its row, and commits
//! after the file was changed. So a file is there for as long as an upload needs it, and a crash leaves at
//! worst a file without a row, which [`Records::sweep`] removes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::caller::Caller;
use super::content::{Detail, Kind};
use super::error::UploadError;
use super::id::UploadId;
use super::receive::Received;
use super::request_key::KeyedRequest;
use super::store::{ContentHash, Store, hex};
use crate::kernel::Timestamp;
use crate::postgres::{self, Database, Params, Row, ToSql, Transaction, TransactionOptions};

/// How long one call of the database may take.
pub(super) const WITHIN: Duration = Duration::from_secs(10);
/// How often a transaction is tried that others made fail.
const TRIES: u32 = 5;
/// Rows that one step of a sweep takes.
pub(super) const SWEEP_ROWS: i64 = 100;

/// The last microsecond of the year 9999.
const MICROS_MAX: i64 = 253_402_300_799_999_999;
/// Folders of files that one sweep looks at.
pub(super) const SWEEP_FOLDERS: u8 = 8;
/// So many files of a folder without a row are a sign that the database is not the right one, if they are most of its files.
const MANY_ORPHANS: usize = 16;

/// What is known of an upload. The order of `from_row`.
pub(super) const COLUMNS: &str = "id, name, kind, media_type, bytes, blake3, sha256, scanned, caller,
    (extract(epoch from created_at) * 1000000)::int8, (extract(epoch from expires_at) * 1000)::int8, details::text";
/// Uploads with their content.
pub(super) const UPLOADS: &str = "(select u.*, c.sha256 from headroom.upload u
    join headroom.upload_content c using (blake3)
    where expires_at is null or expires_at > clock_timestamp()) uploads";

/// One statement for both rows: a round trip less for each file. The row of the content is locked until the commit. It does
/// nothing, and returns no row, if it was done before: the id says so.
const ADD: &str = "with added as (
        insert into headroom.upload
        (id, blake3, bytes, name, kind, media_type, caller, scanned, expires_at, details)
        values ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp() + make_interval(secs => $9), $11::text::jsonb)
        on conflict (id) do nothing returning created_at, expires_at),
    content as (
        insert into headroom.upload_content (blake3, sha256, bytes, uploads)
        select $2, $10, $3, 1 from added
        on conflict (blake3) do update set uploads = upload_content.uploads + 1)
    select (extract(epoch from created_at) * 1000000)::int8, (extract(epoch from expires_at) * 1000)::int8 from added";
const REMOVE: &str = "delete from headroom.upload where id = $1 returning blake3";
const RELEASE_CONTENT: &str =
    "update headroom.upload_content set uploads = uploads - 1 where blake3 = $1";
const LOCK_UNUSED: &str =
    "select 1 from headroom.upload_content where blake3 = $1 and uploads = 0 for update";
const REMOVE_CONTENT: &str =
    "delete from headroom.upload_content where blake3 = $1 and uploads = 0";
/// Locks the row of a file that has none.
const LOCK_ORPHAN: &str = "insert into headroom.upload_content (blake3, sha256, bytes, uploads)
    values ($1, decode(repeat('00', 32), 'hex'), 0, 0) on conflict do nothing returning 1";
const EXPIRED: &str = "select id from headroom.upload where expires_at <= clock_timestamp() order by expires_at limit $1";
const UNUSED: &str =
    "select blake3 from headroom.upload_content where uploads = 0 order by random() limit $1";
const KNOWN: &str = "select blake3 from headroom.upload_content where blake3 = any($1)";
/// What is stored, with the files that arrive in parts.
const TOTALS: &str = "select count(*), coalesce(sum(bytes), 0)::int8 from (
    select bytes from headroom.upload
    union all select coalesce(length, kept) from headroom.partial_upload
    where upload_id is null and ended is null) stored (bytes)";
const TOTALS_OF: &str = "select count(*), coalesce(sum(bytes), 0)::int8 from (
    select bytes from headroom.upload where caller = $1
    union all select coalesce(length, kept) from headroom.partial_upload
    where caller = $1 and upload_id is null and ended is null) stored (bytes)";
/// Locks an upload in parts that has not become an upload yet. A transaction whose server died may have been committed since.
const LOCK_PARTIAL: &str = "select 1 from headroom.partial_upload
    where id = $1 and upload_id is null and ended is null for update";
/// An upload in parts has become the upload `$2`.
const REPLACE: &str = "update headroom.partial_upload set upload_id = $2 where id = $1";

/// An uploaded file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Upload {
    /// Its id.
    pub id: UploadId,
    /// Its name, as its uploader called it.
    pub name: String,
    /// What kind of file it is.
    pub kind: String,
    /// Its media type, by its content.
    pub media_type: String,
    /// What the check of its content has learned, such as `width` and `height` of an image. Empty if that is nothing.
    pub details: Detail,
    /// Its size.
    pub bytes: u64,
    /// The BLAKE3 hash of its bytes, as hexadecimal digits.
    pub blake3: String,
    /// The SHA-256 hash of its bytes, as hexadecimal digits.
    pub sha256: String,
    /// Whether a virus scanner has looked at it and found nothing.
    pub scanned: bool,
    /// The network address that it came from.
    pub uploaded_by: String,
    /// When it was complete.
    pub created_at: Timestamp,
    /// When it will be removed. `null`: never.
    pub expires_at: Option<Timestamp>,
    #[serde(skip)]
    pub(super) created_micros: i64,
}

/// Which uploads to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this kind.
    pub kind: Option<Kind>,
    /// Only files with this SHA-256 hash.
    pub sha256: Option<[u8; 32]>,
    /// Only those after this place in the list.
    pub after: Option<Cursor>,
    /// At most so many.
    pub limit: u32,
}

/// A place in the list of uploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    created_micros: i64,
    id: UploadId,
}

impl Cursor {
    /// Reads what `Display` has written.
    pub fn parse(text: &str) -> Option<Self> {
        let (micros, id) = text.split_once('-')?;
        let created_micros = micros.parse().ok()?;
        // What the database can add to a time.
        (0..=MICROS_MAX).contains(&created_micros).then_some(())?;
        Some(Self {
            created_micros,
            id: id.parse().ok()?,
        })
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.created_micros, self.id)
    }
}

/// Some uploads, the newest first.
#[derive(Debug, Clone)]
pub struct Page {
    /// The uploads.
    pub uploads: Vec<Upload>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Cursor>,
}

/// How many uploads there are, and how many bytes they have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = UploadTotals)]
pub struct Totals {
    /// Uploads.
    pub files: u64,
    /// The bytes of all of them. Files with the same bytes count each.
    pub bytes: u64,
}

impl Totals {
    /// The sum of both.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// What a sweep has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Swept {
    /// Uploads whose time was over.
    pub expired: u64,
    /// Files that no upload uses.
    pub unused: u64,
}

/// Where files come from that are to be stored.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    /// A form.
    Form,
    /// A form that came with a key, which is remembered for this time.
    Keyed(&'a KeyedRequest, Duration),
    /// An upload in parts, whose place the file takes.
    Partial(&'a UploadId),
}

/// The rows of uploads.
#[derive(Clone)]
pub(super) struct Records {
    pub(super) database: Database,
}

impl Records {
    pub(super) fn new(database: Database) -> Self {
        Self { database }
    }

    /// Stores the files, and their rows: all of them, or none. Returns `None` if another request has their key, or the
    /// upload in parts has become a file already, or has ended.
    pub(super) async fn add(
        &self,
        store: Arc<Store>,
        files: Vec<Received>,
        caller: Caller,
        ttl: Option<Duration>,
        origin: Origin<'_>,
    ) -> Result<Option<Vec<Upload>>, UploadError> {
        let uploads: Vec<_> = files.iter().map(|file| unsaved(file, caller)).collect();
        let files: Vec<_> = files.into_iter().map(Arc::new).collect();
        let locks = store.lock(files.iter().map(|file| file.blake3)).await;
        // Before the transaction, so that no connection waits for the disk or the bucket.
        let stored = try_join_all(files.iter().map(|file| store.add_content(file, &locks))).await?;
        let added = self.add_rows(&store, &files, uploads, ttl, origin).await;
        if let Err(error) = &added
            && is_undone(error)
        {
            // The sweep removes what gets no row, but clients that try again could fill the disk while the database is down.
            let new = files.iter().zip(stored).filter(|(_, is_new)| *is_new);
            let removals = new.map(|(file, _)| store.remove_content(file.blake3, &locks));
            if let Err(error) = try_join_all(removals).await {
                tracing::warn!(%error, "the file of an upload that was not stored is not removed yet");
            }
        }
        drop(locks);
        added
    }

    /// Adds the rows of files, whose contents the caller has stored and locked.
    async fn add_rows(
        &self,
        store: &Store,
        files: &[Arc<Received>],
        mut uploads: Vec<Upload>,
        ttl: Option<Duration>,
        origin: Origin<'_>,
    ) -> Result<Option<Vec<Upload>>, UploadError> {
        // All transactions lock in the same order.
        let mut order: Vec<usize> = (0..files.len()).collect();
        order.sort_by_key(|&at| files[at].blake3);
        let ttl = ttl.map(|ttl| ttl.as_secs_f64());
        // A transaction has a round trip more. A bucket keeps the row of a content locked for long, and statements of others
        // would wait behind this one.
        if let (Origin::Form, [file], None) = (origin, files, &store.bucket) {
            for upload in &mut uploads {
                self.add_one(file, upload, ttl).await?;
            }
            return Ok(Some(uploads));
        }
        let work = |transaction: Arc<Transaction>| {
            let (order, mut saved) = (order.clone(), uploads.clone());
            async move {
                if let Origin::Keyed(request, ttl) = origin
                    && !request.remember(&transaction, &saved, ttl).await?
                {
                    return Ok(None);
                }
                if let Origin::Partial(replaced) = origin {
                    let id: Params<'_> = &[&replaced.as_str()];
                    let locked = transaction.query(LOCK_PARTIAL, id).await?;
                    if locked.at_most_one()?.is_none() {
                        return Ok(None);
                    }
                }
                for at in order {
                    let new = NewRow::of(&files[at], &saved[at], ttl);
                    let added = transaction.query(ADD, &new.params()).await?;
                    let row = added.one()?;
                    saved[at].set_times(row.get(0), row.get(1));
                }
                if let (Origin::Partial(replaced), Some(upload)) = (origin, saved.first()) {
                    let ids: Params<'_> = &[&replaced.as_str(), &upload.id.as_str()];
                    transaction.query(REPLACE, ids).await?;
                }
                Ok::<_, UploadError>(Some(saved))
            }
        };
        self.database.transaction(changes(), work).await
    }

    /// Adds the row of a file. A lost answer is asked for again: the statement does nothing the second time.
    async fn add_one(
        &self,
        file: &Received,
        upload: &mut Upload,
        ttl: Option<f64>,
    ) -> Result<(), UploadError> {
        let deadline = Instant::now() + WITHIN;
        let (mut tries, mut lost) = (1, None);
        let added = loop {
            let new = NewRow::of(file, upload, ttl);
            let left = deadline.saturating_duration_since(Instant::now());
            match self.database.query(ADD, &new.params(), left).await {
                Err(error @ postgres::Error::Lost { .. }) if tries < TRIES => {
                    tries += 1;
                    lost.get_or_insert(error);
                }
                // Nobody knows whether the first one has stored it.
                Err(error) => return Err(lost.unwrap_or(error).into()),
                Ok(added) => break added,
            }
        };
        match added.at_most_one()? {
            Some(row) => upload.set_times(row.get(0), row.get(1)),
            None => *upload = self.find(&upload.id).await?,
        }
        Ok(())
    }

    /// One upload.
    pub(super) async fn find(&self, id: &UploadId) -> Result<Upload, UploadError> {
        let sql = format!("select {COLUMNS} from {UPLOADS} where id = $1");
        let rows = self.database.query(&sql, &[&id.as_str()], WITHIN).await?;
        let row = rows.at_most_one()?;
        let row = row.ok_or_else(|| UploadError::NotFound(id.clone()))?;
        Ok(from_row(&row))
    }

    /// Some uploads, the newest first.
    pub(super) async fn list(&self, filter: Filter) -> Result<Page, UploadError> {
        let sql = format!(
            "select {COLUMNS} from {UPLOADS}
            where ($1::text is null or kind = $1) and ($2::bytea is null or sha256 = $2)
            and ($3::int8 is null or (created_at, id) <
                (timestamptz 'epoch' + $3 * interval '1 microsecond', $4::text))
            order by created_at desc, id desc limit $5"
        );
        let kind = filter.kind.map(Kind::slug);
        let sha256 = filter.sha256.as_ref().map(|hash| &hash[..]);
        let micros = filter.after.as_ref().map(|after| after.created_micros);
        let id = filter.after.as_ref().map(|after| after.id.as_str());
        let limit = i64::from(filter.limit) + 1;
        let rows = self
            .database
            .query(&sql, &[&kind, &sha256, &micros, &id, &limit], WITHIN)
            .await?;
        let mut uploads: Vec<_> = rows.rows.iter().map(from_row).collect();
        let has_more = uploads.len() > filter.limit as usize;
        uploads.truncate(filter.limit as usize);
        let last = uploads.last().filter(|_| has_more);
        let next = last.map(|last| Cursor {
            created_micros: last.created_micros,
            id: last.id.clone(),
        });
        Ok(Page { uploads, next })
    }

    /// Removes an upload, and its file if no other needs it.
    pub(super) async fn remove(
        &self,
        store: &Arc<Store>,
        id: &UploadId,
    ) -> Result<(), UploadError> {
        let work = |transaction: Arc<Transaction>| async move {
            let removed = transaction.query(REMOVE, &[&id.as_str()]).await?;
            let row = removed.at_most_one()?;
            let row = row.ok_or_else(|| UploadError::NotFound(id.clone()))?;
            let hash: Vec<u8> = row.get(0);
            transaction.query(RELEASE_CONTENT, &[&hash]).await?;
            Ok::<_, UploadError>(hash)
        };
        let hash = self.database.transaction(changes(), work).await?;
        // The upload is gone. What is left of its file, the next sweep removes too.
        if let Err(error) = self.remove_content(store, &hash, LOCK_UNUSED).await {
            tracing::warn!(%id, %error, "the file of a removed upload is not removed yet");
        }
        Ok(())
    }

    /// How many uploads there are; those of `caller`, or all.
    pub(super) async fn totals(&self, caller: Option<Caller>) -> Result<Totals, UploadError> {
        let rows = match caller {
            None => self.database.query(TOTALS, &[], WITHIN).await?,
            Some(caller) => {
                let caller = caller.to_string();
                self.database.query(TOTALS_OF, &[&caller], WITHIN).await?
            }
        };
        let row = rows.one()?;
        Ok(Totals {
            files: unsigned(row.get(0)),
            bytes: unsigned(row.get(1)),
        })
    }

    /// Removes what has expired and what nothing uses, as a crash leaves it.
    /// If the database is that of the folder (`is_known`), it looks for files without a row in some folders from `first` on.
    pub(super) async fn sweep(
        &self,
        store: &Arc<Store>,
        first: u8,
        is_known: bool,
    ) -> Result<Swept, UploadError> {
        self.forget_requests().await?;
        let mut swept = Swept::default();
        loop {
            let expired = self.database.query(EXPIRED, &[&SWEEP_ROWS], WITHIN).await?;
            for row in &expired.rows {
                let id: String = row.get(0);
                let Ok(id) = id.parse() else { continue };
                match self.remove(store, &id).await {
                    Ok(()) => swept.expired += 1,
                    // Somebody else has removed it.
                    Err(UploadError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            if (expired.rows.len() as i64) < SWEEP_ROWS {
                break;
            }
        }
        let unused = self.database.query(UNUSED, &[&SWEEP_ROWS], WITHIN).await?;
        for row in &unused.rows {
            let hash: Vec<u8> = row.get(0);
            swept.unused += self.remove_unused(store, &hash, LOCK_UNUSED).await;
        }
        store.sweep_parts().await?;
        for next in 0..SWEEP_FOLDERS {
            let prefix = first.wrapping_add(next);
            swept.unused += self.sweep_folder(store, prefix, is_known).await?;
        }
        Ok(swept)
    }

    /// Removes the file with `hash`, and counts it. What cannot be removed stays until the next sweep.
    async fn remove_unused(&self, store: &Arc<Store>, hash: &[u8], lock: &'static str) -> u64 {
        match self.remove_content(store, hash, lock).await {
            Ok(is_removed) => u64::from(is_removed),
            Err(error) => {
                tracing::warn!(blake3 = hex(hash), %error, "a file that no upload uses is not removed");
                0
            }
        }
    }

    /// Removes the files without a row whose hash begins with `prefix`.
    async fn sweep_folder(
        &self,
        store: &Arc<Store>,
        prefix: u8,
        is_known: bool,
    ) -> Result<u64, UploadError> {
        let stored = store.stored_contents(prefix, is_known).await?;
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
            removed += self.remove_unused(store, &hash.0, LOCK_ORPHAN).await;
        }
        Ok(removed)
    }

    /// Removes the file with `hash`, if the statement `lock` finds that no upload uses it.
    async fn remove_content(
        &self,
        store: &Arc<Store>,
        hash: &[u8],
        lock: &'static str,
    ) -> Result<bool, UploadError> {
        let Ok(file) = <[u8; 32]>::try_from(hash).map(ContentHash) else {
            return Ok(false);
        };
        let _turn = store.removal_turn().await?;
        let locks = store.lock([file].into_iter()).await;
        let work = |transaction: Arc<Transaction>| {
            let locks = Arc::clone(&locks);
            async move {
                let locked = transaction.query(lock, &[&hash]).await?;
                if locked.at_most_one()?.is_none() {
                    return Ok::<_, UploadError>(false);
                }
                store.remove_content(file, &locks).await?;
                transaction.query(REMOVE_CONTENT, &[&hash]).await?;
                Ok(true)
            }
        };
        self.database.transaction(changes(), work).await
    }
}

/// Whether nothing was committed for certain.
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

fn changes() -> TransactionOptions {
    TransactionOptions::within(WITHIN).retryable(TRIES)
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

pub(super) fn from_row(row: &Row) -> Upload {
    let id: String = row.get(0);
    let (blake3, sha256): (Vec<u8>, Vec<u8>) = (row.get(5), row.get(6));
    let details: Option<String> = row.get(11);
    let details = details.and_then(|text| serde_json::from_str(&text).ok());
    let mut upload = Upload {
        id: UploadId::from_database(id),
        name: row.get(1),
        kind: row.get(2),
        media_type: row.get(3),
        details: details.unwrap_or(Detail::None {}),
        bytes: unsigned(row.get(4)),
        blake3: hex(&blake3),
        sha256: hex(&sha256),
        scanned: row.get(7),
        uploaded_by: row.get(8),
        created_at: Timestamp::now(),
        expires_at: None,
        created_micros: 0,
    };
    upload.set_times(row.get(9), row.get(10));
    upload
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

impl Upload {
    fn set_times(&mut self, created_micros: i64, expires_millis: Option<i64>) {
        self.created_micros = created_micros;
        self.created_at = Timestamp::from_unix(Duration::from_micros(unsigned(created_micros)));
        let expires = expires_millis.map(|millis| Duration::from_millis(unsigned(millis)));
        self.expires_at = expires.map(Timestamp::from_unix);
    }

    /// The file of its bytes.
    pub(super) fn content(&self) -> Option<ContentHash> {
        ContentHash::of_name(&self.blake3)
    }
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
