//! Files in which the scanner has found a virus: a record of each, and by policy the file itself, for an operator to look at.
//!
//! A file in quarantine can be read by the user of the server alone, and no route reads it. Records and files have bounds, and are removed
//! after some time.

use std::collections::HashSet;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::blocking::{blocking, drop_apart};
use super::caller::Caller;
use super::error::UploadError;
use super::id::UploadId;
use super::receive::Received;
use super::records::{SWEEP_ROWS, WITHIN, signed, unsigned};
use super::store::{QUARANTINE, Store, TempFile, hex, remove_if_there, sync_folder};
use crate::kernel::Timestamp;
use crate::postgres::{Database, Row};

/// The newest records are kept, so many of them.
const RECORDS_MAX: i64 = 10_000;

const COLUMNS: &str = "id, name, kind, bytes, sha256, signature, caller, kept,
    (extract(epoch from found_at) * 1000)::int8";
/// The file is kept if there is a place for it.
const ADD: &str =
    "insert into headroom.infected_upload (id, name, kind, bytes, sha256, signature, caller, kept, folder)
    select $1::text, $2::text, $3::text, $4::int8, $5::bytea, $6::text, $7::text,
        $4::int8 + coalesce(sum(bytes), 0)::int8 <= $8::int8, $9::text
    from headroom.infected_upload where kept returning kept";
const NOT_KEPT: &str = "update headroom.infected_upload set kept = false where id = $1";
/// A crash has lost the files of these.
const LOST: &str = "update headroom.infected_upload set kept = false
    where kept and folder = $2 and not id = any($1)";
const REMOVE: &str = "delete from headroom.infected_upload where id = $1 returning 1";
const REMOVE_OLD: &str = "delete from headroom.infected_upload where id in (
    (select id from headroom.infected_upload
        where found_at <= clock_timestamp() - make_interval(secs => $1) order by found_at limit $2)
    union all
    (select id from headroom.infected_upload order by found_at desc, id desc offset $3 limit $2))
    returning id";
const KNOWN: &str = "select id from headroom.infected_upload where kept and id = any($1)";

/// A file in which the scanner has found a virus. It was not stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct InfectedUpload {
    /// The id of the record.
    pub id: UploadId,
    /// The name of the file.
    pub name: String,
    /// The kind of the file by its name.
    pub kind: String,
    /// The bytes of the file.
    pub bytes: u64,
    /// The SHA-256 hash of the bytes.
    pub sha256: String,
    /// What the scanner calls the virus.
    pub signature: String,
    /// The network address that it came from.
    pub uploaded_by: String,
    /// When it was found.
    pub found_at: Timestamp,
    /// Whether the file is in quarantine.
    pub is_kept: bool,
}

/// What is done with infected files.
#[derive(Clone)]
pub(super) struct Quarantine {
    pub(super) database: Database,
    /// The most bytes of files in quarantine. Without a place, a file is not kept.
    pub(super) bytes_max: u64,
    /// How long records and files are kept.
    pub(super) ttl: Duration,
    /// Held while a file is taken: each needs to know what those before it have taken, and a sweep which records have
    /// no file yet.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

impl Quarantine {
    /// Records an infected file, and keeps it if there is a place for it.
    pub(super) async fn take(
        &self,
        store: &Arc<Store>,
        received: Received,
        caller: Caller,
        signature: &str,
    ) -> Result<(), UploadError> {
        let id = UploadId::random();
        let turn = self.turn.lock().await;
        let (bytes, bytes_max) = (signed(received.bytes), signed(self.bytes_max));
        let rows = self
            .database
            .query(
                ADD,
                &[
                    &id.as_str(),
                    &received.name.as_str(),
                    &received.kind.slug(),
                    &bytes,
                    &&received.sha256[..],
                    &signature,
                    &caller.to_string(),
                    &bytes_max,
                    &store.identity.as_str(),
                ],
                WITHIN,
            )
            .await?;
        if !rows.one()?.get::<_, bool>(0) {
            drop_apart(received);
            return Ok(());
        }
        let (store, kept) = (Arc::clone(store), id.clone());
        let taken = blocking(move || Ok(store.quarantine(&received.temp, &kept)?)).await;
        if taken.is_err() {
            let id = &id.as_str();
            self.database.query(NOT_KEPT, &[id], WITHIN).await?;
        }
        drop(turn);
        taken
    }

    /// The newest records.
    pub(super) async fn list(&self, limit: u32) -> Result<Vec<InfectedUpload>, UploadError> {
        let sql = format!(
            "select {COLUMNS} from headroom.infected_upload order by found_at desc, id desc limit $1"
        );
        let limit = i64::from(limit);
        let rows = self.database.query(&sql, &[&limit], WITHIN).await?;
        Ok(rows.rows.iter().map(from_row).collect())
    }

    /// Removes a record and its file.
    pub(super) async fn remove(&self, store: Arc<Store>, id: UploadId) -> Result<(), UploadError> {
        let removed = self.database.query(REMOVE, &[&id.as_str()], WITHIN).await?;
        if removed.at_most_one()?.is_none() {
            return Err(UploadError::NotFound(id));
        }
        blocking(move || Ok(store.remove_quarantined(&id)?)).await
    }

    /// Removes what is old. If the database knows the folder (`is_known`), records and files then agree: files that
    /// no record has are removed, and records of which the file is lost say so.
    pub(super) async fn sweep(
        &self,
        store: &Arc<Store>,
        is_known: bool,
    ) -> Result<u64, UploadError> {
        let ttl = self.ttl.as_secs_f64();
        let mut removed = 0;
        loop {
            let old = self
                .database
                .query(REMOVE_OLD, &[&ttl, &SWEEP_ROWS, &RECORDS_MAX], WITHIN)
                .await?;
            removed += old.rows.len() as u64;
            if (old.rows.len() as i64) < SWEEP_ROWS {
                break;
            }
        }
        if !is_known {
            return Ok(removed);
        }
        let files = self.end_lost(store).await?;
        for some in files.chunks(SWEEP_ROWS as usize) {
            let ids: Vec<&str> = some.iter().map(UploadId::as_str).collect();
            let known = self.database.query(KNOWN, &[&ids], WITHIN).await?;
            let known: HashSet<String> = known.rows.iter().map(|row| row.get(0)).collect();
            for id in some.iter().filter(|id| !known.contains(id.as_str())) {
                let (removing, id) = (Arc::clone(store), id.clone());
                blocking(move || Ok(removing.remove_quarantined(&id)?)).await?;
            }
        }
        Ok(removed)
    }

    /// Gives back the places of files that a crash has lost. Returns the files that are there.
    async fn end_lost(&self, store: &Arc<Store>) -> Result<Vec<UploadId>, UploadError> {
        // Nobody is between a record and its file.
        let _turn = self.turn.lock().await;
        let listing = Arc::clone(store);
        let files = blocking(move || Ok(listing.ids_in(QUARANTINE)?)).await?;
        let ids: Vec<&str> = files.iter().map(UploadId::as_str).collect();
        self.database
            .query(LOST, &[&ids, &store.identity.as_str()], WITHIN)
            .await?;
        Ok(files)
    }
}

fn from_row(row: &Row) -> InfectedUpload {
    let sha256: Vec<u8> = row.get(4);
    InfectedUpload {
        id: UploadId::from_database(row.get(0)),
        name: row.get(1),
        kind: row.get(2),
        bytes: unsigned(row.get(3)),
        sha256: hex(&sha256),
        signature: row.get(5),
        uploaded_by: row.get(6),
        is_kept: row.get(7),
        found_at: Timestamp::from_unix(Duration::from_millis(unsigned(row.get(8)))),
    }
}

impl Store {
    fn quarantine_path(&self, id: &UploadId) -> PathBuf {
        self.dir.join(QUARANTINE).join(id.as_str())
    }

    /// Gives an infected file a name in the quarantine, and has it read only.
    fn quarantine(&self, temp: &TempFile, id: &UploadId) -> io::Result<()> {
        // Not unreadable: an upload in parts is read once more if the server dies now.
        temp.file.set_permissions(Permissions::from_mode(0o400))?;
        temp.link(&self.quarantine_path(id))?;
        temp.file.sync_all()?;
        sync_folder(&self.dir.join(QUARANTINE))
    }

    fn remove_quarantined(&self, id: &UploadId) -> io::Result<()> {
        remove_if_there(&self.quarantine_path(id))?;
        Ok(())
    }
}
