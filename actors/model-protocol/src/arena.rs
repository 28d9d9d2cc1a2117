//! Arenas: how tensors too large for a frame travel.
//!
//! Each host has two anonymous files (memfds) that its owner made, one per direction. Both ends use plain reads and
//! writes at offsets, not mappings: no unsafe code, and a peer that shortens the file under us causes an error, not
//! a SIGBUS. At most one inference is under way per host, so a writer simply starts again at offset 0 for each
//! frame. The reader gives the memory back while it reads ([`ArenaReader::take_exact_at`]) and when it has read
//! everything ([`ArenaReader::release`]): a tensor on its way takes its size once, not twice.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use nix::{
    fcntl::{FallocateFlags, fallocate},
    sys::memfd::{MFdFlags, memfd_create},
};

use crate::{ShapeError, TensorLocation, TensorMeta, frame::PAYLOAD_MAX};

/// Tensors above this many bytes never travel inside a frame.
pub const INLINE_MAX: usize = 64 << 10;

/// The bytes one arena may hold: 4 GiB.
pub const ARENA_MAX: u64 = 1 << 32;

/// An arena larger than this is emptied once it has been read.
pub const ARENA_KEEP: u64 = 1 << 20;

/// Bytes read from an arena before their memory is given back.
const TAKE_BYTES: usize = 4 << 20;

/// Tensors start at multiples of this in an arena, so that a copy is never split over more cache lines than needed.
const ALIGNMENT: u64 = 64;

/// Why a tensor's bytes cannot be put or got.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The operating system refused; an end of file here means that the peer lied about a length.
    #[error("the arena cannot be used")]
    Io(#[from] io::Error),
    /// More than [`ARENA_MAX`] bytes for one frame.
    #[error("the tensors of one message are larger than {ARENA_MAX} bytes together")]
    Full,
    /// The tensor's bytes are said to lie outside of the payload or arena.
    #[error("the bytes of tensor `{0}` lie outside of what was sent")]
    Outside(String),
    /// Datatype and shape ask for another number of bytes than is there.
    #[error("tensor `{name}` needs {expected} bytes, {found} are there")]
    Length {
        /// The tensor's name.
        name: String,
        /// What datatype and shape ask for.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The shape cannot be used.
    #[error("tensor `{name}` has no usable shape")]
    Shape {
        /// The tensor's name.
        name: String,
        /// What is wrong with it.
        source: ShapeError,
    },
}

/// The writing end of an arena.
#[derive(Debug)]
pub struct ArenaWriter {
    file: File,
    /// Where the next tensor of this frame goes.
    end: u64,
}

impl ArenaWriter {
    /// Makes a new anonymous file, closed on exec; `name` shows in `/proc/<pid>/maps` and `fd`.
    ///
    /// # Errors
    /// The operating system gives no file.
    pub fn create(name: &str) -> io::Result<Self> {
        let name = std::ffi::CString::new(name)?;
        Ok(Self::from_fd(memfd_create(
            name.as_c_str(),
            MFdFlags::MFD_CLOEXEC,
        )?))
    }

    /// Takes an arena that the other side made.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self {
            file: File::from(fd),
            end: 0,
        }
    }

    /// Starts the next frame: what was written before may be overwritten.
    pub fn begin(&mut self) {
        self.end = 0;
    }

    /// Writes one tensor's bytes behind those already written for this frame.
    ///
    /// # Errors
    /// A full arena, or no memory for it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<TensorLocation, ArenaError> {
        let offset = self.end.next_multiple_of(ALIGNMENT);
        let len = bytes.len() as u64;
        let end = offset
            .checked_add(len)
            .filter(|&end| end <= ARENA_MAX)
            .ok_or(ArenaError::Full)?;
        self.file.write_all_at(bytes, offset)?;
        self.end = end;
        Ok(TensorLocation::Arena { offset, len })
    }
}

impl AsFd for ArenaWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The reading end of an arena.
#[derive(Debug)]
pub struct ArenaReader {
    file: File,
}

impl ArenaReader {
    /// Makes a new anonymous file for the other side to write, see [`ArenaWriter::create`].
    ///
    /// # Errors
    /// The operating system gives no file.
    pub fn create(name: &str) -> io::Result<Self> {
        Ok(Self {
            file: ArenaWriter::create(name)?.file,
        })
    }

    /// Takes an arena that the other side made.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self {
            file: File::from(fd),
        }
    }

    /// Moves exactly `buffer.len()` bytes at `offset` out of the arena. Of a tensor larger than [`ARENA_KEEP`] the
    /// memory is given back piece by piece; what is read of it a second time is zeros.
    ///
    /// # Errors
    /// Fewer bytes are there.
    pub fn take_exact_at(&self, buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        if buffer.len() as u64 <= ARENA_KEEP {
            return self.file.read_exact_at(buffer, offset);
        }
        for piece in buffer.chunks_mut(TAKE_BYTES) {
            self.file.read_exact_at(piece, offset)?;
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // `read_exact_at` has shown that offset and length lie within the file.
            let (start, len) = (offset.cast_signed(), (piece.len() as u64).cast_signed());
            fallocate(&self.file, hole, start, len)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Bytes that are there now; the other side may change it at any time.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether no bytes are there now.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Gives the arena's memory back when it is larger than [`ARENA_KEEP`]. Call it once all tensors of the frame
    /// have been read; the writer need not know.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn release(&self) -> io::Result<()> {
        if self.len()? > ARENA_KEEP {
            self.file.set_len(0)
        } else {
            Ok(())
        }
    }
}

impl AsFd for ArenaReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Collects the tensors of one frame: small ones into the payload, others into the arena.
#[derive(Debug)]
pub struct TensorWriter<'a> {
    payload: Vec<u8>,
    arena: &'a mut ArenaWriter,
}

impl<'a> TensorWriter<'a> {
    /// Starts a frame; the arena's earlier content is given up.
    pub fn new(arena: &'a mut ArenaWriter) -> Self {
        arena.begin();
        Self {
            payload: Vec::new(),
            arena,
        }
    }

    /// Puts one tensor's bytes and says where they went.
    ///
    /// # Errors
    /// A full arena, or no memory for it.
    pub fn put(&mut self, bytes: &[u8]) -> Result<TensorLocation, ArenaError> {
        if bytes.len() > INLINE_MAX || self.payload.len() + bytes.len() > PAYLOAD_MAX {
            return self.arena.write(bytes);
        }
        let offset = self.payload.len() as u64;
        self.payload.extend_from_slice(bytes);
        Ok(TensorLocation::Inline {
            offset,
            len: bytes.len() as u64,
        })
    }

    /// The payload to send with the frame.
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }
}

/// Gets the tensors of one frame, trusting nothing that their descriptions say.
#[derive(Clone, Copy, Debug)]
pub struct TensorReader<'a> {
    payload: &'a [u8],
    arena: &'a ArenaReader,
}

impl<'a> TensorReader<'a> {
    /// A reader over a frame's payload and the arena of its direction.
    pub fn new(payload: &'a [u8], arena: &'a ArenaReader) -> Self {
        Self { payload, arena }
    }

    /// Checks a description: shape, length and place agree and the bytes are there. Gives their number.
    ///
    /// # Errors
    /// The first thing that does not agree.
    pub fn check(&self, tensor: &TensorMeta) -> Result<usize, ArenaError> {
        let expected = tensor.byte_count().map_err(|source| ArenaError::Shape {
            name: tensor.name.clone(),
            source,
        })?;
        let found = tensor.place.len();
        if found != expected {
            return Err(ArenaError::Length {
                name: tensor.name.clone(),
                expected,
                found,
            });
        }
        let (offset, available) = match tensor.place {
            TensorLocation::Inline { offset, .. } => (offset, self.payload.len() as u64),
            TensorLocation::Arena { offset, .. } => (offset, self.arena.len()?),
        };
        let inside = offset
            .checked_add(found)
            .is_some_and(|end| end <= available);
        let len = usize::try_from(found).ok().filter(|_| inside);
        len.ok_or_else(|| ArenaError::Outside(tensor.name.clone()))
    }

    /// Moves a tensor's bytes into `buffer`, which must be as long as the tensor.
    ///
    /// # Errors
    /// A description that does not agree with what was sent or with `buffer`.
    pub fn read_into(&self, tensor: &TensorMeta, buffer: &mut [u8]) -> Result<(), ArenaError> {
        let len = self.check(tensor)?;
        if buffer.len() != len {
            let (expected, found) = (buffer.len() as u64, len as u64);
            return Err(ArenaError::Length {
                name: tensor.name.clone(),
                expected,
                found,
            });
        }
        match tensor.place {
            // `check` has shown that the range lies within the payload.
            TensorLocation::Inline { offset, .. } => {
                buffer.copy_from_slice(&self.payload[offset as usize..][..len])
            }
            TensorLocation::Arena { offset, .. } => self.arena.take_exact_at(buffer, offset)?,
        }
        Ok(())
    }

    /// A tensor's bytes. Memory is taken only after the bytes are known to be there.
    ///
    /// # Errors
    /// A description that does not agree with what was sent.
    pub fn read(&self, tensor: &TensorMeta) -> Result<Vec<u8>, ArenaError> {
        let mut bytes = vec![0; self.check(tensor)?];
        self.read_into(tensor, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Datatype;

    fn pair() -> (ArenaWriter, ArenaReader) {
        let reader = ArenaReader::create("test").unwrap();
        let writer = ArenaWriter::from_fd(reader.as_fd().try_clone_to_owned().unwrap());
        (writer, reader)
    }

    fn bytes_of(len: usize, place: TensorLocation) -> TensorMeta {
        TensorMeta {
            name: "x".into(),
            datatype: Datatype::Uint8,
            shape: vec![len as i64],
            place,
        }
    }

    proptest! {
        #[test]
        fn tensors_come_out_as_they_went_in(lens in prop::collection::vec(0usize..200_000, 0..8)) {
            let (mut writer, reader) = pair();
            for round in 0..2u8 {
                let tensors: Vec<Vec<u8>> =
                    lens.iter().map(|&len| (0..len).map(|i| i as u8 ^ round).collect()).collect();
                let mut frame = TensorWriter::new(&mut writer);
                let metas: Vec<_> =
                    tensors.iter().map(|bytes| bytes_of(bytes.len(), frame.put(bytes).unwrap())).collect();
                let payload = frame.into_payload();
                let tensor_reader = TensorReader::new(&payload, &reader);
                for (meta, bytes) in metas.iter().zip(&tensors) {
                    prop_assert_eq!(matches!(meta.place, TensorLocation::Arena { .. }), bytes.len() > INLINE_MAX);
                    prop_assert_eq!(&tensor_reader.read(meta).unwrap(), bytes);
                }
                reader.release().unwrap();
            }
        }

        #[test]
        fn wild_descriptions_are_refused(
            arena in any::<bool>(), offset in any::<u64>(), len in any::<u64>(),
            shape in prop::collection::vec(any::<i64>(), 0..4),
        ) {
            let (mut writer, reader) = pair();
            writer.write(&[7; 100]).unwrap();
            let place = if arena { TensorLocation::Arena { offset, len } } else { TensorLocation::Inline { offset, len } };
            let meta = TensorMeta { name: "x".into(), datatype: Datatype::Int16, shape, place };
            if let Ok(bytes) = TensorReader::new(&[1; 10], &reader).read(&meta) {
                prop_assert!(bytes.len() <= 100);
            }
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let (mut writer, reader) = pair();
        writer.write(&[7; 100]).unwrap();
        let payload = [1; 10];
        let frame = TensorReader::new(&payload, &reader);
        let outside = [
            TensorLocation::Inline { offset: 1, len: 10 },
            TensorLocation::Inline {
                offset: u64::MAX,
                len: 10,
            },
            TensorLocation::Arena {
                offset: 91,
                len: 10,
            },
            TensorLocation::Arena {
                offset: u64::MAX - 3,
                len: 10,
            },
        ];
        for place in outside {
            assert!(
                matches!(
                    frame.read(&bytes_of(10, place)),
                    Err(ArenaError::Outside(_))
                ),
                "{place:?}"
            );
        }
        let short = bytes_of(11, TensorLocation::Inline { offset: 0, len: 10 });
        assert!(matches!(
            frame.read(&short),
            Err(ArenaError::Length {
                expected: 11,
                found: 10,
                ..
            })
        ));
        let whole = bytes_of(10, TensorLocation::Inline { offset: 0, len: 10 });
        assert!(matches!(
            frame.read_into(&whole, &mut [0; 9]),
            Err(ArenaError::Length { .. })
        ));
    }

    #[test]
    fn a_large_arena_is_given_back_and_can_be_used_again() {
        let (mut writer, reader) = pair();
        let bytes = vec![3; 3 << 20];
        let place = TensorWriter::new(&mut writer).put(&bytes).unwrap();
        assert!(reader.len().unwrap() >= 3 << 20);
        reader.release().unwrap();
        assert!(reader.is_empty().unwrap());
        let gone = bytes_of(bytes.len(), place);
        assert!(matches!(
            TensorReader::new(&[], &reader).read(&gone),
            Err(ArenaError::Outside(_))
        ));
        let place = TensorWriter::new(&mut writer).put(&bytes).unwrap();
        assert_eq!(
            TensorReader::new(&[], &reader)
                .read(&bytes_of(bytes.len(), place))
                .unwrap(),
            bytes
        );
    }
}
