//! WebP: a RIFF file whose first chunk is lossy (`VP8 `), lossless (`VP8L`), or a header for more chunks (`VP8X`).

use super::{
    super::{
        fault::{ContentFault, Detail},
        kind::Kind,
        walk::{Format, Next, u16_le, u32_le},
    },
    Size,
};

#[derive(Clone, Copy, Debug)]
enum State {
    Start,
    Lossy,
    Lossless,
    Extended,
}

/// A WebP image on its way in.
#[derive(Debug)]
pub(crate) struct WebP {
    state: State,
    pixels_max: u64,
    size: Size,
    /// Bytes of the file as it declares.
    declared: u64,
}

impl WebP {
    pub(crate) fn new(pixels_max: u64) -> Self {
        Self {
            state: State::Start,
            pixels_max,
            size: Size::default(),
            declared: 0,
        }
    }
}

/// The start of the first chunk's data.
const DATA: u64 = 20;

impl Format for WebP {
    const KIND: Kind = Kind::WebP;
    const FIRST: usize = DATA as usize;

    fn step(&mut self, at: u64, piece: &[u8]) -> Result<Next, ContentFault> {
        let (width, height) = match self.state {
            State::Start => {
                self.declared = u64::from(u32_le(piece, 4)) + 8;
                let (state, len, least) = match &piece[12..16] {
                    b"VP8 " => (State::Lossy, 10, 10),
                    b"VP8L" => (State::Lossless, 5, 5),
                    b"VP8X" => (State::Extended, 10, 10),
                    _ => return Self::damaged(12, "the first chunk is no image"),
                };
                let chunk = u64::from(u32_le(piece, 16));
                if chunk < least || DATA + chunk > self.declared {
                    return Self::damaged(16, "the first chunk has a wrong length");
                }
                self.state = state;
                return Ok(Next::Piece { skip: 0, len });
            }
            State::Lossy => {
                let key_frame = piece[0] & 1 == 0;
                if !key_frame || piece[3..6] != *b"\x9d\x01\x2a" {
                    return Self::damaged(at, "a key frame should stand here");
                }
                // Two bits of each are a scale for showing.
                let side = |at| u32::from(u16_le(piece, at) & 0x3fff);
                (side(6), side(8))
            }
            State::Lossless => {
                let bits = u32_le(piece, 1);
                if piece[0] != 0x2f || bits >> 29 != 0 {
                    return Self::damaged(at, "a lossless image should stand here");
                }
                ((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1)
            }
            State::Extended => {
                let side = |at| (u32_le(piece, at) & 0xff_ffff) + 1;
                // The last one is of three bytes, with none after it.
                (side(4), (u32_le(piece, 6) >> 8) + 1)
            }
        };
        match Size::new(width, height, self.pixels_max)? {
            Some(size) => self.size = size,
            None => return Self::damaged(at, "the image has no pixels"),
        }
        Ok(Next::Done)
    }

    fn finish(&self, length: u64) -> Result<Detail, ContentFault> {
        if self.declared > length {
            return Self::damaged(length, "the file is cut short");
        }
        Ok(self.size.detail())
    }
}
