//! The files that are sent: PDFs of random bytes. All share one buffer, but for a number in their first line.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::NamedTempFile;

use crate::Result;

/// A file of memory: what is sent from it is not copied by this program.
const MEMORY: &str = "/dev/shm";

/// The end that Headroom expects of a PDF.
const END: &[u8] = b"\nstartxref\n0\n%%EOF\n";

/// The size of files in warm-ups, in bytes.
pub(super) const SMALLEST: u64 = 4 << 10;

/// What all files have in common.
pub(super) struct Shared {
    bytes: Vec<u8>,
    file: NamedTempFile,
    next: AtomicU64,
}

/// The parts of one file.
pub(super) struct Parts<'a> {
    /// The first line, which no other file has.
    pub(super) start: String,
    /// Shared bytes.
    pub(super) middle: &'a [u8],
    pub(super) end: &'static [u8],
}

impl Shared {
    /// For files of at most `size` bytes.
    pub(super) fn new(size: u64) -> Result<Self> {
        let mut bytes = Vec::with_capacity(usize::try_from(size)?);
        File::open("/dev/urandom")?
            .take(size)
            .read_to_end(&mut bytes)?;
        let mut file = NamedTempFile::new_in(MEMORY)?;
        file.write_all(&bytes)?;
        Ok(Self {
            bytes,
            file,
            next: AtomicU64::default(),
        })
    }

    /// The next file, of `size` bytes.
    pub(super) fn next(&self, size: u64) -> Result<Parts<'_>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let start = format!("%PDF-1.7\n%{number:020}\n");
        let middle = usize::try_from(size)? - start.len() - END.len();
        let middle = self.bytes.get(..middle).ok_or("the file is too large")?;
        Ok(Parts {
            start,
            middle,
            end: END,
        })
    }

    /// The shared bytes as a file, with a position of its own.
    pub(super) fn open(&self) -> Result<File> {
        Ok(self.file.reopen()?)
    }
}
