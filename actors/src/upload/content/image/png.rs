//! PNG: a signature, then chunks of a length, a type, data and a checksum; `IHDR` first and `IEND` last.

use super::{
    super::{
        fault::{ContentFault, Detail},
        kind::Kind,
        walk::{Format, Next, u32_be},
    },
    Size,
};

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

#[derive(Debug)]
enum State {
    Header,
    Chunk,
    /// The checksum of `IEND`.
    End,
}

/// A PNG image on its way in.
#[derive(Debug)]
pub(crate) struct Png {
    state: State,
    pixels_max: u64,
    size: Size,
    has_data: bool,
}

impl Png {
    pub(crate) fn new(pixels_max: u64) -> Self {
        Self {
            state: State::Header,
            pixels_max,
            size: Size::default(),
            has_data: false,
        }
    }

    fn header(&mut self, header: &[u8]) -> Result<(), ContentFault> {
        if !header.starts_with(SIGNATURE) || header[8..16] != *b"\0\0\0\x0dIHDR" {
            return Self::damaged(8, "an IHDR chunk should stand here");
        }
        if crc(&header[12..29]) != u32_be(header, 29) {
            return Self::damaged(29, "the checksum of the IHDR chunk is wrong");
        }
        let [depth, colour, compression, filter, interlace] =
            [24, 25, 26, 27, 28].map(|at| header[at]);
        let depth_fits = match colour {
            0 => matches!(depth, 1 | 2 | 4 | 8 | 16),
            3 => matches!(depth, 1 | 2 | 4 | 8),
            2 | 4 | 6 => matches!(depth, 8 | 16),
            _ => false,
        };
        if !depth_fits {
            return Self::damaged(24, "there is no such bit depth and colour type");
        }
        if compression != 0 || filter != 0 || interlace > 1 {
            return Self::damaged(
                26,
                "there is no such compression, filter or interlace method",
            );
        }
        let (width, height) = (u32_be(header, 16), u32_be(header, 20));
        match Size::new(width, height, self.pixels_max)? {
            Some(size) => self.size = size,
            None => return Self::damaged(16, "the image has no pixels"),
        }
        Ok(())
    }
}

impl Format for Png {
    const KIND: Kind = Kind::Png;
    const FIRST: usize = 33;

    fn step(&mut self, at: u64, piece: &[u8]) -> Result<Next, ContentFault> {
        match self.state {
            State::Header => self.header(piece)?,
            State::Chunk => {
                let (len, name) = (u32_be(piece, 0), &piece[4..8]);
                if len > i32::MAX as u32 || !name.iter().all(u8::is_ascii_alphabetic) {
                    return Self::damaged(at, "a chunk should stand here");
                }
                match name {
                    b"IHDR" => return Self::damaged(at, "there is a second IHDR chunk"),
                    b"IDAT" => self.has_data = true,
                    b"IEND" if !self.has_data => {
                        return Self::damaged(at, "the image ends before its data");
                    }
                    b"IEND" if len == 0 => {
                        self.state = State::End;
                        return Ok(Next::Piece { skip: 0, len: 4 });
                    }
                    b"IEND" => return Self::damaged(at, "the IEND chunk has data"),
                    _ => {}
                }
                // The checksum too. Those of data cost time for each byte, and decoders check them.
                let skip = u64::from(len) + 4;
                return Ok(Next::Piece { skip, len: 8 });
            }
            State::End => return Ok(Next::Done),
        }
        self.state = State::Chunk;
        Ok(Next::Piece { skip: 0, len: 8 })
    }

    fn finish(&self, _: u64) -> Result<Detail, ContentFault> {
        Ok(self.size.detail())
    }
}

/// CRC-32 bit by bit: only headers of 17 bytes are summed.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc = crc >> 1 ^ (0xedb8_8320 & low.wrapping_neg());
        }
    }
    !crc
}
