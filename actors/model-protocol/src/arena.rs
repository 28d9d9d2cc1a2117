//! Arenas: shared memory for tensors that are too large for a frame.
//!
//! Each host has two anonymous files (memfds) that its host actor creates, one per direction. Both ends read and write at
//! offsets and map nothing: this needs no unsafe code, and a peer that truncates the file causes an error, not a
//! SIGBUS. At most one inference is in progress per host, so a writer starts at offset 0 for each frame. The reader
//! frees the memory while it reads (`Arena::take_exact_at`) and after the last tensor
//! ([`Arena::release`]), so that a tensor in transfer takes its size once, not twice.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

use crate::{DataError, TensorLocation, TensorMeta, check_data, check_length, frame::PAYLOAD_MAX};

/// Larger tensors, in bytes, are never sent inside a frame.
pub const INLINE_MAX: usize = 64 << 10;

/// Bytes of an arena at most: 4 GiB.
pub const ARENA_MAX: u64 = 1 << 32;

/// A larger arena, in bytes, is truncated after it has been read.
pub const ARENA_KEEP: u64 = 1 << 20;

/// Bytes to read from an arena before their memory is freed.
const TAKE_BYTES: usize = 4 << 20;

/// Alignment of tensors in an arena: one cache line.
const ALIGNMENT: u64 = 64;

/// Why a tensor's bytes cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The operating system failed.
    #[error("the arena cannot be read or written")]
    Io(#[from] io::Error),
    /// More than [`ARENA_MAX`] bytes for one frame.
    #[error("the tensors of one message are larger than {ARENA_MAX} bytes together")]
    Full,
    /// The description places the tensor's bytes outside of the payload or arena.
    #[error("the bytes of tensor `{0}` lie outside of what was sent")]
    Outside(String),
    /// The shape cannot be used, or the bytes are not those of such a tensor.
    #[error("tensor `{name}` cannot be used")]
    Data {
        /// The tensor's name.
        name: String,
        /// The fault.
        source: DataError,
    },
}

/// Shared memory for one direction: a [`TensorWriter`] writes it at one end, a [`TensorReader`] reads it at the other.
#[derive(Debug)]
pub struct Arena(File);

impl Arena {
    /// Creates an anonymous file, closed on exec. `name` is shown in `/proc/<pid>/fd`.
    ///
    /// # Errors
    /// The operating system cannot create it.
    pub fn create(name: &str) -> io::Result<Self> {
        Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into())
    }

    /// A descriptor of the arena for the other end. It shares no flags with this one: with `O_APPEND`, writes here would
    /// go to the end of the file.
    ///
    /// # Errors
    /// The operating system cannot open it.
    pub fn for_other_end(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        let opened = File::options().read(true).write(true).open(path)?;
        Ok(opened.into())
    }

    /// Moves exactly `buffer.len()` bytes at `offset` out of the arena. Frees the memory of a tensor larger than
    /// [`ARENA_KEEP`] piece by piece; a second read of it gives zeros.
    fn take_exact_at(&self, buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        if buffer.len() as u64 <= ARENA_KEEP {
            return self.0.read_exact_at(buffer, offset);
        }
        for piece in buffer.chunks_mut(TAKE_BYTES) {
            self.0.read_exact_at(piece, offset)?;
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&self.0, hole, offset, piece.len() as u64)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Bytes in the arena. The other end may change it at any time.
    ///
    /// # Errors
    /// The operating system fails.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    /// Frees the arena's memory when it is larger than [`ARENA_KEEP`]. To be called by the reader after all tensors of
    /// the frame have been read; the writer need not know.
    ///
    /// # Errors
    /// The operating system fails.
    pub fn release(&self) -> io::Result<()> {
        if self.size()? > ARENA_KEEP {
            self.0.set_len(0)?;
        }
        Ok(())
    }
}

/// An arena that the other end created.
impl From<OwnedFd> for Arena {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl AsFd for Arena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Writes the tensors of one frame: small ones into the payload, others into the arena.
#[derive(Debug)]
pub struct TensorWriter<'a> {
    payload: Vec<u8>,
    arena: &'a Arena,
    /// End of the last tensor in the arena.
    end: u64,
}

impl<'a> TensorWriter<'a> {
    /// Starts a frame. It overwrites the arena's earlier content.
    pub fn new(arena: &'a Arena) -> Self {
        Self {
            payload: Vec::new(),
            arena,
            end: 0,
        }
    }

    /// Writes one tensor's bytes and returns their location.
    ///
    /// # Errors
    /// The arena is full, or there is no memory for it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<TensorLocation, ArenaError> {
        let inline = self.payload.len();
        if bytes.len() <= INLINE_MAX && inline + bytes.len() <= PAYLOAD_MAX {
            self.payload.extend_from_slice(bytes);
            return Ok(TensorLocation::Inline(inline as u64));
        }
        let offset = self.end.next_multiple_of(ALIGNMENT);
        self.end = offset.saturating_add(bytes.len() as u64);
        if self.end > ARENA_MAX {
            return Err(ArenaError::Full);
        }
        self.arena.0.write_all_at(bytes, offset)?;
        Ok(TensorLocation::Arena(offset))
    }

    /// The payload to send with the frame.
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }
}

/// Reads the tensors of one frame and checks each description first.
#[derive(Clone, Copy, Debug)]
pub struct TensorReader<'a> {
    payload: &'a [u8],
    arena: &'a Arena,
}

impl<'a> TensorReader<'a> {
    /// A reader over a frame's payload and the arena of its direction.
    pub fn new(payload: &'a [u8], arena: &'a Arena) -> Self {
        Self { payload, arena }
    }

    /// Checks that the shape of a description is possible and that the bytes exist. Returns their number.
    ///
    /// # Errors
    /// The first fault that is found.
    pub fn check(&self, tensor: &TensorMeta) -> Result<usize, ArenaError> {
        let bytes = tensor.bytes()?;
        let (offset, available) = match tensor.location {
            TensorLocation::Inline(offset) => (offset, self.payload.len() as u64),
            TensorLocation::Arena(offset) => (offset, self.arena.size()?),
        };
        match offset.checked_add(bytes) {
            Some(end) if end <= available => Ok(bytes as usize),
            _ => Err(ArenaError::Outside(tensor.name.clone())),
        }
    }

    /// Moves a tensor's bytes into `buffer`, which must have the tensor's length.
    ///
    /// # Errors
    /// The description does not match what was sent, or `buffer`.
    pub fn read_into(&self, tensor: &TensorMeta, buffer: &mut [u8]) -> Result<(), ArenaError> {
        let len = self.check(tensor)?;
        if buffer.len() != len {
            return Err(ArenaError::Outside(tensor.name.clone()));
        }
        match tensor.location {
            // `check` has shown that the range lies within the payload.
            TensorLocation::Inline(offset) => {
                buffer.copy_from_slice(&self.payload[offset as usize..][..len])
            }
            TensorLocation::Arena(offset) => self.arena.take_exact_at(buffer, offset)?,
        }
        Ok(())
    }

    /// A tensor's bytes. Allocates memory only after the check that they exist.
    ///
    /// # Errors
    /// The description does not match what was sent.
    pub fn read(&self, tensor: &TensorMeta) -> Result<Vec<u8>, ArenaError> {
        let mut bytes = vec![0; self.check(tensor)?];
        self.read_into(tensor, &mut bytes)?;
        check_data(tensor.datatype, &tensor.shape, &bytes).map_err(|error| tensor.fault(error))?;
        Ok(bytes)
    }
}

impl TensorMeta {
    /// Its length, if datatype and shape allow it.
    ///
    /// # Errors
    /// They do not, or the shape cannot be used.
    pub fn bytes(&self) -> Result<u64, ArenaError> {
        check_length(self.datatype, &self.shape, self.length).map_err(|error| self.fault(error))?;
        Ok(self.length)
    }

    fn fault(&self, source: DataError) -> ArenaError {
        ArenaError::Data {
            name: self.name.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;
    use crate::Datatype;

    fn pair() -> (Arena, Arena) {
        let reader = Arena::create("test").unwrap();
        let writer = reader.for_other_end().unwrap().into();
        (writer, reader)
    }

    #[test]
    fn the_other_end_cannot_make_writes_go_to_the_end() {
        let (writer, other_end) = pair();
        fcntl_setfl(&other_end, OFlags::APPEND).unwrap();
        for _ in 0..2 {
            write_100(&writer);
        }
        assert_eq!(writer.size().unwrap(), 100);
    }

    /// Writes 100 bytes to the arena, not to the payload.
    fn write_100(writer: &Arena) {
        writer.0.write_all_at(&[7; 100], 0).unwrap();
    }

    fn bytes_of(len: usize, location: TensorLocation) -> TensorMeta {
        TensorMeta {
            name: "x".into(),
            datatype: Datatype::Uint8,
            shape: vec![len as i64],
            length: len as u64,
            location,
        }
    }

    proptest! {
        #[test]
        fn tensors_are_read_as_they_were_written(lens in prop::collection::vec(0usize..200_000, 0..8)) {
            let (writer, reader) = pair();
            for round in 0..2u8 {
                let tensors: Vec<Vec<u8>> =
                    lens.iter().map(|&len| (0..len).map(|i| i as u8 ^ round).collect()).collect();
                let mut frame = TensorWriter::new(&writer);
                let metas: Vec<_> =
                    tensors.iter().map(|bytes| bytes_of(bytes.len(), frame.write(bytes).unwrap())).collect();
                let payload = frame.into_payload();
                let tensor_reader = TensorReader::new(&payload, &reader);
                for (meta, bytes) in metas.iter().zip(&tensors) {
                    prop_assert_eq!(matches!(meta.location, TensorLocation::Arena(_)), bytes.len() > INLINE_MAX);
                    prop_assert_eq!(&tensor_reader.read(meta).unwrap(), bytes);
                }
                reader.release().unwrap();
            }
        }

        #[test]
        fn random_descriptions_are_refused(
            arena in any::<bool>(), offset in any::<u64>(), length in prop_oneof![0u64..200, any::<u64>()],
            bytes in any::<bool>(), shape in prop::collection::vec(any::<i64>(), 0..4),
        ) {
            let (writer, reader) = pair();
            write_100(&writer);
            let location = if arena { TensorLocation::Arena(offset) } else { TensorLocation::Inline(offset) };
            let datatype = if bytes { Datatype::Bytes } else { Datatype::Int16 };
            let meta = TensorMeta { name: "x".into(), datatype, shape, length, location };
            if let Ok(bytes) = TensorReader::new(&[1; 10], &reader).read(&meta) {
                prop_assert!(bytes.len() <= 100);
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let (writer, reader) = pair();
        write_100(&writer);
        let payload = [1; 10];
        let frame = TensorReader::new(&payload, &reader);
        let outside = [
            TensorLocation::Inline(1),
            TensorLocation::Inline(u64::MAX),
            TensorLocation::Arena(91),
            TensorLocation::Arena(u64::MAX - 3),
        ];
        for location in outside {
            assert!(
                matches!(
                    frame.read(&bytes_of(10, location)),
                    Err(ArenaError::Outside(_))
                ),
                "{location:?}"
            );
        }
        let long = bytes_of(11, TensorLocation::Inline(0));
        assert!(matches!(frame.read(&long), Err(ArenaError::Outside(_))));
        let whole = bytes_of(10, TensorLocation::Inline(0));
        assert!(matches!(
            frame.read_into(&whole, &mut [0; 9]),
            Err(ArenaError::Outside(_))
        ));
    }

    #[test]
    fn a_large_arena_is_freed_and_can_be_used_again() {
        let (writer, reader) = pair();
        let bytes = vec![3; 3 << 20];
        let location = TensorWriter::new(&writer).write(&bytes).unwrap();
        assert!(reader.size().unwrap() >= 3 << 20);
        reader.release().unwrap();
        assert_eq!(reader.size().unwrap(), 0);
        let released = bytes_of(bytes.len(), location);
        assert!(matches!(
            TensorReader::new(&[], &reader).read(&released),
            Err(ArenaError::Outside(_))
        ));
        let location = TensorWriter::new(&writer).write(&bytes).unwrap();
        assert_eq!(
            TensorReader::new(&[], &reader)
                .read(&bytes_of(bytes.len(), location))
                .unwrap(),
            bytes
        );
    }
}
