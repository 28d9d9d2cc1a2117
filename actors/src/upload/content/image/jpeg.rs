//! JPEG: markers with segments, of which one (SOF) has the size; after each SOS comes data without a length, in which
//! the next marker has to be looked for.

use super::{
    super::{
        fault::{ContentFault, Detail},
        kind::Kind,
        walk::{Format, Next, u16_be},
    },
    Size,
};

#[derive(Clone, Copy, Debug)]
enum State {
    Start,
    /// Two bytes: 0xff and a code.
    Marker,
    /// The code after 0xff. In data, 0xff may also be a byte of it.
    Code {
        in_data: bool,
    },
    /// The length of the segment with a code.
    Length(u8),
    /// The start of the frame's header, of a segment with so many bytes after it.
    Frame {
        rest: u64,
    },
}

/// A JPEG image on its way in.
#[derive(Debug)]
pub(crate) struct Jpeg {
    state: State,
    pixels_max: u64,
    size: Option<Size>,
    has_data: bool,
}

impl Jpeg {
    pub(crate) fn new(pixels_max: u64) -> Self {
        Self {
            state: State::Start,
            pixels_max,
            size: None,
            has_data: false,
        }
    }

    fn go(&mut self, state: State, next: Next) -> Result<Next, ContentFault> {
        self.state = state;
        Ok(next)
    }

    fn code(&mut self, at: u64, code: u8, in_data: bool) -> Result<Next, ContentFault> {
        match code {
            // Fill bytes before a code.
            0xff => self.go(State::Code { in_data }, Next::Piece { skip: 0, len: 1 }),
            0x00 | 0xd0..=0xd7 if in_data => {
                self.go(State::Code { in_data }, Next::Marker { skip: 0 })
            }
            0x01 => self.go(State::Marker, Next::Piece { skip: 0, len: 2 }),
            0xd9 if self.has_data => Ok(Next::Done),
            0xd9 => Self::damaged(at, "the image ends before its data"),
            0x00 | 0x02..=0xbf | 0xd0..=0xd8 => Self::damaged(at, "there is no such marker"),
            _ => self.go(State::Length(code), Next::Piece { skip: 0, len: 2 }),
        }
    }

    fn segment(&mut self, at: u64, code: u8, len: u64) -> Result<Next, ContentFault> {
        // The length counts itself.
        let Some(skip) = len.checked_sub(2) else {
            return Self::damaged(at, "a segment is shorter than its length");
        };
        match code {
            // Start of frame. The exceptions are tables and an extension with codes among these.
            0xc0..=0xcf if !matches!(code, 0xc4 | 0xc8 | 0xcc) => match skip.checked_sub(6) {
                Some(rest) => self.go(State::Frame { rest }, Next::Piece { skip: 0, len: 6 }),
                None => Self::damaged(at, "the header of the frame is too short"),
            },
            0xda if self.size.is_none() => Self::damaged(at, "the data comes before the header"),
            0xda => {
                self.has_data = true;
                self.go(State::Code { in_data: true }, Next::Marker { skip })
            }
            _ => self.go(State::Marker, Next::Piece { skip, len: 2 }),
        }
    }
}

impl Format for Jpeg {
    const KIND: Kind = Kind::Jpeg;
    const FIRST: usize = 2;

    fn step(&mut self, at: u64, piece: &[u8]) -> Result<Next, ContentFault> {
        match self.state {
            State::Start if piece == [0xff, 0xd8] => {
                self.go(State::Marker, Next::Piece { skip: 0, len: 2 })
            }
            State::Marker if piece[0] == 0xff => self.code(at + 1, piece[1], false),
            State::Start | State::Marker => Self::damaged(at, "a marker should stand here"),
            State::Code { in_data } => self.code(at, piece[0], in_data),
            State::Length(code) => self.segment(at, code, u64::from(u16_be(piece, 0))),
            State::Frame { rest } => {
                let (height, width) = (u32::from(u16_be(piece, 1)), u32::from(u16_be(piece, 3)));
                // A height of 0 says that it follows the data: hardly any decoder takes it.
                let Some(size) = Size::new(width, height, self.pixels_max)? else {
                    return Self::damaged(at, "the image has no pixels");
                };
                if piece[5] == 0 {
                    return Self::damaged(at, "the image has no components");
                }
                self.size.get_or_insert(size);
                self.go(State::Marker, Next::Piece { skip: rest, len: 2 })
            }
        }
    }

    fn finish(&self, _: u64) -> Result<Detail, ContentFault> {
        Ok(self.size.unwrap_or_default().detail())
    }
}
