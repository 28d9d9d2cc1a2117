//! The reading side of a host: pings are answered here, everything else is queued for the main thread.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    time::Instant,
};

use headroom_model_protocol::{
    FailureKind, Frame, FrameDecoder, FrameError, HostReply, HostRequest, Infer, encode_frame,
};

use crate::{
    memory,
    process::{self, ExitCode},
};

/// Bytes read from the socket at once.
pub(crate) const CHUNK: usize = 64 << 10;

/// What both threads share.
pub(crate) struct Shared {
    writer: Mutex<UnixStream>,
    begun: Instant,
    /// Microseconds from `begun` to the start of the request under way; 0 when there is none.
    pub(crate) busy_since: AtomicU64,
    /// Whether an inference has been queued and not been answered.
    pub(crate) inferring: AtomicBool,
    /// Memory that the process may have of its own, where that has changed since the last request.
    own_max: Mutex<Option<u64>>,
}

impl Shared {
    pub(crate) fn new(writer: UnixStream) -> Self {
        Self {
            writer: Mutex::new(writer),
            begun: Instant::now(),
            busy_since: AtomicU64::new(0),
            inferring: AtomicBool::new(false),
            own_max: Mutex::new(None),
        }
    }

    /// Sends one frame. When the owner is gone there is nobody left to tell: the reading thread ends the process.
    pub(crate) fn reply(&self, reply: &HostReply, payload: &[u8]) {
        if let Err(error) = self.try_reply(reply, payload) {
            process::log(&format!("a reply cannot be sent: {error}"));
        }
    }

    /// As [`reply`](Self::reply), but tells when the frame would be too long.
    pub(crate) fn try_reply(&self, reply: &HostReply, payload: &[u8]) -> Result<(), FrameError> {
        let frame = encode_frame(reply, payload)?;
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writer.write_all(&frame) {
            process::log(&format!("the owner cannot be reached: {error}"));
        }
        Ok(())
    }

    fn own_max(&self) -> MutexGuard<'_, Option<u64>> {
        self.own_max.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The new bound of memory, if there is one: told once.
    pub(crate) fn take_own_max(&self) -> Option<u64> {
        self.own_max().take()
    }

    pub(crate) fn elapsed_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    pub(crate) fn busy_for_us(&self) -> Option<u64> {
        match self.busy_since.load(Ordering::Acquire) {
            0 => None,
            since => Some(self.elapsed_us().saturating_sub(since)),
        }
    }
}

/// What the main thread does.
pub(crate) enum Job {
    Infer(Infer, Vec<u8>),
    SendOutputs(u64),
    DropOutputs(u64),
    ResetStates(u64),
    Trim(u64),
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
    /// Never comes back: the end of the socket is the end of the process.
    pub(crate) fn run(mut self) {
        let code = match self.read() {
            Ok(()) => ExitCode::Ok,
            Err(error) => {
                process::log(&format!("the host socket is out of step: {error}"));
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
                // The owner died with replies unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&self, frame: Frame<HostRequest>) -> io::Result<()> {
        match frame.header {
            HostRequest::Start(_) => return Err(io::Error::other("a second start")),
            HostRequest::Ping { n } => {
                let (anonymous, busy_for_us) = (memory::anonymous(), self.shared.busy_for_us());
                self.shared.reply(
                    &HostReply::Pong {
                        n,
                        anonymous,
                        busy_for_us,
                    },
                    &[],
                );
            }
            HostRequest::Infer(infer) => {
                let id = infer.id;
                if self.shared.inferring.swap(true, Ordering::AcqRel) {
                    self.refuse(id, "another inference is under way");
                } else if !self.queue(id, Job::Infer(infer, frame.payload)) {
                    self.shared.inferring.store(false, Ordering::Release);
                }
            }
            HostRequest::SendOutputs { id } => {
                self.queue(id, Job::SendOutputs(id));
            }
            HostRequest::DropOutputs { id } => {
                self.queue(id, Job::DropOutputs(id));
            }
            HostRequest::ResetStates { id } => {
                self.queue(id, Job::ResetStates(id));
            }
            HostRequest::BoundMemory { own_max } => {
                *self.shared.own_max() = Some(own_max);
            }
            HostRequest::Trim { id } => {
                self.queue(id, Job::Trim(id));
            }
            HostRequest::Stop => {
                // The queue is only full of an owner's nonsense; ending at once is then right too.
                if self.jobs.try_send(Job::Stop).is_err() {
                    process::exit(ExitCode::Ok);
                }
            }
        }
        Ok(())
    }

    /// Queues work and says whether there was room.
    fn queue(&self, id: u64, job: Job) -> bool {
        match self.jobs.try_send(job) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.refuse(id, "too many requests are waiting");
                false
            }
            // The main thread is about to end the process with its own exit code.
            Err(TrySendError::Disconnected(_)) => false,
        }
    }

    fn refuse(&self, id: u64, message: &str) {
        let message = message.to_owned();
        self.shared.reply(
            &HostReply::Failed {
                id,
                kind: FailureKind::Protocol,
                message,
            },
            &[],
        );
    }
}
