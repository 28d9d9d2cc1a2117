//! GIF: a screen, then extensions and frames of blocks of at most 255 bytes, then a trailer.

use super::{
    super::{
        fault::{ContentFault, Detail},
        kind::Kind,
        walk::{Format, Next, u16_le},
    },
    Size,
};

#[derive(Clone, Copy, Debug)]
enum State {
    Screen,
    /// The byte that says what follows.
    Introducer,
    Frame,
    /// The length of a block of data, 0 for the last.
    Block,
}

/// A GIF image on its way in.
#[derive(Debug)]
pub(crate) struct Gif {
    state: State,
    pixels_max: u64,
    size: Size,
    has_frame: bool,
}

impl Gif {
    pub(crate) fn new(pixels_max: u64) -> Self {
        Self {
            state: State::Screen,
            pixels_max,
            size: Size::default(),
            has_frame: false,
        }
    }

    /// The size of a screen or frame.
    fn size(&self, at: u64, bytes: &[u8]) -> Result<Size, ContentFault> {
        let (width, height) = (u32::from(u16_le(bytes, 0)), u32::from(u16_le(bytes, 2)));
        match Size::new(width, height, self.pixels_max)? {
            Some(size) => Ok(size),
            None => Self::damaged(at, "the image has no pixels"),
        }
    }
}

/// Bytes of the colour table that flags announce.
fn table(flags: u8) -> u64 {
    if flags & 0x80 == 0 {
        0
    } else {
        3 << ((flags & 7) + 1)
    }
}

impl Format for Gif {
    const KIND: Kind = Kind::Gif;
    const FIRST: usize = 13;

    fn step(&mut self, at: u64, piece: &[u8]) -> Result<Next, ContentFault> {
        let (state, skip, len) = match (self.state, piece[0]) {
            (State::Screen, _) => {
                if !matches!(&piece[..6], b"GIF87a" | b"GIF89a") {
                    return Self::damaged(at, "the version should be 87a or 89a");
                }
                self.size = self.size(6, &piece[6..])?;
                (State::Introducer, table(piece[10]), 1)
            }
            (State::Introducer, b';') if self.has_frame => return Ok(Next::Done),
            (State::Introducer, b';') => return Self::damaged(at, "the image has no frame"),
            (State::Introducer, b',') => (State::Frame, 0, 9),
            // An extension: its label, then blocks.
            (State::Introducer, b'!') => (State::Block, 1, 1),
            (State::Introducer, _) => {
                return Self::damaged(at, "a frame or extension should stand here");
            }
            (State::Frame, _) => {
                // A frame may be larger than the screen, and decoders allocate it.
                self.size(at + 4, &piece[4..])?;
                self.has_frame = true;
                (State::Block, table(piece[8]) + 1, 1)
            }
            (State::Block, 0) => (State::Introducer, 0, 1),
            (State::Block, block) => (State::Block, u64::from(block), 1),
        };
        self.state = state;
        Ok(Next::Piece { skip, len })
    }

    /// Some programs forget the trailer, and viewers do not miss it.
    fn may_end(&self) -> bool {
        self.has_frame && matches!(self.state, State::Introducer)
    }

    fn finish(&self, _: u64) -> Result<Detail, ContentFault> {
        Ok(self.size.detail())
    }
}
