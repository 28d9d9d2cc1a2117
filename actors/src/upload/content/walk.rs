//! Walks over binary formats that are made of lengths and parts: small pieces are gathered and judged, the rest is
//! skipped without a look at it.

use super::{
    fault::{ContentFault, Detail},
    kind::Kind,
    text,
};

/// Bytes of a piece at most.
pub(super) const PIECE_MAX: usize = 64;

/// What a format wants after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Skip so many bytes, then gather a piece of 1 to [`PIECE_MAX`] bytes.
    Piece { skip: u64, len: usize },
    /// Skip so many bytes, then all to the next 0xff with it, then gather the byte after it.
    Marker { skip: u64 },
    /// Nothing: what follows does not matter.
    Done,
}

/// A format.
pub(super) trait Format {
    const KIND: Kind;

    /// The first piece.
    const FIRST: usize;

    /// Judges the piece that starts at a place.
    fn step(&mut self, at: u64, piece: &[u8]) -> Result<Next, ContentFault>;

    /// Whether the file may end here, before a piece.
    fn may_end(&self) -> bool {
        false
    }

    /// Says what the walk found. It came to its end.
    fn finish(&self, length: u64) -> Result<Detail, ContentFault>;

    /// A fault.
    fn damaged<T>(at: u64, problem: &'static str) -> Result<T, ContentFault> {
        Err(ContentFault::Damaged {
            kind: Self::KIND,
            offset: at,
            problem,
        })
    }
}

/// A walk over a file on its way in.
#[derive(Debug)]
pub(super) struct Walk<F> {
    format: F,
    /// The place of the next byte.
    at: u64,
    skip: u64,
    to_marker: bool,
    /// The length of the piece, or 0 once the walk has come to its end.
    len: usize,
    piece: [u8; PIECE_MAX],
    gathered: usize,
}

impl<F: Format> Walk<F> {
    pub(super) fn new(format: F) -> Self {
        Self {
            format,
            at: 0,
            skip: 0,
            to_marker: false,
            len: F::FIRST,
            piece: [0; PIECE_MAX],
            gathered: 0,
        }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), ContentFault> {
        while self.len > 0 && !bytes.is_empty() {
            let (passed, wanted) = self.advance(bytes);
            if wanted {
                self.piece[self.gathered..self.gathered + passed].copy_from_slice(&bytes[..passed]);
                self.gathered += passed;
            }
            self.at += passed as u64;
            bytes = &bytes[passed..];
            if self.gathered == self.len {
                self.judge()?;
            }
        }
        Ok(())
    }

    /// How many of the bytes to take now, and whether they belong to the piece.
    fn advance(&mut self, bytes: &[u8]) -> (usize, bool) {
        if self.skip > 0 {
            let passed = bytes
                .len()
                .min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.skip -= passed as u64;
            return (passed, false);
        }
        if self.to_marker {
            let Some(marker) = text::find(bytes, |byte| byte == 0xff) else {
                return (bytes.len(), false);
            };
            self.to_marker = false;
            return (marker + 1, false);
        }
        (bytes.len().min(self.len - self.gathered), true)
    }

    fn judge(&mut self) -> Result<(), ContentFault> {
        let start = self.at - self.len as u64;
        let next = self.format.step(start, &self.piece[..self.len])?;
        self.gathered = 0;
        (self.skip, self.to_marker, self.len) = match next {
            Next::Piece { skip, len } => (skip, false, len.clamp(1, PIECE_MAX)),
            Next::Marker { skip } => (skip, true, 1),
            Next::Done => (0, false, 0),
        };
        Ok(())
    }

    pub(super) fn finish(self, length: u64) -> Result<Detail, ContentFault> {
        let is_between = self.skip == 0 && self.gathered == 0;
        if self.len > 0 && !(is_between && self.format.may_end()) {
            return F::damaged(length, "the file is cut short");
        }
        self.format.finish(length)
    }
}

/// Bytes of a piece as an array. The formats ask for pieces that are long enough; a short one gives zeros.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    if let Some(found) = bytes.get(at..at + N) {
        array.copy_from_slice(found);
    }
    array
}

pub(super) fn u16_le(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(super) fn u16_be(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

pub(super) fn u32_le(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(super) fn u32_be(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

pub(super) fn u64_le(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}
