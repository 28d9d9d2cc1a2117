//! The end of an upload in parts: its file is checked and stored like that of a form.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::addition::Origin;
use super::super::blocking::blocking;
use super::super::error::UploadError;
use super::super::pieces::Shared;
use super::super::receive::{Incoming, Received};
use super::super::records::Totals;
use super::super::store::Store;
use super::append::Judged;
use super::lock::Lock;
use super::rows::PartialRow;
use super::work::Partials;
use crate::kernel::Timestamp;

/// Whether an upload does not go on if its file is not stored for this reason.
pub(super) fn ends_upload(error: &UploadError) -> bool {
    error.is_of_the_file() || matches!(error, UploadError::Unsynced(_))
}

impl Partials {
    /// Stores a file that has arrived. If it was not judged, it is read again. If it is refused, or the disk may not have it, the
    /// upload ends.
    pub(super) async fn complete(
        &self,
        shared: Shared,
        row: &mut PartialRow,
        judged: Judged,
        lock: &Lock,
    ) -> Result<(), UploadError> {
        let store = Arc::clone(&shared.store);
        let stored = self.store(shared, row, judged, lock).await;
        match &stored {
            Err(error) if error.is_of_the_file() => {
                let reason = format!("it was refused: {error}");
                self.end_for(&store, row, &reason).await;
            }
            Err(error) if ends_upload(error) => {
                self.end_for(&store, row, &error.to_string()).await;
            }
            _ => {}
        }
        stored
    }

    /// Stores a file that has arrived.
    pub(super) async fn store(
        &self,
        shared: Shared,
        row: &mut PartialRow,
        judged: Judged,
        _: &Lock,
    ) -> Result<(), UploadError> {
        let began = Instant::now();
        let store = Arc::clone(&shared.store);
        let received = match judged {
            Some(progress) => progress?.receive(&shared).await?,
            None => self.read_back(shared, row).await?,
        };
        let caller = row.caller.ok_or(UploadError::Damaged)?;
        let (files, ttl) = (vec![received], self.admission.config.ttl);
        let origin = Origin::Partial(&row.id, self.rows.ttl);
        let added = self.records.add(&store, files, caller, ttl, origin);
        if let Some(uploads) = added.await? {
            let upload = uploads.first().ok_or(UploadError::Panicked)?;
            self.admission.record_stored(&uploads, began);
            row.upload_id = Some(upload.id.clone());
            // About what the row says: by the clock of this machine, not by that of the database.
            row.expires_at = Timestamp::in_future(self.rows.ttl);
        } else {
            *row = self.rows.find(&row.id).await?;
            row.check()?;
        }
        self.remove_file(&store, &row.id).await;
        Ok(())
    }

    /// Ends an upload that does not go on, and frees its bytes.
    pub(super) async fn end(
        &self,
        store: &Arc<Store>,
        row: &PartialRow,
        reason: &str,
    ) -> Result<(), UploadError> {
        // The file first: without it the upload does not go on, also if the row cannot be changed now.
        self.remove_file(store, &row.id).await;
        if self.rows.end(&row.id, reason).await? {
            let bytes = row.length.unwrap_or(row.kept);
            self.admission.uncount(Totals { files: 1, bytes });
        }
        Ok(())
    }

    /// As [`Self::end`], after an error that its client learns. Without its file, the upload does not go on in any case.
    pub(super) async fn end_for(&self, store: &Arc<Store>, row: &PartialRow, reason: &str) {
        if let Err(error) = self.end(store, row, reason).await {
            tracing::warn!(id = %row.id, %error, "the row of an upload in parts does not say yet that it has ended");
        }
    }

    /// Has the bytes of a file checked and hashed, as those of a form are while they arrive.
    async fn read_back(&self, shared: Shared, row: &PartialRow) -> Result<Received, UploadError> {
        let (name, kind, bytes_max) = self.kind(row)?;
        let (opening, id) = (Arc::clone(&shared.store), row.id.clone());
        let (temp, mut file) = blocking(move || {
            let temp = opening.whole_partial(&id)?;
            let file = temp.file.try_clone()?;
            Ok((temp, file))
        })
        .await?;
        let mut incoming = Incoming::read_back(shared, name, kind, bytes_max, temp);
        loop {
            let most = incoming.piece_bytes() as u64;
            let (again, piece) = blocking(move || {
                let mut piece = Vec::with_capacity(most as usize);
                (&file).take(most).read_to_end(&mut piece)?;
                Ok((file, Bytes::from(piece)))
            })
            .await?;
            file = again;
            if piece.is_empty() {
                return incoming.finish().await;
            }
            incoming.write_piece(piece).await?;
        }
    }
}
