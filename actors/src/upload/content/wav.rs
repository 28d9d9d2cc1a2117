//! WAVE: a RIFF file with the chunks `fmt ` and, after it, `data`. Others may stand between and around.

use super::{
    fault::{ContentFault, Detail},
    kind::Kind,
    walk::{Format, Next, u16_le, u32_le},
};

/// Programs that write to a pipe cannot go back to fill in the length. They leave 0, the largest number, or one near
/// half of it.
const UNKNOWN_MIN: u32 = 0x7fff_0000;

#[derive(Clone, Copy, Debug)]
enum State {
    Start,
    Chunk,
    /// The format, in a chunk with so many bytes after it.
    Format {
        rest: u64,
    },
}

/// A recording on its way in.
#[derive(Debug)]
pub(super) struct Wav {
    state: State,
    format: Option<(u16, u32)>,
    /// The end of the samples, if their length is known.
    end: u64,
}

impl Wav {
    pub(super) fn new() -> Self {
        Self {
            state: State::Start,
            format: None,
            end: 0,
        }
    }

    fn chunk(&mut self, at: u64, name: &[u8], len: u32) -> Result<Next, ContentFault> {
        // Chunks start at even places.
        let skip = u64::from(len) + u64::from(len & 1);
        match name {
            b"fmt " => match skip.checked_sub(16) {
                Some(rest) => {
                    self.state = State::Format { rest };
                    return Ok(Next::Piece { skip: 0, len: 16 });
                }
                None => return Self::damaged(at, "the fmt chunk is too short"),
            },
            b"data" if self.format.is_none() => {
                return Self::damaged(at, "the samples come before their format");
            }
            b"data" => {
                if len < UNKNOWN_MIN {
                    self.end = at + 8 + u64::from(len);
                }
                return Ok(Next::Done);
            }
            _ => {}
        }
        Ok(Next::Piece { skip, len: 8 })
    }

    fn format(&mut self, at: u64, bytes: &[u8]) -> Result<(), ContentFault> {
        let (tag, channels, sample_rate) = (u16_le(bytes, 0), u16_le(bytes, 2), u32_le(bytes, 4));
        let (frame_bytes, bits) = (u16_le(bytes, 12), u16_le(bytes, 14));
        if tag == 0 {
            return Self::damaged(at, "there is no such sample format");
        }
        if channels == 0 || channels > 256 {
            return Self::damaged(at + 2, "the number of channels is not plausible");
        }
        if sample_rate == 0 || sample_rate > 10_000_000 {
            return Self::damaged(at + 4, "the sample rate is not plausible");
        }
        // Of PCM and floating point: whole samples. Others pack theirs in blocks of their own.
        let plain = matches!(tag, 1 | 3);
        if plain && u32::from(frame_bytes) != u32::from(channels) * u32::from(bits.div_ceil(8)) {
            return Self::damaged(at + 12, "the size of a sample does not fit its bits");
        }
        if frame_bytes == 0 || (plain && !(1..=64).contains(&bits)) {
            return Self::damaged(at + 12, "the size of a sample is not plausible");
        }
        self.format = Some((channels, sample_rate));
        Ok(())
    }
}

impl Format for Wav {
    const KIND: Kind = Kind::Wav;
    const FIRST: usize = 12;

    fn step(&mut self, at: u64, piece: &[u8]) -> Result<Next, ContentFault> {
        let skip = match self.state {
            State::Start => 0,
            State::Chunk => return self.chunk(at, &piece[..4], u32_le(piece, 4)),
            State::Format { rest } => {
                self.format(at, piece)?;
                rest
            }
        };
        self.state = State::Chunk;
        Ok(Next::Piece { skip, len: 8 })
    }

    fn finish(&self, length: u64) -> Result<Detail, ContentFault> {
        if self.end > length {
            return Self::damaged(length, "the file is cut short");
        }
        let (channels, sample_rate) = self.format.unwrap_or_default();
        Ok(Detail::Audio {
            channels,
            sample_rate,
        })
    }
}
