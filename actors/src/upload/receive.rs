//! A file that arrives.
//!
//! Bytes are collected to pieces. A blocking thread takes each piece, checks and hashes it and writes it to the file,
//! while the next one is collected. So a slow client holds no thread, and a fast one holds two pieces. Whoever
//! calls [`Incoming::write`] waits while both are full: that holds the client back.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::task::{JoinHandle, spawn_blocking};

use super::content::{Check, Facts, FileName, Kind, Limits};
use super::error::UploadError;
use super::scan::Scan;
use super::store::{ContentHash, Store, TempFile};
use crate::kernel::pressure::{Level, PressureReader};
use crate::kernel::{BufferReservation, Buffers};

/// The bytes of a piece.
const PIECE_BYTES: usize = 512 * 1024;
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
    pub(super) disk_free_min: u64,
    pub(super) scan: Option<Scan>,
    /// The bytes that have arrived.
    pub(super) received: Arc<AtomicU64>,
}

/// A file that arrives. If it is dropped, nothing of it is left.
pub struct Incoming {
    name: FileName,
    kind: Kind,
    bytes_max: u64,
    shared: Shared,
    collected: BytesMut,
    received: u64,
    /// Shared with the piece that is being written, which may outlive the upload.
    memory: Option<Arc<BufferReservation>>,
    writer: Writer,
}

enum Writer {
    Idle(Box<Progress>),
    Busy(JoinHandle<Result<Box<Progress>, UploadError>>),
    /// It has failed.
    Ended,
}

/// The file and what is known of the bytes in it.
struct Progress {
    temp: TempFile,
    blake3: blake3::Hasher,
    sha256: Sha256,
    check: Check,
    bytes: u64,
}

/// A file that has arrived and is on the disk, but not stored yet.
pub struct Received {
    pub(super) name: FileName,
    pub(super) kind: Kind,
    pub(super) temp: TempFile,
    pub(super) blake3: ContentHash,
    pub(super) sha256: [u8; 32],
    pub(super) bytes: u64,
    pub(super) facts: Facts,
    pub(super) scanned: bool,
}

impl Incoming {
    /// Begins a file of at most `bytes_max` bytes.
    pub(super) async fn begin(
        shared: Shared,
        name: FileName,
        kind: Kind,
        bytes_max: u64,
    ) -> Result<Self, UploadError> {
        let (store, limits) = (Arc::clone(&shared.store), shared.limits.clone());
        let begun = spawn_blocking(move || {
            let temp = store.create()?;
            Ok::<_, UploadError>(Box::new(Progress {
                temp,
                blake3: blake3::Hasher::new(),
                sha256: Sha256::new(),
                check: Check::new(kind, limits),
                bytes: 0,
            }))
        });
        let progress = begun.await.map_err(|_| UploadError::Panicked)??;
        Ok(Self {
            name,
            kind,
            bytes_max,
            shared,
            collected: BytesMut::new(),
            received: 0,
            memory: None,
            writer: Writer::Idle(progress),
        })
    }

    /// Takes bytes of the file. Waits while those before are being written.
    ///
    /// # Errors
    /// The file is refused, or cannot be written. It takes no more bytes then.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), UploadError> {
        self.received += bytes.len() as u64;
        self.shared
            .received
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.received > self.bytes_max {
            return Err(UploadError::TooLarge {
                kind: self.kind,
                max: self.bytes_max,
            });
        }
        while !bytes.is_empty() {
            let piece = self.piece_bytes();
            let room = piece.saturating_sub(self.collected.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.reserve(self.collected.len() + now.len(), piece)
                .await?;
            self.collected.extend_from_slice(now);
            bytes = later;
            if self.collected.len() >= piece {
                self.flush().await?;
            }
        }
        Ok(())
    }

    fn piece_bytes(&self) -> usize {
        match self.shared.pressure.reached() {
            Level::Normal => PIECE_BYTES,
            _ => PIECE_BYTES_SHORT,
        }
    }

    /// Reserves memory for pieces, when the first of them has more than a few bytes.
    async fn reserve(&mut self, collected: usize, piece: usize) -> Result<(), UploadError> {
        if collected <= UNRESERVED_BYTES {
            return Ok(());
        }
        let bytes = PIECES * piece as u64;
        let reserved = self.memory.as_ref().map_or(0, |memory| memory.bytes());
        if reserved < bytes {
            let mut memory = self.shared.buffers.reserve_after_reading(bytes).await?;
            memory.fill(bytes);
            self.memory = Some(Arc::new(memory));
        }
        if self.collected.capacity() < piece {
            // `BytesMut` would double its capacity.
            let mut whole = BytesMut::with_capacity(piece);
            whole.extend_from_slice(&self.collected);
            self.collected = whole;
        }
        Ok(())
    }

    /// Has what was collected written, as soon as what was before is.
    async fn flush(&mut self) -> Result<(), UploadError> {
        let mut progress = self.progress().await?;
        let piece = std::mem::take(&mut self.collected).freeze();
        let (store, floor) = (Arc::clone(&self.shared.store), self.shared.disk_free_min);
        let memory = self.memory.clone();
        self.writer = Writer::Busy(spawn_blocking(move || {
            let free = store.free_bytes()?;
            if free < floor.saturating_add(piece.len() as u64) {
                return Err(UploadError::DiskFull { free, floor });
            }
            progress.add(&piece)?;
            drop((piece, memory));
            Ok(progress)
        }));
        Ok(())
    }

    /// Waits until nothing is being written.
    async fn progress(&mut self) -> Result<Box<Progress>, UploadError> {
        match std::mem::replace(&mut self.writer, Writer::Ended) {
            Writer::Idle(progress) => Ok(progress),
            Writer::Busy(task) => task.await.map_err(|_| UploadError::Panicked)?,
            Writer::Ended => Err(UploadError::Panicked),
        }
    }

    /// Ends the file. When this returns, its bytes are on the disk.
    ///
    /// # Errors
    /// The file is refused, or cannot be written.
    pub async fn finish(mut self) -> Result<Received, UploadError> {
        let mut progress = self.progress().await?;
        let piece = std::mem::take(&mut self.collected).freeze();
        let (name, kind, scan) = (self.name, self.kind, self.shared.scan);
        let ended = spawn_blocking(move || {
            progress.add(&piece)?;
            progress.finish(name, kind)
        });
        let received = ended.await.map_err(|_| UploadError::Panicked)??;
        match scan {
            Some(scan) => scan.scan(received).await,
            None => Ok(received),
        }
    }
}

impl Progress {
    fn add(&mut self, piece: &Bytes) -> Result<(), UploadError> {
        // The check first: what it refuses costs no more than that.
        self.check.feed(piece)?;
        self.blake3.update(piece);
        self.sha256.update(piece);
        self.temp.file.write_all(piece)?;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    fn finish(self, name: FileName, kind: Kind) -> Result<Received, UploadError> {
        let facts = self.check.finish(&self.temp.file, self.bytes)?;
        self.temp.file.sync_all()?;
        Ok(Received {
            name,
            kind,
            blake3: ContentHash(*self.blake3.finalize().as_bytes()),
            sha256: self.sha256.finalize().into(),
            bytes: self.bytes,
            facts,
            scanned: false,
            temp: self.temp,
        })
    }
}
