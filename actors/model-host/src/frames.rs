//! Frames and descriptors from a blocking socket.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use headroom_model_protocol::{Frame, FrameDecoder, fds};
use serde::de::DeserializeOwned;

/// Bytes to read from the socket at once.
const CHUNK: usize = 64 << 10;

/// The reading end of a conversation.
pub(crate) struct FrameReader {
    pub(crate) socket: UnixStream,
    decoder: FrameDecoder,
    /// Received descriptors, oldest first.
    descriptors: Vec<OwnedFd>,
    chunk: Vec<u8>,
}

impl FrameReader {
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        Ok(Self {
            socket,
            decoder: FrameDecoder::default(),
            descriptors: Vec::new(),
            chunk: vec![0; CHUNK],
        })
    }

    /// Waits for the next frame; `None` when the other end has closed the socket.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<Frame<T>>> {
        loop {
            if let Some(frame) = self.received()? {
                return Ok(Some(frame));
            }
            if !self.receive()? {
                return Ok(None);
            }
        }
    }

    /// The next frame, if it has been received whole.
    pub(crate) fn received<T: DeserializeOwned>(&mut self) -> io::Result<Option<Frame<T>>> {
        self.decoder.next_frame().map_err(io::Error::other)
    }

    /// Waits for some bytes. Returns false when the other end has closed the socket.
    pub(crate) fn receive(&mut self) -> io::Result<bool> {
        match fds::receive_with_fds(&self.socket, &mut self.chunk, &mut self.descriptors) {
            Ok(bytes) => {
                self.decoder.push(&self.chunk[..bytes]);
                Ok(bytes > 0)
            }
            // The server died and left replies unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The `N` descriptors of the request that was received last.
    pub(crate) fn take_descriptors<const N: usize>(&mut self) -> io::Result<[OwnedFd; N]> {
        let descriptors = self.descriptors.drain(..self.descriptors.len().min(N));
        let descriptors: Vec<_> = descriptors.collect();
        descriptors
            .try_into()
            .map_err(|_| io::Error::other("a request came without its descriptors"))
    }
}
