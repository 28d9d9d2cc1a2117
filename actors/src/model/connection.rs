//! Our end of a socket to a zygote or a host: one writer task that sends whole frames in order,
//! one stream of frames that come.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use futures_util::stream::{self, Stream};
use headroom_model_protocol::{Frame, FrameDecoder, FrameError, encode_frame, fds};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Frames waiting to be written. The conversation is one request at a time and a heartbeat, so a
/// full queue means that the other end no longer reads.
const OUTGOING_MAX: usize = 8;

const READ_CHUNK: usize = 64 * 1024;

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the other end does not speak the protocol")]
    Frame(#[from] FrameError),
    #[error("the other end no longer reads")]
    Stalled,
}

/// A frame that came, and the descriptors that came since the one before it.
#[derive(Debug)]
pub(super) struct Received<In> {
    pub(super) frame: Frame<In>,
    pub(super) descriptors: Vec<OwnedFd>,
}

struct Outgoing {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// The sending side. Dropping it ends the writer task; the socket closes with the last of both
/// sides.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    outgoing: mpsc::Sender<Outgoing>,
}

impl Sender {
    /// Queues one frame.
    pub(super) fn send(
        &self,
        header: &impl Serialize,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        self.send_with(header, payload, Vec::new())
    }

    /// Queues one frame with descriptors that the other end receives as its own.
    pub(super) fn send_with(
        &self,
        header: &impl Serialize,
        payload: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), ConnectionError> {
        let outgoing = Outgoing {
            bytes: encode_frame(header, payload)?,
            descriptors,
        };
        self.outgoing
            .try_send(outgoing)
            .map_err(|_| ConnectionError::Stalled)
    }
}

/// Makes a socket pair: our end, speaking `In` frames, and the other end to hand to a process.
pub(super) fn pair<In: DeserializeOwned + 'static>() -> io::Result<(
    Sender,
    impl Stream<Item = Result<Received<In>, ConnectionError>> + use<In>,
    OwnedFd,
)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let socket = Rc::new(UnixStream::from_std(ours)?);
    let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
    actix_rt::spawn(write(Rc::clone(&socket), queue));
    Ok((Sender { outgoing }, frames(socket), OwnedFd::from(theirs)))
}

async fn write(socket: Rc<UnixStream>, mut queue: mpsc::Receiver<Outgoing>) {
    while let Some(Outgoing { bytes, descriptors }) = queue.recv().await {
        if let Err(error) = write_one(&socket, &bytes, &descriptors).await {
            // The reading side sees the end of the socket and says what became of the process.
            tracing::debug!(%error, "cannot write to a model process");
            return;
        }
    }
}

async fn write_one(
    socket: &UnixStream,
    mut bytes: &[u8],
    descriptors: &[OwnedFd],
) -> io::Result<()> {
    let mut borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    while !bytes.is_empty() {
        socket.writable().await?;
        let sent = socket.try_io(Interest::WRITABLE, || {
            fds::send_with_fds(socket, bytes, &borrowed)
        });
        match sent {
            Ok(sent) => {
                bytes = &bytes[sent..];
                // They went with the first byte.
                borrowed.clear();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The frames that come, until the other end closes.
fn frames<In: DeserializeOwned>(
    socket: Rc<UnixStream>,
) -> impl Stream<Item = Result<Received<In>, ConnectionError>> {
    let state = (socket, FrameDecoder::<In>::new(), vec![0; READ_CHUNK]);
    stream::try_unfold(state, |(socket, mut decoder, mut chunk)| async move {
        let mut descriptors = Vec::new();
        loop {
            if let Some(frame) = decoder.next_frame()? {
                let received = Received { frame, descriptors };
                return Ok(Some((received, (socket, decoder, chunk))));
            }
            socket.readable().await?;
            let read = socket.try_io(Interest::READABLE, || {
                receive(&socket, &mut chunk, &mut descriptors)
            });
            match read {
                Ok(0) => return Ok(None),
                Ok(read) => decoder.push(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that died with unread bytes resets the connection: it is gone, no more.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    })
}

/// Reads what is there, and the descriptors that came with it.
fn receive(
    socket: &UnixStream,
    chunk: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    // One descriptor comes with a message at most.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(chunk)];
    let message = recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    Ok(message.bytes)
}
