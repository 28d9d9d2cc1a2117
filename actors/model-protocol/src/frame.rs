//! Frames: one message and the bytes of its small tensors, on a stream.
//!
//! A frame is the length of the header and the length of the payload (32 bits each, little-endian), the header (a
//! message in postcard's encoding), then the payload. The decoder checks both lengths before it waits for the bytes.

use serde::{Serialize, de::DeserializeOwned};

/// Bytes of a header at most: some thousand tensors with names.
pub const HEADER_MAX: usize = 1 << 20;

/// Bytes of a payload at most. It holds small tensors only, see [`crate::arena::INLINE_MAX`]; many small tensors use the
/// arena. A host at its memory bound must be able to allocate a whole frame: a failed allocation of libtorch is an error,
/// a failed allocation of a frame ends the process.
pub const PAYLOAD_MAX: usize = 1 << 20;

/// Bytes of the two lengths.
const LENGTHS: usize = 8;

/// Bytes of memory that the decoder's buffer keeps after a large frame.
const BUFFER_KEEP: usize = 64 << 10;

/// One decoded frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame<T> {
    /// The message.
    pub header: T,
    /// The bytes of its inline tensors.
    pub payload: Vec<u8>,
}

/// Why a frame cannot be written or read. After a read error the stream cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The header is longer than [`HEADER_MAX`].
    #[error("the header has {0} bytes, at most {HEADER_MAX} are allowed")]
    HeaderTooLong(usize),
    /// The payload is longer than [`PAYLOAD_MAX`].
    #[error("the payload has {0} bytes, at most {PAYLOAD_MAX} are allowed")]
    PayloadTooLong(usize),
    /// The header is not a message of this conversation.
    #[error("the header is not a known message")]
    Header(#[from] postcard::Error),
    /// The header is a message followed by further bytes.
    #[error("{0} bytes follow the message in the header")]
    Trailing(usize),
}

/// Encodes a message and its inline tensors as one frame.
///
/// # Errors
/// The header or the payload is too long.
pub fn encode_frame<T: Serialize>(header: &T, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut frame = Vec::with_capacity(LENGTHS + 256 + payload.len());
    frame.extend_from_slice(&[0; LENGTHS]);
    let mut frame = postcard::to_extend(header, frame)?;
    let header_len = frame.len() - LENGTHS;
    check_lengths(header_len, payload.len())?;
    frame[..LENGTHS].copy_from_slice(&lengths(header_len, payload.len()));
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// The two lengths as the frame has them.
fn lengths(header: usize, payload: usize) -> [u8; LENGTHS] {
    let both = (payload as u64) << 32 | header as u64;
    both.to_le_bytes()
}

fn check_lengths(header: usize, payload: usize) -> Result<(), FrameError> {
    if header > HEADER_MAX {
        return Err(FrameError::HeaderTooLong(header));
    }
    if payload > PAYLOAD_MAX {
        return Err(FrameError::PayloadTooLong(payload));
    }
    Ok(())
}

/// Decodes frames from the bytes of a stream, however the bytes are cut into pieces.
///
/// It does no I/O, so that blocking and asynchronous readers can use it: [`push`](Self::push) the bytes that were
/// read, then call [`next_frame`](Self::next_frame) until it returns `None`. It never holds more than was pushed.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
}

impl FrameDecoder {
    /// Appends bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// A length is too large, or the header is not a message. The start of the next frame is then unknown, so the
    /// stream cannot be used any more.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> Result<Option<Frame<T>>, FrameError> {
        let Some((lengths, rest)) = self.buffer.split_first_chunk::<LENGTHS>() else {
            return Ok(None);
        };
        let both = u64::from_le_bytes(*lengths);
        let (header_len, payload_len) = (both as u32 as usize, (both >> 32) as usize);
        check_lengths(header_len, payload_len)?;
        if rest.len() < header_len + payload_len {
            return Ok(None);
        }
        let (header, rest) = rest.split_at(header_len);
        let (header, trailing) = postcard::take_from_bytes(header)?;
        if !trailing.is_empty() {
            return Err(FrameError::Trailing(trailing.len()));
        }
        let payload = rest[..payload_len].to_vec();
        self.buffer.drain(..LENGTHS + header_len + payload_len);
        self.buffer.shrink_to(BUFFER_KEEP);
        Ok(Some(Frame { header, payload }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{HostReply, HostRequest, Infer, Input, Scalar, TensorLocation, TensorMeta};

    fn infer(id: u64, names: Vec<String>) -> HostRequest {
        let tensor = |name| {
            Input::Tensor(TensorMeta {
                name,
                datatype: crate::Datatype::Fp32,
                shape: vec![1, -3],
                length: 12,
                location: TensorLocation::Arena(u64::MAX),
            })
        };
        let mut inputs: Vec<_> = names.into_iter().map(tensor).collect();
        inputs.push(Input::Scalar(Scalar::Int(16_000)));
        HostRequest::Infer(Infer {
            id,
            inputs,
            wanted: vec![],
            reset_before: true,
        })
    }

    fn decode_all(bytes: &[u8], piece: usize) -> Vec<Frame<HostRequest>> {
        let mut decoder = FrameDecoder::default();
        let mut frames = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                frames.push(frame);
            }
        }
        assert!(decoder.buffer.is_empty());
        frames
    }

    proptest! {
        #[test]
        fn frames_are_decoded_from_pieces_of_any_size(
            ids in prop::collection::vec((any::<u64>(), prop::collection::vec(".{0,20}", 0..4)), 0..6),
            payload in prop::collection::vec(any::<u8>(), 0..3000),
            piece in 1usize..4000,
        ) {
            let requests: Vec<_> = ids.into_iter().map(|(id, names)| infer(id, names)).collect();
            let bytes: Vec<u8> = requests.iter().flat_map(|request| encode_frame(request, &payload).unwrap()).collect();
            let frames = decode_all(&bytes, piece);
            prop_assert_eq!(frames.len(), requests.len());
            for (frame, request) in frames.into_iter().zip(requests) {
                prop_assert_eq!(frame.header, request);
                prop_assert_eq!(&frame.payload, &payload);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame::<HostReply>() {}
        }

        #[test]
        fn a_flipped_bit_never_panics(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = encode_frame(&infer(7, vec!["x".into()]), b"payload").unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame::<HostReply>() {}
        }
    }

    #[test]
    fn lengths_beyond_the_bounds_are_refused_before_their_bytes_arrive() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&lengths(HEADER_MAX + 1, 0));
        assert!(matches!(
            decoder.next_frame::<HostRequest>(),
            Err(FrameError::HeaderTooLong(_))
        ));
        let mut decoder = FrameDecoder::default();
        decoder.push(&lengths(1, PAYLOAD_MAX + 1));
        assert!(matches!(
            decoder.next_frame::<HostRequest>(),
            Err(FrameError::PayloadTooLong(_))
        ));
        assert!(matches!(
            encode_frame(&0u8, &vec![0; PAYLOAD_MAX + 1]),
            Err(FrameError::PayloadTooLong(_))
        ));
        let name = "n".repeat(HEADER_MAX);
        assert!(matches!(
            encode_frame(&infer(1, vec![name]), b""),
            Err(FrameError::HeaderTooLong(_))
        ));
    }

    #[test]
    fn bytes_after_the_message_are_refused() {
        let mut decoder = FrameDecoder::default();
        let mut header = postcard::to_allocvec(&HostRequest::Stop).unwrap();
        header.push(0);
        decoder.push(&lengths(header.len(), 0));
        decoder.push(&header);
        assert!(matches!(
            decoder.next_frame::<HostRequest>(),
            Err(FrameError::Trailing(1))
        ));
    }

    #[test]
    fn a_large_frame_leaves_no_large_buffer() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&encode_frame(&HostRequest::Stop, &vec![1; PAYLOAD_MAX]).unwrap());
        let frame = decoder.next_frame::<HostRequest>().unwrap().unwrap();
        assert_eq!(frame.payload.len(), PAYLOAD_MAX);
        assert!(decoder.buffer.capacity() <= BUFFER_KEEP);
    }
}
