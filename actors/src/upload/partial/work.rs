//! What is done with uploads in parts.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::super::admission::Admission;
use super::super::blocking::blocking;
use super::super::caller::Caller;
use super::super::content::{FileName, Kind};
use super::super::error::UploadError;
use super::super::id::UploadId;
use super::super::pieces::Pieces;
use super::super::receive::{Progress, WriteOut};
use super::super::records::{Records, Totals};
use super::super::store::Store;
use super::append::{Appending, Settled, Tail, Work};
use super::complete::ends_upload;
use super::fault::PartialFault;
use super::lock::{Lock, Locks};
use super::rows::{PartialRow, PartialRows};
use super::{Append, Begun, CreatePartial, Partial, PartialRole};
use crate::postgres::Database;

/// The uploads in parts.
pub(in super::super) struct Partials {
    pub(super) admission: Arc<Admission>,
    pub(super) records: Records,
    pub(super) rows: PartialRows,
    pub(super) locks: Locks,
}

impl Partials {
    pub(in super::super) fn new(
        admission: Arc<Admission>,
        records: Records,
        database: Database,
    ) -> Self {
        let ttl = admission.config.partial_ttl;
        Self {
            admission,
            records,
            rows: PartialRows { database, ttl },
            locks: Locks::default(),
        }
    }

    async fn lock(&self, id: &UploadId) -> Result<Lock, UploadError> {
        let lock = self.locks.take(id).await;
        lock.ok_or_else(|| PartialFault::Locked.into())
    }

    pub(in super::super) async fn create(
        &self,
        store: Arc<Store>,
        create: CreatePartial,
    ) -> Result<Partial, UploadError> {
        let max = self.length_max(&create)?;
        let (parts, length) = match &create.role {
            PartialRole::Final(ids) => {
                let (parts, length) = self.parts(&store, ids).await?;
                (parts, Some(length))
            }
            _ => (Vec::new(), create.length),
        };
        if length.is_some_and(|length| length > max) {
            return Err(PartialFault::TooLong { max }.into());
        }
        let mut row = PartialRow::new(&create, length);
        let used = self
            .admission
            .callers
            .used(&self.records, create.caller)
            .await?;
        let admission = Arc::clone(&self.admission);
        let ticket = admission
            .admit(
                Arc::clone(&store),
                create.caller,
                length,
                used,
                create.lease,
            )
            .await?;
        let lock = self.lock(&row.id).await?;
        let new = Totals {
            files: 1,
            bytes: length.unwrap_or_default(),
        };
        self.add_row(&store, &mut row, create.caller, new).await?;
        ticket.set_counted();
        let offset = match row.role {
            PartialRole::Final(_) => length.unwrap_or_default(),
            _ => 0,
        };
        let made = async {
            self.make_file(&store, &row, parts).await?;
            if row.is_to_be_stored(offset) {
                self.store(ticket.shared(), &mut row, None, &lock).await?;
            }
            Ok(())
        };
        if let Err(error) = made.await {
            // Its client does not know its id. The sweep finds what is left.
            self.rows.remove(&row.id).await.ok();
            self.remove_file(&store, &row.id).await;
            self.admission.uncount(new);
            return Err(error);
        }
        Ok(row.partial(offset))
    }

    /// Adds the row of a new upload, if it is within the quotas.
    async fn add_row(
        &self,
        store: &Store,
        row: &mut PartialRow,
        caller: Caller,
        new: Totals,
    ) -> Result<(), UploadError> {
        let callers = &self.admission.callers;
        let _storing = callers.begin(&self.records, caller, new).await?;
        self.admission.count(new)?;
        let added = self.rows.add(row, &store.identity).await;
        if added.is_err() {
            self.admission.uncount(new);
        }
        added
    }

    /// The most bytes of a file, by what its client says.
    fn length_max(&self, create: &CreatePartial) -> Result<u64, UploadError> {
        let config = &self.admission.config;
        match (&create.name, &create.role) {
            (Some(name), _) => {
                let name = FileName::parse(name)?;
                Ok(config.kind(&name, create.media_type.as_deref())?.1)
            }
            (None, PartialRole::Part) => Ok(config.bytes_max_of_any()),
            (None, _) => Err(PartialFault::NoName.into()),
        }
    }

    /// The parts of a file, all of them complete, and their bytes.
    async fn parts(
        &self,
        store: &Arc<Store>,
        ids: &[UploadId],
    ) -> Result<(Vec<(UploadId, u64)>, u64), UploadError> {
        let (mut parts, mut sum) = (Vec::new(), 0_u64);
        for id in ids {
            let row = self.rows.find(id).await?;
            row.check()?;
            let bytes = self.offset(store, &row).await?;
            if row.role != PartialRole::Part || row.length != Some(bytes) {
                return Err(PartialFault::NoPart(id.clone()).into());
            }
            sum = sum.saturating_add(bytes);
            parts.push((id.clone(), bytes));
        }
        Ok((parts, sum))
    }

    /// Makes the file of a new upload, out of its parts if it has some.
    async fn make_file(
        &self,
        store: &Arc<Store>,
        row: &PartialRow,
        parts: Vec<(UploadId, u64)>,
    ) -> Result<(), UploadError> {
        let (making, id) = (Arc::clone(store), row.id.clone());
        let mut file = blocking(move || Ok(making.create_partial(&id)?)).await?;
        for (id, bytes) in parts {
            let reading = Arc::clone(store);
            file = blocking(move || {
                let gone = || PartialFault::NoPart(id.clone());
                let mut part = reading.open_partial(&id)?.ok_or_else(gone)?;
                // In the kernel, without memory of this process.
                if io::copy(&mut part, &mut file)? != bytes {
                    return Err(gone().into());
                }
                Ok(file)
            })
            .await?;
        }
        Ok(())
    }

    /// How far an upload has come.
    async fn offset(&self, store: &Arc<Store>, row: &PartialRow) -> Result<u64, UploadError> {
        if row.upload_id.is_some() {
            return Ok(row.length.unwrap_or_default());
        }
        let (reading, id) = (Arc::clone(store), row.id.clone());
        let bytes = blocking(move || Ok(reading.partial_bytes(&id)?)).await?;
        let bytes = bytes.ok_or_else(|| PartialFault::Gone("its file is lost".to_owned()))?;
        Ok(row.checked.map_or(bytes, |checked| checked.min(bytes)))
    }

    pub(in super::super) async fn find(
        &self,
        store: Arc<Store>,
        id: &UploadId,
        lease: Box<dyn Send>,
    ) -> Result<Partial, UploadError> {
        self.locks.end_stalled(id).await;
        let mut row = self.rows.find(id).await?;
        // One part may take longer than the time after the last part.
        row.is_over &= !self.locks.is_locked(id);
        row.check()?;
        let offset = self.offset(&store, &row).await;
        if !matches!(offset, Ok(offset) if row.is_to_be_stored(offset)) {
            // If another has just stored it, its file is gone.
            return match offset {
                Ok(offset) => Ok(row.partial(offset)),
                Err(error) => {
                    let row = self.rows.find(id).await?;
                    row.upload_id.as_ref().ok_or(error)?;
                    Ok(row.partial(row.length.unwrap_or_default()))
                }
            };
        }
        // The server died before it was stored; or another request is about to store it, and has the lock.
        let lock = self.lock(id).await?;
        let mut row = self.rows.find(id).await?;
        row.check()?;
        let offset = self.offset(&store, &row).await?;
        if row.is_to_be_stored(offset) {
            let caller = row.caller.ok_or(UploadError::Damaged)?;
            let admission = Arc::clone(&self.admission);
            let ticket = admission
                .readmit(Arc::clone(&store), caller, 0, None, lease)
                .await?;
            self.complete(ticket.shared(), &mut row, None, &lock)
                .await?;
        }
        Ok(row.partial(offset))
    }

    pub(in super::super) async fn append(
        self: &Arc<Self>,
        store: Arc<Store>,
        append: Append,
    ) -> Result<Begun, UploadError> {
        let id = &append.id;
        let lock = Arc::new(self.lock(id).await?);
        let mut row = self.rows.find(id).await?;
        row.check()?;
        if matches!(row.role, PartialRole::Final(_)) {
            return Err(PartialFault::Final.into());
        }
        let offset = self.offset(&store, &row).await?;
        if append.offset != offset {
            return Err(PartialFault::Offset { offset }.into());
        }
        let max = self.declare(&mut row, append.length, offset).await?;
        if offset.saturating_add(append.announced.unwrap_or_default()) > max {
            return Err(PartialFault::TooLong { max }.into());
        }
        if row.upload_id.is_some() {
            return Ok(Begun::Complete(row.partial(offset)));
        }
        let caller = row.caller.ok_or(UploadError::Damaged)?;
        // A length that is known is counted. Otherwise the part may have as many bytes as it says, or as it may say.
        let (more, used) = match row.length {
            Some(_) => (0, None),
            None => (
                append.announced.unwrap_or(max.saturating_sub(offset)),
                self.admission.callers.used(&self.records, caller).await?,
            ),
        };
        let admission = Arc::clone(&self.admission);
        let ticket = admission
            .readmit(Arc::clone(&store), caller, more, used, append.lease)
            .await?;
        ticket.set_file(row.name.as_deref().unwrap_or_default());
        lock.set_patience(ticket.patience());
        // What is refused at its end, for the settings have changed, is not judged before.
        let kind = self.kind(&row).ok().filter(|(.., bytes_max)| {
            let has_all = offset == 0 && row.role == PartialRole::Whole;
            has_all && append.announced == row.length && row.length <= Some(*bytes_max)
        });
        let is_judged = kind.is_some() && row.length.is_some();
        let (opening, opening_id, checked) = (Arc::clone(&store), id.clone(), row.checked);
        let held = Arc::clone(&lock);
        // After a crash, the disk may not have what arrived before. What comes next may be cut off again, down to there.
        let syncs = append.checksum.is_some() && offset > 0;
        let opened = blocking(move || {
            let file = opening.open_partial(&opening_id)?;
            let file = file.ok_or_else(|| PartialFault::Gone("its file is lost".to_owned()))?;
            if checked.is_some() {
                file.set_len(offset)?;
            }
            if checked.is_some() || syncs {
                file.sync_all().map_err(UploadError::Unsynced)?;
            }
            let written = is_judged.then(|| opening.whole_partial(&opening_id));
            drop(held);
            Ok((Arc::new(file), written.transpose()?))
        });
        let (file, written) = self.end_unsynced(&store, &row, opened.await).await?;
        let checked = append.checksum.is_some().then_some(offset);
        if row.checked != checked {
            self.rows.set_checked(id, checked).await?;
            row.checked = checked;
        }
        let shared = ticket.shared();
        let (mut progress, mut leaves_cache) = (None, false);
        if let Some((written, (name, kind, _))) = written.zip(kind) {
            leaves_cache = !shared.is_read_again(kind);
            progress = Some(Box::new(Progress::new(&shared, name, kind, Some(written))));
        }
        let tail = Box::new(Tail::new(
            Arc::clone(&lock),
            Arc::clone(&file),
            WriteOut::after(offset, leaves_cache),
            append.checksum.as_ref(),
            progress,
        ));
        let work = Work {
            from: offset,
            length_max: max,
            received: 0,
            checksum: append.checksum,
            pieces: Pieces::new(shared, tail),
            row,
            file,
            ticket,
            lock,
        };
        Ok(Begun::Part(Appending::new(work, Arc::clone(self))))
    }

    /// The name and the kind of a file, by what its client has said, and the most bytes of such a file.
    pub(super) fn kind(&self, row: &PartialRow) -> Result<(FileName, Kind, u64), UploadError> {
        let name = row.name.as_deref().ok_or(PartialFault::NoName)?;
        let name = FileName::parse(name)?;
        let media_type = row.media_type.as_deref();
        let (kind, bytes_max) = self.admission.config.kind(&name, media_type)?;
        Ok((name, kind, bytes_max))
    }

    /// Sets the length if the client says it now. Returns the most bytes that the file may have.
    async fn declare(
        &self,
        row: &mut PartialRow,
        length: Option<u64>,
        offset: u64,
    ) -> Result<u64, UploadError> {
        let known = row.length;
        match (known, length) {
            (Some(known), Some(length)) if known != length => {
                return Err(PartialFault::Length(length).into());
            }
            (Some(known), _) => return Ok(known),
            (None, Some(length)) if length < offset => {
                return Err(PartialFault::Length(length).into());
            }
            _ => {}
        }
        let max = match &row.name {
            Some(_) => self.kind(row)?.2,
            None => self.admission.config.bytes_max_of_any(),
        };
        let Some(length) = length else {
            return Ok(max);
        };
        if length > max {
            return Err(PartialFault::TooLong { max }.into());
        }
        let more = Totals {
            files: 0,
            bytes: length.saturating_sub(row.kept),
        };
        let caller = row.caller.ok_or(UploadError::Damaged)?;
        let callers = &self.admission.callers;
        let _storing = callers.begin(&self.records, caller, more).await?;
        self.admission.count(more)?;
        if let Err(error) = self.rows.declare(&row.id, length).await {
            self.admission.uncount(more);
            return Err(error);
        }
        row.length = Some(length);
        Ok(length)
    }

    /// Ends a part. What has arrived is kept, unless it was to be checked by a sum and is not whole, or has another.
    pub(super) async fn settle(
        self: Arc<Self>,
        work: Work,
        is_whole: bool,
    ) -> Result<Partial, UploadError> {
        let Work {
            mut row,
            file,
            from,
            checksum,
            pieces,
            ticket,
            lock,
            ..
        } = work;
        let shared = ticket.shared();
        // Bytes that have a sum count before the file is stored: from then on, nothing may cut them off. Who scans a file, or sends
        // it to the bucket, may take long.
        let stored_at = match checksum.is_none() && !shared.has_readers() {
            true => row.length,
            false => None,
        };
        let (held, unsynced) = (Arc::clone(&lock), Arc::clone(&file));
        let settled =
            Work::write_all(held, pieces, checksum, file, from, stored_at, is_whole).await;
        let Settled {
            bytes,
            fault,
            is_synced,
            judged,
        } = self.end_unsynced(&shared.store, &row, settled).await?;
        if is_synced {
            let kept = row.kept;
            self.rows.keep(&mut row, bytes).await?;
            if row.length.is_none() {
                ticket.set_counted();
                let bytes = bytes.saturating_sub(kept);
                self.admission.keep(Totals { files: 0, bytes });
            }
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        if is_whole && row.is_to_be_stored(bytes) {
            let store = Arc::clone(&shared.store);
            let stored = self.complete(shared, &mut row, judged, &lock).await;
            if let Err(error) = stored {
                let may_go_on = !ends_upload(&error) && !matches!(error, UploadError::Partial(_));
                if !is_synced && may_go_on {
                    self.keep_unstored(&store, &mut row, unsynced, &lock)
                        .await?;
                }
                return Err(error);
            }
        }
        Ok(row.partial(bytes))
    }

    /// Has a whole file on the disk that could not be stored now, so that its client need not send it again.
    async fn keep_unstored(
        &self,
        store: &Arc<Store>,
        row: &mut PartialRow,
        file: Arc<File>,
        lock: &Arc<Lock>,
    ) -> Result<(), UploadError> {
        let held = Arc::clone(lock);
        let synced = blocking(move || {
            let synced = file.sync_all().map_err(UploadError::Unsynced);
            drop(held);
            synced
        });
        self.end_unsynced(store, row, synced.await).await?;
        let bytes = row.length.unwrap_or_default();
        if let Err(error) = self.rows.keep(row, bytes).await {
            // Its client learns why it was not stored.
            tracing::debug!(id = %row.id, %error, "an upload in parts has no more time");
        }
        Ok(())
    }

    /// Ends an upload whose bytes could not be synced: the next sync would succeed, and prove nothing.
    async fn end_unsynced<T>(
        &self,
        store: &Arc<Store>,
        row: &PartialRow,
        synced: Result<T, UploadError>,
    ) -> Result<T, UploadError> {
        if let Err(error @ UploadError::Unsynced(_)) = &synced {
            self.end_for(store, row, &error.to_string()).await;
        }
        synced
    }

    /// Ends an upload. Returns what it has become, to be removed too.
    pub(in super::super) async fn terminate(
        &self,
        store: &Arc<Store>,
        id: &UploadId,
    ) -> Result<Option<UploadId>, UploadError> {
        let _lock = self.lock(id).await?;
        let row = self.rows.find(id).await?;
        row.check()?;
        if row.upload_id.is_some() {
            return Ok(row.upload_id);
        }
        self.end(store, &row, "its client has ended it").await?;
        Ok(None)
    }

    /// Removes a file. If that fails, the next sweep tries again.
    pub(super) async fn remove_file(&self, store: &Arc<Store>, id: &UploadId) -> bool {
        let (removing, removed) = (Arc::clone(store), id.clone());
        match blocking(move || Ok(removing.remove_partial(&removed)?)).await {
            Ok(was_there) => was_there,
            Err(error) => {
                tracing::warn!(%id, %error, "the file of an upload in parts is not removed yet");
                false
            }
        }
    }
}
