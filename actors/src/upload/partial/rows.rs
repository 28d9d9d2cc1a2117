//! The rows of uploads in parts.

use std::collections::HashSet;
use std::time::Duration;

use super::super::caller::Caller;
use super::super::error::UploadError;
use super::super::id::UploadId;
use super::super::records::{SWEEP_ROWS, WITHIN, signed, unsigned};
use super::fault::PartialFault;
use super::{CreatePartial, Partial, PartialRole};
use crate::kernel::Timestamp;
use crate::postgres::{Database, Row};

const COLUMNS: &str =
    "id, name, media_type, metadata, length, kept, checked, role, parts, caller, upload_id, ended,
    (extract(epoch from expires_at) * 1000)::int8, expires_at <= clock_timestamp()";
const ADD: &str = "insert into headroom.partial_upload
    (id, name, media_type, metadata, length, role, parts, caller, expires_at, folder)
    values ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp() + make_interval(secs => $9), $10)
    returning (extract(epoch from expires_at) * 1000)::int8";
const DECLARE: &str =
    "update headroom.partial_upload set length = $2 where id = $1 and length is null";
const SET_CHECKED: &str = "update headroom.partial_upload set checked = $2 where id = $1";
/// Each part gives the upload more time.
const KEEP: &str = "update headroom.partial_upload
    set kept = $2, checked = null, expires_at = clock_timestamp() + make_interval(secs => $3)
    where id = $1 returning (extract(epoch from expires_at) * 1000)::int8";
/// What a client has said of an upload is kept no longer.
const END: &str = "update headroom.partial_upload
    set ended = $2, name = null, media_type = null, metadata = '', parts = '{}',
    expires_at = least(expires_at, clock_timestamp() + interval '1 hour')
    where id = $1 and upload_id is null and ended is null";
/// Leaves so many of those that have ended: clients can end uploads faster than their time is over.
const REMOVE_ENDED: &str = "delete from headroom.partial_upload where id in
    (select id from headroom.partial_upload where ended is not null order by expires_at desc offset $1)";
const REMOVE: &str = "delete from headroom.partial_upload where id = $1";
const REMOVE_EXPIRED: &str =
    "delete from headroom.partial_upload where id = $1 and expires_at <= clock_timestamp()";
const EXPIRED: &str = "select id from headroom.partial_upload where expires_at <= clock_timestamp()
    order by expires_at limit $1";
const OPEN: &str = "select id from headroom.partial_upload
    where id > $1 and folder = $3 and upload_id is null and ended is null order by id limit $2";
const OPEN_OF: &str = "select id from headroom.partial_upload
    where id = any($1) and upload_id is null and ended is null";

/// The most ended uploads whose rows a sweep leaves.
const ENDED_MAX: i64 = 10_000;

/// The rows of uploads in parts.
#[derive(Clone)]
pub(super) struct PartialRows {
    pub(super) database: Database,
    /// How long an upload is kept after its last part.
    pub(super) ttl: Duration,
}

/// What is known of an upload in parts, besides its file.
#[derive(Debug, Clone)]
pub(super) struct PartialRow {
    pub(super) id: UploadId,
    pub(super) name: Option<String>,
    pub(super) media_type: Option<String>,
    pub(super) metadata: String,
    pub(super) length: Option<u64>,
    pub(super) kept: u64,
    pub(super) checked: Option<u64>,
    pub(super) role: PartialRole,
    pub(super) caller: Option<Caller>,
    pub(super) upload_id: Option<UploadId>,
    pub(super) ended: Option<String>,
    pub(super) expires_at: Timestamp,
    pub(super) is_over: bool,
}

impl PartialRow {
    /// A row that was not added yet.
    pub(super) fn new(create: &CreatePartial, length: Option<u64>) -> Self {
        Self {
            id: UploadId::random(),
            name: create.name.clone(),
            media_type: create.media_type.clone(),
            metadata: create.metadata.clone(),
            length,
            kept: 0,
            checked: None,
            role: create.role.clone(),
            caller: Some(create.caller),
            upload_id: None,
            ended: None,
            expires_at: Timestamp::now(),
            is_over: false,
        }
    }

    /// Whether it goes on, or is complete.
    pub(super) fn check(&self) -> Result<(), PartialFault> {
        if let Some(reason) = &self.ended {
            return Err(PartialFault::Gone(reason.clone()));
        }
        match self.is_over {
            true => Err(PartialFault::Gone("its time is over".to_owned())),
            false => Ok(()),
        }
    }

    /// What a client is told, if the file has `offset` bytes.
    pub(super) fn partial(&self, offset: u64) -> Partial {
        Partial {
            id: self.id.clone(),
            offset,
            length: self.length,
            metadata: self.metadata.clone(),
            role: self.role.clone(),
            expires_at: self.expires_at,
            upload: self.upload_id.clone(),
        }
    }

    /// Whether the file is to be stored now that it has `offset` bytes.
    pub(super) fn is_to_be_stored(&self, offset: u64) -> bool {
        self.upload_id.is_none()
            && self.role != PartialRole::Part
            && self.length.is_some_and(|length| length == offset)
    }
}

impl PartialRows {
    pub(super) async fn add(
        &self,
        row: &mut PartialRow,
        folder: &UploadId,
    ) -> Result<(), UploadError> {
        let (role, parts) = match &row.role {
            PartialRole::Whole => ("whole", &[][..]),
            PartialRole::Part => ("part", &[][..]),
            PartialRole::Final(parts) => ("final", &parts[..]),
        };
        let parts: Vec<&str> = parts.iter().map(UploadId::as_str).collect();
        let caller = row.caller.map(|caller| caller.to_string());
        let rows = self
            .database
            .query(
                ADD,
                &[
                    &row.id.as_str(),
                    &row.name,
                    &row.media_type,
                    &row.metadata,
                    &row.length.map(signed),
                    &role,
                    &parts,
                    &caller,
                    &self.ttl.as_secs_f64(),
                    &folder.as_str(),
                ],
                WITHIN,
            )
            .await?;
        row.expires_at = time(rows.one()?.get(0));
        Ok(())
    }

    pub(super) async fn find(&self, id: &UploadId) -> Result<PartialRow, UploadError> {
        let sql = format!("select {COLUMNS} from headroom.partial_upload where id = $1");
        let rows = self.database.query(&sql, &[&id.as_str()], WITHIN).await?;
        let row = rows.at_most_one()?;
        let row = row.ok_or_else(|| PartialFault::NotFound(id.clone()))?;
        Ok(from_row(&row))
    }

    /// Sets the length, which was open.
    pub(super) async fn declare(&self, id: &UploadId, length: u64) -> Result<(), UploadError> {
        self.change(DECLARE, &[&id.as_str(), &signed(length)]).await
    }

    /// Says that bytes after `checked` do not count, or that all do.
    pub(super) async fn set_checked(
        &self,
        id: &UploadId,
        checked: Option<u64>,
    ) -> Result<(), UploadError> {
        let checked = checked.map(signed);
        self.change(SET_CHECKED, &[&id.as_str(), &checked]).await
    }

    /// Says how many bytes the file has. All of them count.
    pub(super) async fn keep(&self, row: &mut PartialRow, bytes: u64) -> Result<(), UploadError> {
        let ttl = self.ttl.as_secs_f64();
        let kept = self
            .database
            .query(KEEP, &[&row.id.as_str(), &signed(bytes), &ttl], WITHIN)
            .await?;
        row.expires_at = time(kept.one()?.get(0));
        row.kept = bytes;
        row.checked = None;
        Ok(())
    }

    /// Says why the upload does not go on. The row stays for a while to tell it. Returns whether it went on before.
    pub(super) async fn end(&self, id: &UploadId, reason: &str) -> Result<bool, UploadError> {
        let params: crate::postgres::Params<'_> = &[&id.as_str(), &reason];
        let ended = self.database.query(END, params, WITHIN).await?;
        Ok(ended.rows_affected > 0)
    }

    pub(super) async fn remove(&self, id: &UploadId) -> Result<(), UploadError> {
        self.change(REMOVE, &[&id.as_str()]).await
    }

    /// Removes the oldest of those that have ended, if they are many.
    pub(super) async fn remove_ended(&self) -> Result<(), UploadError> {
        self.change(REMOVE_ENDED, &[&ENDED_MAX]).await
    }

    /// Removes the row if its time is over. Returns whether it was.
    pub(super) async fn remove_expired(&self, id: &UploadId) -> Result<bool, UploadError> {
        let removed = self
            .database
            .query(REMOVE_EXPIRED, &[&id.as_str()], WITHIN)
            .await?;
        Ok(removed.rows_affected > 0)
    }

    /// Some uploads whose time is over.
    pub(super) async fn expired(&self) -> Result<Vec<UploadId>, UploadError> {
        let rows = self.database.query(EXPIRED, &[&SWEEP_ROWS], WITHIN).await?;
        Ok(rows.rows.iter().map(id_of).collect())
    }

    /// Some uploads that have a file, with ids after `after`.
    pub(super) async fn open_after(
        &self,
        after: &str,
        folder: &UploadId,
    ) -> Result<Vec<UploadId>, UploadError> {
        let rows = self
            .database
            .query(OPEN, &[&after, &SWEEP_ROWS, &folder.as_str()], WITHIN)
            .await?;
        Ok(rows.rows.iter().map(id_of).collect())
    }

    /// Those of `ids` that have a file.
    pub(super) async fn open_of(&self, ids: &[UploadId]) -> Result<HashSet<UploadId>, UploadError> {
        let ids: Vec<&str> = ids.iter().map(UploadId::as_str).collect();
        let rows = self.database.query(OPEN_OF, &[&ids], WITHIN).await?;
        Ok(rows.rows.iter().map(id_of).collect())
    }

    async fn change(
        &self,
        sql: &str,
        params: crate::postgres::Params<'_>,
    ) -> Result<(), UploadError> {
        self.database.query(sql, params, WITHIN).await?;
        Ok(())
    }
}

fn id_of(row: &Row) -> UploadId {
    UploadId::from_database(row.get(0))
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_unix(Duration::from_millis(unsigned(millis)))
}

fn from_row(row: &Row) -> PartialRow {
    let role: String = row.get(7);
    let parts: Vec<String> = row.get(8);
    let parts = parts.into_iter().map(UploadId::from_database).collect();
    let caller: String = row.get(9);
    let number = |at: usize| row.get::<_, Option<i64>>(at).map(unsigned);
    PartialRow {
        id: id_of(row),
        name: row.get(1),
        media_type: row.get(2),
        metadata: row.get(3),
        length: number(4),
        kept: unsigned(row.get(5)),
        checked: number(6),
        role: match role.as_str() {
            "part" => PartialRole::Part,
            "final" => PartialRole::Final(parts),
            _ => PartialRole::Whole,
        },
        caller: Caller::parse(&caller),
        upload_id: row
            .get::<_, Option<String>>(10)
            .map(UploadId::from_database),
        ended: row.get(11),
        expires_at: time(row.get(12)),
        is_over: row.get(13),
    }
}
