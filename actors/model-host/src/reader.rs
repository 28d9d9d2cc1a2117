//! The thread that reads the host's socket: it answers pings and queues all other requests for the main thread.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
};

use headroom_model_protocol::{
    Frame, FrameDecoder, FrameError, HostReply, HostRequest, Infer, encode_frame,
};

use crate::{
    memory,
    process::{self, ExitCode},
};

/// Bytes to read from the socket at once.
pub(crate) const CHUNK: usize = 64 << 10;

/// What both threads share.
pub(crate) struct Shared {
    writer: Mutex<UnixStream>,
    /// Whether an inference has been queued and not been answered.
    pub(crate) inferring: AtomicBool,
    /// The latest bound of the process's own memory, until the main thread applies it.
    own_max: Mutex<Option<u64>>,
}

impl Shared {
    pub(crate) fn new(writer: UnixStream) -> Self {
        Self {
            writer: Mutex::new(writer),
            inferring: AtomicBool::new(false),
            own_max: Mutex::new(None),
        }
    }

    /// Sends one frame. A failure is logged only: when the owner is gone, the reading thread ends the process.
    pub(crate) fn reply(&self, reply: &HostReply, payload: &[u8]) {
        if let Err(error) = self.try_reply(reply, payload) {
            process::log(&format!("cannot send a reply: {error}"));
        }
    }

    /// As [`reply`](Self::reply), but fails when the frame is too long.
    pub(crate) fn try_reply(&self, reply: &HostReply, payload: &[u8]) -> Result<(), FrameError> {
        let frame = encode_frame(reply, payload)?;
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writer.write_all(&frame) {
            process::log(&format!("cannot write to the owner's socket: {error}"));
        }
        Ok(())
    }

    fn own_max(&self) -> MutexGuard<'_, Option<u64>> {
        self.own_max.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bound that the main thread has not applied yet.
    pub(crate) fn take_own_max(&self) -> Option<u64> {
        self.own_max().take()
    }
}

/// Work for the main thread.
pub(crate) enum Job {
    Infer(Infer, Vec<u8>),
    /// Send the announced outputs, or drop them.
    Outputs {
        id: u64,
        send: bool,
    },
    Trim,
    Stop,
}

/// The thread that reads the socket.
pub(crate) struct Reader {
    pub(crate) socket: UnixStream,
    pub(crate) decoder: FrameDecoder<HostRequest>,
    pub(crate) jobs: SyncSender<Job>,
    pub(crate) shared: Arc<Shared>,
}

impl Reader {
    /// Reads until the socket closes, then ends the process.
    pub(crate) fn run(mut self) {
        let code = match self.read() {
            Ok(()) => ExitCode::Ok,
            Err(error) => {
                process::log(&format!("the owner broke the protocol: {error}"));
                ExitCode::Protocol
            }
        };
        process::exit(code)
    }

    fn read(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            while let Some(frame) = self.decoder.next_frame().map_err(io::Error::other)? {
                self.take(frame)?;
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(bytes) => self.decoder.push(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The owner died and left replies unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&self, frame: Frame<HostRequest>) -> io::Result<()> {
        let job = match frame.header {
            HostRequest::Start(_) => return Err(io::Error::other("a second start")),
            HostRequest::Ping => {
                let anonymous = memory::anonymous();
                self.shared.reply(&HostReply::Pong { anonymous }, &[]);
                return Ok(());
            }
            HostRequest::BoundMemory { own_max } => {
                *self.shared.own_max() = Some(own_max);
                return Ok(());
            }
            HostRequest::Infer(infer) => {
                if self.shared.inferring.swap(true, Ordering::AcqRel) {
                    return Err(io::Error::other("a second inference while one runs"));
                }
                Job::Infer(infer, frame.payload)
            }
            HostRequest::SendOutputs { id } => Job::Outputs { id, send: true },
            HostRequest::DropOutputs { id } => Job::Outputs { id, send: false },
            HostRequest::Trim => Job::Trim,
            HostRequest::Stop => Job::Stop,
        };
        match self.jobs.try_send(job) {
            Err(TrySendError::Full(_)) => Err(io::Error::other("too many requests are waiting")),
            // The main thread has returned and is about to end the process.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }
}
