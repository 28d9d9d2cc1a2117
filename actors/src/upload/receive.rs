//! A file that arrives: it is checked, hashed and written piece by piece.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use ring::digest::{Context, SHA256};

use super::blocking::blocking;
use super::content::{Check, Facts, FileName, Kind};
use super::error::UploadError;
use super::pieces::{Pieces, Shared, Sink};
use super::scan::Following;
use super::scanner::Scanner;
use super::store::{ContentHash, Store, TempFile};
use crate::kernel::Handle;

/// The kernel begins to write so many bytes to the disk when they have arrived, not when all have: the sync at the end then
/// waits for few, and memory holds fewer that it cannot give back. As many before those are mostly on the disk by then, and
/// leave the page cache. Not in smaller steps: each asks all processors for the pages that they have just filled.
const WRITE_OUT_BYTES: u64 = 8 * 1024 * 1024;
/// A file of which so much has arrived is scanned while the rest arrives.
const FOLLOW_BYTES: u64 = 512 * 1024;

/// A file that arrives. If it is dropped, nothing of it is left.
pub struct Incoming {
    kind: Kind,
    bytes_max: u64,
    received: u64,
    pieces: Pieces<Progress>,
}

/// The file and what is known of the bytes in it.
pub(super) struct Progress {
    name: FileName,
    kind: Kind,
    store: Arc<Store>,
    /// Made when its first bytes are written, by the thread that writes them.
    temp: Option<TempFile>,
    /// Whether the bytes are in the file already.
    is_written: bool,
    blake3: blake3::Hasher,
    sha256: Context,
    check: Check,
    bytes: u64,
    write_out: WriteOut,
    scanner: Option<Handle<Scanner>>,
    following: Option<Following>,
}

/// How much of a file that arrives is on its way to the disk.
pub(super) struct WriteOut {
    /// The bytes of the file.
    bytes: u64,
    /// Of those, how many the kernel has begun to write to the disk.
    begun: u64,
    leaves_cache: bool,
}

/// A file that has arrived, but is not stored yet.
pub struct Received {
    pub(super) name: FileName,
    pub(super) kind: Kind,
    pub(super) temp: TempFile,
    pub(super) blake3: ContentHash,
    pub(super) sha256: [u8; 32],
    pub(super) bytes: u64,
    pub(super) facts: Facts,
    pub(super) scanned: bool,
    /// The scan, if it has begun already.
    pub(super) following: Option<Following>,
}

impl Incoming {
    /// Begins a file of at most `bytes_max` bytes.
    pub(super) fn begin(shared: Shared, name: FileName, kind: Kind, bytes_max: u64) -> Self {
        Self::of(shared, name, kind, bytes_max, None)
    }

    /// Begins a file whose bytes are in `temp` already. They come again, to be checked.
    pub(super) fn read_back(
        shared: Shared,
        name: FileName,
        kind: Kind,
        bytes_max: u64,
        temp: TempFile,
    ) -> Self {
        // Nothing is written, so the disk needs no room.
        let shared = Shared {
            disk_free_min: None,
            received: Arc::default(),
            ..shared
        };
        Self::of(shared, name, kind, bytes_max, Some(temp))
    }

    fn of(
        shared: Shared,
        name: FileName,
        kind: Kind,
        bytes_max: u64,
        written: Option<TempFile>,
    ) -> Self {
        let progress = Box::new(Progress::new(&shared, name, kind, written));
        Self {
            kind,
            bytes_max,
            received: 0,
            pieces: Pieces::new(shared, progress),
        }
    }

    /// Takes bytes of the file. Waits while those before are being written.
    ///
    /// # Errors
    /// The file is refused, or cannot be written. It takes no more bytes then.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        self.count(bytes.len())?;
        self.pieces.write(bytes).await
    }

    /// Takes a whole piece of the file, of at most [`Self::piece_bytes`].
    pub(super) async fn write_piece(&mut self, piece: Bytes) -> Result<(), UploadError> {
        self.count(piece.len())?;
        self.pieces.write_piece(piece).await
    }

    pub(super) fn piece_bytes(&self) -> usize {
        self.pieces.piece_bytes()
    }

    fn count(&mut self, bytes: usize) -> Result<(), UploadError> {
        self.received += bytes as u64;
        if self.received > self.bytes_max {
            return Err(UploadError::TooLarge {
                kind: self.kind,
                max: self.bytes_max,
            });
        }
        Ok(())
    }

    /// Ends the file. Its bytes need not be on the disk yet.
    ///
    /// # Errors
    /// The file is refused, or cannot be written.
    pub async fn finish(self) -> Result<Received, UploadError> {
        let shared = self.pieces.shared().clone();
        let received = self.pieces.finish(|progress| progress.finish()).await?;
        scanned(received, &shared).await
    }
}

impl Sink for Progress {
    fn add(&mut self, piece: &Bytes) -> Result<(), UploadError> {
        // The check first: what it refuses costs no more than that.
        self.check.feed(piece)?;
        self.blake3.update(piece);
        self.sha256.update(piece);
        if !self.is_written {
            let temp = match &mut self.temp {
                Some(temp) => temp,
                none => none.insert(self.store.create()?),
            };
            temp.file.write_all(piece)?;
            self.write_out.add(&temp.file, piece.len());
        }
        self.bytes += piece.len() as u64;
        self.follow();
        Ok(())
    }
}

impl WriteOut {
    /// The file has so many bytes, and they are on the disk. With `leaves_cache`, what comes leaves the page cache once it is
    /// written: a large file then needs little of it, and takes none from others.
    pub(super) fn after(bytes: u64, leaves_cache: bool) -> Self {
        Self {
            bytes,
            begun: bytes,
            leaves_cache,
        }
    }

    /// The file has so many bytes more. If many are new, the kernel begins to write them to the disk; only a sync says whether it
    /// has.
    pub(super) fn add(&mut self, file: &File, bytes: usize) {
        self.bytes += bytes as u64;
        if self.bytes - self.begun < WRITE_OUT_BYTES {
            return;
        }
        let from = match self.leaves_cache {
            true => self.begun.saturating_sub(WRITE_OUT_BYTES),
            false => self.begun,
        };
        // On Linux, this advice begins to write what is not on the disk, and has what is there leave the page cache.
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        posix_fadvise(file, offset(from), offset(self.bytes - from), advice).ok();
        self.begun = self.bytes;
    }
}

/// Has a file scanned that has arrived, if there is a scanner.
async fn scanned(received: Received, shared: &Shared) -> Result<Received, UploadError> {
    match &shared.scan {
        Some(scan) => scan.scan(received, shared).await,
        None => Ok(received),
    }
}

impl Progress {
    /// Nothing is known of the file yet. With `written`, its bytes are in that file before they come here.
    pub(super) fn new(
        shared: &Shared,
        name: FileName,
        kind: Kind,
        written: Option<TempFile>,
    ) -> Self {
        Self {
            name,
            kind,
            store: Arc::clone(&shared.store),
            is_written: written.is_some(),
            temp: written,
            blake3: blake3::Hasher::new(),
            sha256: Context::new(&SHA256),
            check: Check::new(kind, shared.limits.clone()),
            bytes: 0,
            write_out: WriteOut::after(0, !shared.is_read_again(kind)),
            scanner: shared.scan.as_ref().map(|scan| scan.scanner.clone()),
            following: None,
        }
    }

    /// Ends a file that has arrived. Its bytes need not be on the disk yet.
    pub(super) async fn receive(self: Box<Self>, shared: &Shared) -> Result<Received, UploadError> {
        let received = blocking(|| self.finish()).await?;
        scanned(received, shared).await
    }

    /// Has what has arrived scanned, if that is much. If it cannot begin, the file is scanned at its end.
    fn follow(&mut self) {
        let (Some(scanner), Some(temp)) = (&self.scanner, &self.temp) else {
            return;
        };
        if self.following.is_none() && self.bytes >= FOLLOW_BYTES {
            self.following = Following::begin(scanner, &temp.file).ok();
        }
        if let Some(following) = &self.following {
            following.arrived(self.bytes);
        }
    }

    fn finish(self) -> Result<Received, UploadError> {
        let temp = match self.temp {
            Some(temp) => temp,
            // It has no bytes.
            None => self.store.create()?,
        };
        let facts = self.check.finish(&temp.file, self.bytes)?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.sha256.finish().as_ref());
        Ok(Received {
            name: self.name,
            kind: self.kind,
            blake3: ContentHash(*self.blake3.finalize().as_bytes()),
            sha256,
            bytes: self.bytes,
            facts,
            scanned: false,
            following: self.following,
            temp,
        })
    }
}

fn offset(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
