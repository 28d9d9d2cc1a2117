//! The zygote: a process that maps and relocates libtorch once and forks a host for each model.
//!
//! A forked host starts in milliseconds and shares some 54 MB with all other hosts; a process that is started alone
//! has them for itself. If a process runs a parallel region or sets a thread count before a fork, the child hangs or
//! crashes. So the zygote has one thread and only links libtorch: it never calls it.
//!
//! Invariants: exactly one thread; no tensor, no thread setting, no autograd before the fork; every child is reaped
//! and its exit reported; the kernel kills the children when the zygote exits.

use std::{
    collections::VecDeque,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use headroom_model_protocol::{
    FrameDecoder, FrameError, HostExit, ZygoteReply, ZygoteRequest, encode_frame, fds,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, dup2_stderr, dup2_stdout, fork, getpid, getppid},
};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::process;

/// Descriptors that wait for the rest of their request. The server sends two per short request, so more of them are
/// an error of the server.
const PENDING_FDS_MAX: usize = 64;

/// Why [`run`] returned.
#[derive(Debug)]
pub(crate) enum End {
    /// The server closed the socket.
    Closed,
    /// This process is a forked child. It must serve on this socket.
    Child(UnixStream),
}

/// Why the zygote failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZygoteError {
    /// The operating system failed.
    #[error("a system call failed")]
    Io(#[from] io::Error),
    /// The server sent bytes that are not a request.
    #[error("the control socket does not carry the protocol")]
    Frame(#[from] FrameError),
    /// A fork request without its two descriptors, or descriptors without a request.
    #[error("descriptors and requests do not match")]
    Descriptors,
}

impl From<Errno> for ZygoteError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Serves fork requests from standard input until the server closes it. Also returns in each child.
pub(crate) fn run() -> Result<End, ZygoteError> {
    process::set_name("hr-zygote");
    process::follow_parent();
    let zygote = Zygote::new(process::take_socket_from_stdin()?)?;
    match zygote.serve() {
        // The server died and left replies unread.
        Err(ZygoteError::Io(error))
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            ) =>
        {
            Ok(End::Closed)
        }
        result => result,
    }
}

struct Zygote {
    control: UnixStream,
    decoder: FrameDecoder<ZygoteRequest>,
    /// Received descriptors whose request is not complete yet.
    fds: VecDeque<OwnedFd>,
    /// Becomes readable when a child exits.
    child_exits: SignalFd,
}

impl Zygote {
    fn new(control: UnixStream) -> Result<Self, ZygoteError> {
        control.set_nonblocking(false)?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let child_exits =
            SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self {
            control,
            decoder: FrameDecoder::new(),
            fds: VecDeque::new(),
            child_exits,
        })
    }

    /// Serves until the server closes the socket, or until this process is a forked child.
    fn serve(mut self) -> Result<End, ZygoteError> {
        self.reply(&ZygoteReply::Ready)?;
        loop {
            self.wait()?;
            self.report_exits()?;
            if let Some(end) = self.serve_requests()? {
                return Ok(end);
            }
        }
    }

    /// Waits for a request or the exit of a child.
    fn wait(&self) -> Result<(), ZygoteError> {
        let mut sources = [
            PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.child_exits.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reaps every child that has exited.
    fn report_exits(&mut self) -> Result<(), ZygoteError> {
        // Pending signals of one kind merge into one: empty the queue, then reap all children.
        while self.child_exits.read_signal()?.is_some() {}
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, HostExit::Exited(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid, HostExit::Signaled(signal as i32))
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            self.reply(&ZygoteReply::Exited {
                pid: pid.as_raw(),
                status,
            })?;
        }
    }

    /// Reads available bytes and forks for each complete request.
    fn serve_requests(&mut self) -> Result<Option<End>, ZygoteError> {
        let mut sources = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        if poll(&mut sources, PollTimeout::ZERO)? == 0 {
            return Ok(None);
        }
        let mut buffer = [0; 4096];
        let mut received = Vec::new();
        match fds::receive_with_fds(&self.control, &mut buffer, &mut received)? {
            0 => return Ok(Some(End::Closed)),
            bytes => self.decoder.push(&buffer[..bytes]),
        }
        self.fds.extend(received);
        while let Some(frame) = self.decoder.next_frame()? {
            let ZygoteRequest::Fork { id, name } = frame.header;
            let (Some(socket), Some(log)) = (self.fds.pop_front(), self.fds.pop_front()) else {
                return Err(ZygoteError::Descriptors);
            };
            if let Some(socket) = self.fork(id, &name, socket, log)? {
                return Ok(Some(End::Child(socket)));
            }
        }
        if self.fds.len() > PENDING_FDS_MAX {
            Err(ZygoteError::Descriptors)
        } else {
            Ok(None)
        }
    }

    /// Forks one host. Returns its socket in the child and `None` in the zygote.
    fn fork(
        &mut self,
        id: u64,
        name: &str,
        socket: OwnedFd,
        log: OwnedFd,
    ) -> Result<Option<UnixStream>, ZygoteError> {
        let zygote = getpid();
        // SAFETY: this process has exactly one thread, so no lock can be held by a thread that the child lacks, and
        // the child may allocate and do anything else that a fresh process may.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { child }) => {
                self.report_fork(id, child.as_raw())?;
                Ok(None)
            }
            Ok(ForkResult::Child) => {
                become_host(zygote, name, log)?;
                Ok(Some(UnixStream::from(socket)))
            }
            Err(error) => {
                self.reply(&ZygoteReply::ForkFailed {
                    id,
                    message: format!("fork failed: {error}"),
                })?;
                Ok(None)
            }
        }
    }

    /// Reports a new child. It cannot have been reaped yet, since only this thread reaps.
    fn report_fork(&mut self, id: u64, pid: i32) -> Result<(), ZygoteError> {
        let descriptor = rustix::process::Pid::from_raw(pid)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let reply = ZygoteReply::Forked {
            id,
            pid,
            has_descriptor: descriptor.is_some(),
        };
        let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
        let frame = encode_frame(&reply, &[])?;
        Ok(fds::send_all_with_fds(&self.control, &frame, &descriptors)?)
    }

    fn reply(&mut self, reply: &ZygoteReply) -> Result<(), ZygoteError> {
        Ok(self.control.write_all(&encode_frame(reply, &[])?)?)
    }
}

/// Gives a new child its own name, group and output. The zygote's descriptors close when the caller drops them.
fn become_host(zygote: Pid, name: &str, log: OwnedFd) -> Result<(), ZygoteError> {
    // The kernel sends this when the parent's thread ends. The zygote's only thread ends with the zygote.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != zygote {
        process::exit(process::ExitCode::Ok);
    }
    process::leave_group();
    dup2_stdout(&log)?;
    dup2_stderr(&log)?;
    SigSet::empty().thread_set_mask()?;
    process::set_name(&format!("hr:{name}"));
    Ok(())
}
