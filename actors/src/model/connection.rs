//! The server's end of a socket to a zygote or a host: one task that writes whole frames in order,
//! and a stream of received frames.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use futures_util::stream::{self, Stream};
use headroom_model_protocol::{Frame, FrameDecoder, FrameError, encode_frame, fds};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Frames waiting to be written. There is one request at a time, and the heartbeat: a full queue
/// means that the other end no longer reads.
const QUEUE_MAX: usize = 8;

const READ_CHUNK: usize = 64 * 1024;

/// Descriptors that are received with one frame at most. A zygote sends one, a host none.
const DESCRIPTORS_MAX: usize = 16;

/// Why a connection failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("the socket failed")]
    Io(#[from] io::Error),
    #[error("the other end broke the protocol")]
    Frame(#[from] FrameError),
    #[error("the other end no longer reads")]
    Stalled,
    #[error("the other end sent {0} descriptors with one frame")]
    Descriptors(usize),
}

/// A frame, and the descriptors that were received since the frame before it.
#[derive(Debug)]
pub(super) struct ReceivedFrame<In> {
    pub(super) frame: Frame<In>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// The bytes of a frame, and its descriptors.
type QueuedFrame = (Vec<u8>, Vec<OwnedFd>);

/// Queues frames for the writer task, which ends when this is dropped. The socket closes when the
/// task and the stream of received frames have ended.
#[derive(Debug, Clone)]
pub(super) struct FrameSender(mpsc::Sender<QueuedFrame>);

impl FrameSender {
    /// Queues one frame with descriptors, which the other end receives as its own.
    pub(super) fn send(
        &self,
        header: &impl Serialize,
        payload: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), ConnectionError> {
        let bytes = encode_frame(header, payload)?;
        self.0
            .try_send((bytes, descriptors))
            .map_err(|_| ConnectionError::Stalled)
    }
}

/// Creates a socket pair: the server's end, which receives `In` frames, and the process's end.
pub(super) fn pair<In: DeserializeOwned + 'static>() -> io::Result<(
    FrameSender,
    impl Stream<Item = Result<ReceivedFrame<In>, ConnectionError>> + use<In>,
    OwnedFd,
)> {
    let (server_end, process_end) = std::os::unix::net::UnixStream::pair()?;
    server_end.set_nonblocking(true)?;
    let socket = Rc::new(UnixStream::from_std(server_end)?);
    let (sender, queue) = mpsc::channel(QUEUE_MAX);
    actix_rt::spawn(write_frames(Rc::clone(&socket), queue));
    Ok((FrameSender(sender), frames(socket), process_end.into()))
}

async fn write_frames(socket: Rc<UnixStream>, mut queue: mpsc::Receiver<QueuedFrame>) {
    while let Some((bytes, descriptors)) = queue.recv().await {
        if let Err(error) = write_frame(&socket, &bytes, &descriptors).await {
            // The stream of received frames ends, too. Its reader reports the process's exit.
            tracing::debug!(%error, "cannot write to a model process");
            return;
        }
    }
}

async fn write_frame(
    socket: &UnixStream,
    mut bytes: &[u8],
    descriptors: &[OwnedFd],
) -> io::Result<()> {
    let mut unsent: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    while !bytes.is_empty() {
        let send = || fds::send_with_fds(socket, bytes, &unsent);
        let sent = socket.async_io(Interest::WRITABLE, send).await?;
        bytes = &bytes[sent..];
        // The first byte carries all descriptors.
        unsent.clear();
    }
    Ok(())
}

/// The received frames, until the other end closes.
fn frames<In: DeserializeOwned>(
    socket: Rc<UnixStream>,
) -> impl Stream<Item = Result<ReceivedFrame<In>, ConnectionError>> {
    let state = (socket, FrameDecoder::default(), vec![0; READ_CHUNK]);
    stream::try_unfold(state, |(socket, mut decoder, mut chunk)| async move {
        let mut descriptors = Vec::new();
        loop {
            if let Some(frame) = decoder.next_frame()? {
                let received = ReceivedFrame { frame, descriptors };
                return Ok(Some((received, (socket, decoder, chunk))));
            }
            let receive = || fds::receive_with_fds(&socket, &mut chunk, &mut descriptors);
            match socket.async_io(Interest::READABLE, receive).await {
                Ok(0) => return Ok(None),
                // They would stay open until the frame ends, which it need not do.
                Ok(_) if descriptors.len() > DESCRIPTORS_MAX => {
                    return Err(ConnectionError::Descriptors(descriptors.len()));
                }
                Ok(read) => decoder.push(&chunk[..read]),
                // The process has ended and left bytes unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::pin::pin;

    use futures_util::stream::StreamExt;
    use headroom_model_protocol::ZygoteReply;

    use super::*;

    #[test]
    fn a_frame_that_never_ends_cannot_collect_descriptors() {
        actix_rt::System::new().block_on(async {
            let (_sender, frames, theirs) = pair::<ZygoteReply>().unwrap();
            let file = File::open("/dev/null").unwrap();
            let frame = encode_frame(&ZygoteReply::Ready, &[0; 100]).unwrap();
            for byte in frame.chunks(1).take(50) {
                fds::send_all_with_fds(&theirs, byte, &[file.as_fd(); 2]).unwrap();
            }
            drop(theirs);
            let received = pin!(frames).next().await;
            let Some(Err(ConnectionError::Descriptors(count))) = received else {
                panic!("{received:?}")
            };
            assert!(count <= DESCRIPTORS_MAX + 2, "{count}");
        });
    }
}
