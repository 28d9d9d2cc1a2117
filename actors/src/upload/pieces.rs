//! Bytes that arrive, collected to pieces.
//!
//! A blocking thread takes each piece while the next one is collected. So a slow client holds no thread, and a fast
//! one holds two pieces. Whoever calls [`Pieces::write`] waits while both are full: that holds the client back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::task::{JoinHandle, spawn_blocking};

use super::blocking::drop_apart;
use super::caller::Caller;
use super::content::{Kind, Limits};
use super::error::UploadError;
use super::scan::Scan;
use super::store::Store;
use crate::kernel::pressure::{Level, PressureReader};
use crate::kernel::{BufferReservation, Buffers};

/// The bytes of a piece.
pub(super) const PIECE_BYTES: usize = 512 * 1024;
/// The bytes of a piece while memory is short.
const PIECE_BYTES_SHORT: usize = 64 * 1024;
/// The pieces that one upload holds: one is collected, one is written.
const PIECES: u64 = 2;
/// The most memory of one upload.
pub(super) const UPLOAD_BYTES: u64 = PIECES * PIECE_BYTES as u64;
/// A file that has sent no more than this has no reserved memory.
const UNRESERVED_BYTES: usize = 16 * 1024;

/// What all files of one upload use.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) buffers: Arc<dyn Buffers>,
    pub(super) pressure: PressureReader,
    pub(super) limits: Limits,
    /// What the disk must have free for whoever writes to it.
    pub(super) disk_free_min: Option<u64>,
    pub(super) scan: Option<Scan>,
    pub(super) caller: Caller,
    /// The bytes that have arrived.
    pub(super) received: Arc<AtomicU64>,
}

impl Shared {
    /// Whether somebody reads files before they are stored: the scanner, or who sends them to the bucket.
    pub(super) fn has_readers(&self) -> bool {
        self.scan.is_some() || self.store.bucket.is_some()
    }

    /// Whether all parts of a file of this kind are read again soon after they have arrived.
    pub(super) fn is_read_again(&self, kind: Kind) -> bool {
        self.has_readers() || kind.is_archive()
    }
}

/// What takes the pieces. It may block.
pub(super) trait Sink: Send + 'static {
    fn add(&mut self, piece: &Bytes) -> Result<(), UploadError>;
}

/// Bytes on their way to a sink.
pub(super) struct Pieces<S: Sink> {
    shared: Shared,
    collected: BytesMut,
    /// Shared with the piece that is being written, which may outlive the upload.
    memory: Option<Arc<BufferReservation>>,
    writer: Writer<S>,
}

/// The disk, of which uploads leave some bytes free.
struct Disk {
    store: Arc<Store>,
    floor: Option<u64>,
}

impl Disk {
    /// Whether it may take so many bytes. May block.
    fn check(&self, bytes: usize) -> Result<(), UploadError> {
        let Some(floor) = self.floor else {
            return Ok(());
        };
        let free = self.store.free_bytes()?;
        match free < floor.saturating_add(bytes as u64) {
            true => Err(UploadError::DiskFull { free, floor }),
            false => Ok(()),
        }
    }
}

enum Writer<S> {
    Idle(Box<S>),
    Busy(JoinHandle<Result<Box<S>, UploadError>>),
    /// It has failed.
    Ended,
}

impl<S: Sink> Pieces<S> {
    pub(super) fn new(shared: Shared, sink: Box<S>) -> Self {
        Self {
            shared,
            collected: BytesMut::new(),
            memory: None,
            writer: Writer::Idle(sink),
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Takes bytes. Waits while those before are being written.
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), UploadError> {
        self.count(bytes.len());
        while !bytes.is_empty() {
            let piece = self.piece_bytes();
            let room = piece.saturating_sub(self.collected.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.reserve(self.collected.len() + now.len(), piece)
                .await?;
            if self.memory.is_some() && self.collected.capacity() < piece {
                // `BytesMut` would double its capacity.
                let mut whole = BytesMut::with_capacity(piece);
                whole.extend_from_slice(&self.collected);
                self.collected = whole;
            }
            self.collected.extend_from_slice(now);
            bytes = later;
            if self.collected.len() >= piece {
                let piece = std::mem::take(&mut self.collected).freeze();
                self.flush(piece).await?;
            }
        }
        Ok(())
    }

    /// Takes a whole piece, of at most [`Self::piece_bytes`]. Nothing else may have been collected.
    pub(super) async fn write_piece(&mut self, piece: Bytes) -> Result<(), UploadError> {
        self.count(piece.len());
        self.reserve(piece.len(), self.piece_bytes()).await?;
        self.flush(piece).await
    }

    fn count(&self, bytes: usize) {
        let received = &self.shared.received;
        received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The bytes that a piece has now.
    pub(super) fn piece_bytes(&self) -> usize {
        match self.shared.pressure.reached() {
            Level::Normal => PIECE_BYTES,
            _ => PIECE_BYTES_SHORT,
        }
    }

    /// Reserves memory for pieces, when the first of them has more than a few bytes.
    async fn reserve(&mut self, collected: usize, piece: usize) -> Result<(), UploadError> {
        let bytes = PIECES * piece as u64;
        let reserved = self.memory.as_ref().map_or(0, |memory| memory.bytes());
        if collected > UNRESERVED_BYTES && reserved < bytes {
            let mut memory = self.shared.buffers.reserve_after_reading(bytes).await?;
            memory.fill(bytes);
            self.memory = Some(Arc::new(memory));
        }
        Ok(())
    }

    /// Has a piece written, as soon as what was before is.
    async fn flush(&mut self, piece: Bytes) -> Result<(), UploadError> {
        let mut sink = self.sink().await?;
        let disk = self.disk();
        let memory = self.memory.clone();
        self.writer = Writer::Busy(spawn_blocking(move || {
            disk.check(piece.len())?;
            sink.add(&piece)?;
            drop((piece, memory));
            Ok(sink)
        }));
        Ok(())
    }

    fn disk(&self) -> Disk {
        Disk {
            store: Arc::clone(&self.shared.store),
            floor: self.shared.disk_free_min,
        }
    }

    /// Waits until nothing is being written.
    async fn sink(&mut self) -> Result<Box<S>, UploadError> {
        if let Writer::Busy(task) = &mut self.writer {
            // In its place: if the caller leaves meanwhile, whoever ends the file waits for it again.
            let written = task.await;
            self.writer = Writer::Ended;
            return written.map_err(|_| UploadError::Panicked)?;
        }
        match std::mem::replace(&mut self.writer, Writer::Ended) {
            Writer::Idle(sink) => Ok(sink),
            Writer::Busy(_) | Writer::Ended => Err(UploadError::Panicked),
        }
    }

    /// Has all bytes written, and `end` called with the sink on the same thread.
    pub(super) async fn finish<T: Send + 'static>(
        mut self,
        end: impl FnOnce(Box<S>) -> Result<T, UploadError> + Send + 'static,
    ) -> Result<T, UploadError> {
        let mut sink = self.sink().await?;
        let disk = self.disk();
        let piece = std::mem::take(&mut self.collected).freeze();
        let ended = spawn_blocking(move || {
            if !piece.is_empty() {
                disk.check(piece.len())?;
                sink.add(&piece)?;
            }
            end(sink)
        });
        ended.await.map_err(|_| UploadError::Panicked)?
    }
}

impl<S: Sink> Drop for Pieces<S> {
    fn drop(&mut self) {
        if let Writer::Idle(sink) = std::mem::replace(&mut self.writer, Writer::Ended) {
            drop_apart(sink);
        }
    }
}
