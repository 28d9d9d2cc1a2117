//! The thread that reads the host's socket: it answers pings and queues all other requests for the main thread.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
};

use headroom_model_protocol::{Frame, HostReply, HostRequest, encode_frame};

use crate::{
    frames::FrameReader,
    memory,
    process::{self, ExitCode},
    sandbox,
};

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

    /// Sends a reply without a payload.
    pub(crate) fn reply(&self, reply: &HostReply) {
        match encode_frame(reply, &[]) {
            Ok(frame) => self.send(&frame),
            Err(error) => process::log(&format!("cannot send a reply: {error}")),
        }
    }

    /// Tells the server what the model was denied since the last report.
    pub(crate) fn report_denials(&self) {
        for (action, count) in sandbox::take_denials() {
            self.reply(&HostReply::Denied { action, count });
        }
    }

    /// Sends one frame. A failure is logged only: when the server is gone, the reading thread ends the process.
    pub(crate) fn send(&self, frame: &[u8]) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writer.write_all(frame) {
            process::log(&format!("cannot write to the server's socket: {error}"));
        }
    }

    fn own_max(&self) -> MutexGuard<'_, Option<u64>> {
        self.own_max.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bound that the main thread has not applied yet.
    pub(crate) fn take_own_max(&self) -> Option<u64> {
        self.own_max().take()
    }
}

/// The thread that reads the socket.
pub(crate) struct Reader {
    pub(crate) frames: FrameReader,
    /// Requests for the main thread.
    pub(crate) queue: SyncSender<Frame<HostRequest>>,
    pub(crate) shared: Arc<Shared>,
}

impl Reader {
    /// Reads until the socket closes, then ends the process.
    pub(crate) fn run(mut self) {
        let code = match self.read() {
            Ok(()) => ExitCode::Ok,
            Err(error) => {
                process::log(&format!("the server broke the protocol: {error}"));
                ExitCode::Protocol
            }
        };
        process::exit(code)
    }

    fn read(&mut self) -> io::Result<()> {
        while let Some(frame) = self.frames.next()? {
            self.take(frame)?;
        }
        Ok(())
    }

    fn take(&self, frame: Frame<HostRequest>) -> io::Result<()> {
        match frame.header {
            HostRequest::Start(_) | HostRequest::Describe { .. } => {
                return Err(io::Error::other("a second start"));
            }
            HostRequest::Ping => {
                self.shared.report_denials();
                let anonymous = memory::anonymous();
                self.shared.reply(&HostReply::Pong { anonymous });
                return Ok(());
            }
            HostRequest::BoundMemory { own_max } => {
                *self.shared.own_max() = Some(own_max);
                return Ok(());
            }
            HostRequest::Infer(_) => {
                if self.shared.inferring.swap(true, Ordering::AcqRel) {
                    return Err(io::Error::other("a second inference while one runs"));
                }
            }
            HostRequest::Outputs { .. } | HostRequest::Trim | HostRequest::Stop => {}
        }
        match self.queue.try_send(frame) {
            Err(TrySendError::Full(_)) => Err(io::Error::other("too many requests are waiting")),
            // The main thread has returned and is about to end the process.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }
}
