//! The rows of uploads in PostgreSQL.
//!
//! `addition` adds them with their files, and `removal` removes both.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::caller::Caller;
use super::content::{Detail, Kind};
use super::error::UploadError;
use super::id::UploadId;
use super::store::{ContentHash, hex};
use crate::kernel::Timestamp;
use crate::postgres::{Database, Row, TransactionOptions};

/// How long one call of the database may take.
pub(super) const WITHIN: Duration = Duration::from_secs(10);
/// How often a transaction is tried that others made fail.
pub(super) const TRIES: u32 = 5;
/// Rows that one step of a sweep takes.
pub(super) const SWEEP_ROWS: i64 = 100;

/// The last microsecond of the year 9999.
const MICROS_MAX: i64 = 253_402_300_799_999_999;

/// What is known of an upload. The order of `from_row`.
pub(super) const COLUMNS: &str = "id, name, kind, media_type, bytes, blake3, sha256, scanned, caller,
    (extract(epoch from created_at) * 1000000)::int8, (extract(epoch from expires_at) * 1000)::int8, details::text";
/// Uploads with their content.
pub(super) const UPLOADS: &str = "(select u.*, c.sha256 from headroom.upload u
    join headroom.upload_content c using (blake3)
    where expires_at is null or expires_at > clock_timestamp()) uploads";

/// What is stored, with the files that arrive in parts.
const TOTALS: &str = "select count(*), coalesce(sum(bytes), 0)::int8 from (
    select bytes from headroom.upload
    union all select coalesce(length, kept) from headroom.partial_upload
    where upload_id is null and ended is null) stored (bytes)";
const TOTALS_OF: &str = "select count(*), coalesce(sum(bytes), 0)::int8 from (
    select bytes from headroom.upload where caller = $1
    union all select coalesce(length, kept) from headroom.partial_upload
    where caller = $1 and upload_id is null and ended is null) stored (bytes)";

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
    #[schema(value_type = Details)]
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

/// What the check of the content has learned, by the kind of the file.
#[derive(ToSchema)]
#[schema(as = UploadDetails)]
#[allow(dead_code, reason = "it is only a schema")]
struct Details {
    /// Lines of a text.
    #[schema(nullable = false)]
    lines: Option<u64>,
    /// Columns of each record of a table.
    #[schema(nullable = false)]
    columns: Option<u64>,
    /// Records of a table, with a first one that may be a header.
    #[schema(nullable = false)]
    records: Option<u64>,
    /// Pixels in a row of an image.
    #[schema(nullable = false)]
    width: Option<u32>,
    /// Rows of an image.
    #[schema(nullable = false)]
    height: Option<u32>,
    /// Entries of an archive.
    #[schema(nullable = false)]
    entries: Option<u64>,
    /// Bytes of all entries of an archive unpacked, as its directory declares.
    #[schema(nullable = false)]
    unpacked_bytes: Option<u64>,
    /// Channels of a recording.
    #[schema(nullable = false)]
    channels: Option<u16>,
    /// Samples of a channel in a second.
    #[schema(nullable = false)]
    sample_rate: Option<u32>,
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
    /// Without what is gone.
    pub(super) fn minus(self, gone: Self) -> Self {
        Self {
            files: self.files.saturating_sub(gone.files),
            bytes: self.bytes.saturating_sub(gone.bytes),
        }
    }

    /// The sum of both.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            bytes: self.bytes + other.bytes,
        }
    }
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
}

pub(super) fn changes() -> TransactionOptions {
    TransactionOptions::within(WITHIN).retryable(TRIES)
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

impl Upload {
    pub(super) fn set_times(&mut self, created_micros: i64, expires_millis: Option<i64>) {
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
