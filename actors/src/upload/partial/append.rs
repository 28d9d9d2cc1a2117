//! One part of an upload on its way into the file.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;

use super::super::admission::Ticket;
use super::super::blocking::blocking;
use super::super::error::UploadError;
use super::super::patience::Patience;
use super::super::pieces::{Pieces, Sink};
use super::super::receive::{Progress, WriteOut};
use super::Partial;
use super::checksum::{Checksum, Summing};
use super::fault::PartialFault;
use super::lock::Lock;
use super::rows::PartialRow;
use super::work::Partials;

/// One part of an upload that arrives. If it is dropped, what has arrived is kept, unless it was to be checked by a
/// sum.
pub struct Appending {
    work: Option<Box<Work>>,
    partials: Arc<Partials>,
}

/// All that a part needs until it is in the file.
pub(super) struct Work {
    pub(super) row: PartialRow,
    pub(super) file: Arc<File>,
    /// Where the part begins.
    pub(super) from: u64,
    /// The most bytes that the file may have.
    pub(super) length_max: u64,
    pub(super) received: u64,
    pub(super) checksum: Option<Checksum>,
    pub(super) pieces: Pieces<Tail>,
    pub(super) ticket: Ticket,
    pub(super) lock: Arc<Lock>,
}

/// The end of the file.
pub(super) struct Tail {
    /// A write that outlives its request still holds it.
    _lock: Arc<Lock>,
    file: Arc<File>,
    write_out: WriteOut,
    sum: Summing,
    judged: Judged,
}

/// What is known of the file if this part has all of it, or why it is refused. `None` if it is read again at its end.
pub(super) type Judged = Option<Result<Box<Progress>, UploadError>>;

impl Tail {
    /// `progress` is of a file that has no bytes yet.
    pub(super) fn new(
        lock: Arc<Lock>,
        file: Arc<File>,
        write_out: WriteOut,
        checksum: Option<&Checksum>,
        progress: Option<Box<Progress>>,
    ) -> Self {
        Self {
            _lock: lock,
            file,
            write_out,
            sum: Summing::new(checksum),
            judged: progress.map(Ok),
        }
    }
}

impl Sink for Tail {
    fn add(&mut self, piece: &Bytes) -> Result<(), UploadError> {
        self.sum.add(piece);
        (&*self.file).write_all(piece)?;
        self.write_out.add(&self.file, piece.len());
        // A refusal is told when the part has arrived, like that of a file that is read again.
        if let Some(Ok(progress)) = &mut self.judged
            && let Err(error) = progress.add(piece)
        {
            self.judged = Some(Err(error));
        }
        Ok(())
    }
}

impl Appending {
    pub(super) fn new(work: Work, partials: Arc<Partials>) -> Self {
        Self {
            work: Some(Box::new(work)),
            partials,
        }
    }

    /// Takes bytes of the part. Waits while those before are being written.
    ///
    /// # Errors
    /// The file would be too long, or cannot be written. It takes no more bytes then.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        let Some(work) = &mut self.work else {
            return Err(UploadError::Panicked);
        };
        let received = work.received + bytes.len() as u64;
        if work.from + received > work.length_max {
            return Err(self.end_too_long().await);
        }
        work.received = received;
        work.pieces.write(bytes).await
    }

    /// Ends the upload: what the client has said of its length is wrong, so what has arrived is not its file. That goes on if the
    /// client leaves.
    async fn end_too_long(&mut self) -> UploadError {
        let Some(work) = self.work.take() else {
            return UploadError::Panicked;
        };
        let fault = PartialFault::TooLong {
            max: work.length_max,
        };
        let (partials, reason) = (Arc::clone(&self.partials), fault.to_string());
        let ended = tokio::spawn(async move {
            let ended = partials.end(work.ticket.store(), &work.row, &reason).await;
            drop(work);
            ended
        });
        match ended.await {
            Ok(Ok(())) => fault.into(),
            Ok(Err(error)) => error,
            Err(_) => UploadError::Panicked,
        }
    }

    /// What the part waits for its client with.
    pub fn patience(&self) -> Patience {
        let work = self.work.as_ref();
        work.map_or_else(Patience::default, |work| work.ticket.patience())
    }

    /// Ends the part, which has arrived whole. When this returns, it is on the disk; and if it was the last one, the
    /// file is stored.
    pub(in super::super) async fn settle(mut self) -> Result<Partial, UploadError> {
        let work = self.work.take().ok_or(UploadError::Panicked)?;
        Arc::clone(&self.partials).settle(*work, true).await
    }
}

impl Drop for Appending {
    fn drop(&mut self) {
        let (Some(work), Ok(runtime)) = (self.work.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let partials = Arc::clone(&self.partials);
        runtime.spawn(async move {
            let id = work.row.id.clone();
            if let Err(error) = partials.settle(*work, false).await {
                tracing::debug!(%id, %error, "a part of an upload ended early");
            }
        });
    }
}

/// What is in the file after a part has ended.
pub(super) struct Settled {
    pub(super) bytes: u64,
    /// Why the part did not get there.
    pub(super) fault: Option<UploadError>,
    /// Whether all bytes are on the disk. Otherwise they are synced when the file is stored.
    pub(super) is_synced: bool,
    pub(super) judged: Judged,
}

impl Work {
    /// Has all bytes written and on the disk. Those that were to be checked and do not have their sum are cut off. A whole file of
    /// `stored_at` bytes is not synced: it is stored next.
    pub(super) async fn write_all(
        lock: Arc<Lock>,
        pieces: Pieces<Tail>,
        checksum: Option<Checksum>,
        file: Arc<File>,
        from: u64,
        stored_at: Option<u64>,
        is_whole: bool,
    ) -> Result<Settled, UploadError> {
        let written = pieces.finish(|tail| Ok((tail.sum.finish(), tail.judged)));
        let written = written.await;
        blocking(move || {
            let (fault, judged) = match (&checksum, written) {
                (_, Err(error)) => (Some(error), None),
                (Some(expected), Ok((sum, _))) if !is_whole || sum != expected.sum => {
                    (Some(PartialFault::Checksum.into()), None)
                }
                (_, Ok((_, judged))) => (None, judged.filter(|_| is_whole)),
            };
            if fault.is_some() && checksum.is_some() {
                file.set_len(from)?;
            }
            let bytes = file.metadata()?.len();
            let is_synced = judged.is_none() || stored_at != Some(bytes);
            if is_synced {
                file.sync_all().map_err(UploadError::Unsynced)?;
            }
            drop(lock);
            Ok(Settled {
                bytes,
                fault,
                is_synced,
                judged,
            })
        })
        .await
    }
}
