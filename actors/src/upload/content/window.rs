//! Reads of a whole file at places, through one small buffer.

use std::{fs::File, os::unix::fs::FileExt};

use super::fault::ContentFault;

/// Bytes of the buffer, and of one read at most.
pub(super) const WINDOW: usize = 16 << 10;

/// A file to look into.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a File,
    length: u64,
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a File, length: u64) -> Self {
        Self {
            file,
            length,
            start: 0,
            buffer: Vec::new(),
        }
    }

    /// A window on the same file.
    pub(super) fn another(&self) -> Self {
        Self::new(self.file, self.length)
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes from a place on: so many, or `None` if the file ends before.
    pub(super) fn get(&mut self, at: u64, len: usize) -> Result<Option<&[u8]>, ContentFault> {
        let Some(end) = at.checked_add(len as u64).filter(|end| *end <= self.length) else {
            return Ok(None);
        };
        if at < self.start || end > self.start + self.buffer.len() as u64 {
            self.read(at, len)?;
        }
        let from = (at - self.start) as usize;
        Ok(self.buffer.get(from..from + len))
    }

    /// The last bytes: so many, or all. With the place where they start.
    pub(super) fn tail(&mut self, len: usize) -> Result<(u64, &[u8]), ContentFault> {
        let len = self.length.min(len as u64);
        let at = self.length - len;
        let tail = self.get(at, len as usize)?;
        Ok((at, tail.unwrap_or_default()))
    }

    fn read(&mut self, at: u64, len: usize) -> Result<(), ContentFault> {
        let ahead = (self.length - at).min(len.max(WINDOW) as u64);
        self.buffer.resize(ahead as usize, 0);
        self.start = at;
        self.file
            .read_exact_at(&mut self.buffer, at)
            .map_err(|error| {
                self.buffer.clear();
                ContentFault::Read(error)
            })
    }
}
