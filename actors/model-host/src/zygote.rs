//! The zygote: a process that maps and relocates libtorch once and forks a host for each model.
//!
//! A forked host starts in milliseconds and shares some 54 MB with all other hosts; a process that is started alone
//! has them for itself. If a process runs a parallel region or sets a thread count before a fork, the child hangs or
//! crashes. So the zygote has one thread and only links libtorch: it never calls it.
//!
//! Invariants: exactly one thread; no tensor, no thread setting, no autograd before the fork; every child is reaped
//! and its exit reported; the kernel kills the children when the zygote exits.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use headroom_model_protocol::{ForkRequest, ZygoteReply, encode_frame, fds};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{ForkResult, Pid, dup2_stderr, dup2_stdout, fork, getpid, getppid},
};
use rustix::process::{PidfdFlags, WaitOptions, pidfd_open, wait};

use crate::{frames::FrameReader, process};

/// Serves fork requests from standard input until the server closes it. Also returns in each forked child, with the
/// socket on which the child must serve as a host.
pub(crate) fn run() -> io::Result<Option<UnixStream>> {
    process::set_name("hr-zygote");
    process::follow_parent();
    let mut zygote = Zygote::new(process::take_socket_from_stdin()?)?;
    match zygote.serve() {
        // The server died.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(None),
        result => result,
    }
}

struct Zygote {
    control: FrameReader,
    /// Becomes readable when a child exits.
    child_exits: SignalFd,
}

impl Zygote {
    fn new(control: UnixStream) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let child_exits =
            SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self {
            control: FrameReader::new(control)?,
            child_exits,
        })
    }

    /// Serves until the server closes the socket, or until this process is a forked child.
    fn serve(&mut self) -> io::Result<Option<UnixStream>> {
        self.reply(&ZygoteReply::Ready, &[])?;
        loop {
            let is_requested = self.wait()?;
            self.report_exits()?;
            if is_requested && !self.control.receive()? {
                return Ok(None);
            }
            while let Some(request) = self.control.received()? {
                let [socket, log] = self.control.take_descriptors()?;
                if self.fork(request.header, &log)? {
                    return Ok(Some(socket.into()));
                }
            }
        }
    }

    /// Waits for a request or the exit of a child. Returns whether there is a request, or the end of the socket.
    fn wait(&self) -> io::Result<bool> {
        let mut sources = [
            PollFd::new(self.control.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.child_exits.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) => Ok(sources[0].any() != Some(false)),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reaps every child that has exited.
    fn report_exits(&mut self) -> io::Result<()> {
        // Pending signals of one kind merge into one: empty the queue, then reap all children.
        while self.child_exits.read_signal()?.is_some() {}
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let (pid, status) = (pid.as_raw_pid(), status.as_raw());
                    self.reply(&ZygoteReply::Exited { pid, status }, &[])?;
                }
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Forks one host. Returns true in the host and false in the zygote.
    fn fork(&mut self, ForkRequest { id }: ForkRequest, log: &OwnedFd) -> io::Result<bool> {
        let zygote = getpid();
        // SAFETY: this process has exactly one thread, so no lock can be held by a thread that the child lacks, and
        // the child may allocate and do anything else that a fresh process may.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { child }) => self.report_fork(id, child.as_raw())?,
            Ok(ForkResult::Child) => {
                become_host(zygote, log)?;
                return Ok(true);
            }
            Err(error) => {
                let message = format!("fork failed: {error}");
                self.reply(&ZygoteReply::ForkFailed { id, message }, &[])?;
            }
        }
        Ok(false)
    }

    /// Reports a new child. It cannot have been reaped yet, since only this thread reaps.
    fn report_fork(&mut self, id: u64, pid: i32) -> io::Result<()> {
        let descriptor = rustix::process::Pid::from_raw(pid)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let reply = ZygoteReply::Forked {
            id,
            pid,
            has_descriptor: descriptor.is_some(),
        };
        let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
        self.reply(&reply, &descriptors)
    }

    fn reply(&mut self, reply: &ZygoteReply, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let frame = encode_frame(reply, &[]).map_err(io::Error::other)?;
        fds::send_all_with_fds(&self.control.socket, &frame, descriptors)
    }
}

/// Gives a new child its own group and output. The zygote's descriptors close when the caller drops them.
fn become_host(zygote: Pid, log: &OwnedFd) -> io::Result<()> {
    // The kernel sends this when the parent's thread ends. The zygote's only thread ends with the zygote.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != zygote {
        process::exit(process::ExitCode::Ok);
    }
    process::leave_group();
    dup2_stdout(log)?;
    dup2_stderr(log)?;
    SigSet::empty().thread_set_mask()?;
    Ok(())
}
