//! Signals to a process through a process descriptor (pidfd).
//!
//! Once a process is reaped, its id may belong to another process, and the one who signals is often
//! not the one who reaps. A descriptor always refers to the same process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A reference to a process, which may have ended.
#[derive(Debug)]
pub struct ProcessRef {
    pid: i32,
    /// `None` where the system has no process descriptors (Linux before 5.3, some sandboxes). There
    /// the id is used instead.
    descriptor: Option<OwnedFd>,
}

impl ProcessRef {
    /// Refers to the process whose id is `pid` now.
    ///
    /// # Errors
    /// There is no such process.
    pub fn open(pid: i32) -> io::Result<Self> {
        let id = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        match pidfd_open(id, PidfdFlags::empty()) {
            Ok(descriptor) => Ok(Self::new(pid, Some(descriptor))),
            Err(Errno::SRCH) => Err(Errno::SRCH.into()),
            Err(_) => Ok(Self::new(pid, None)),
        }
    }

    /// Refers to the process `pid` through a descriptor that its parent has opened, if any.
    pub fn new(pid: i32, descriptor: Option<OwnedFd>) -> Self {
        Self { pid, descriptor }
    }

    /// The process id. Once the process is reaped, another process may have it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal to the process, and never to another one that has its id now.
    ///
    /// # Errors
    /// The process is reaped, or this process may not signal it.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(descriptor) = &self.descriptor else {
            return Ok(kill(nix::unistd::Pid::from_raw(self.pid), signal)?);
        };
        let signal = rustix::process::Signal::from_named_raw(signal as i32);
        let signal = signal.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(pidfd_send_signal(descriptor, signal)?)
    }

    /// Waits until the process has ended, without reaping it. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The system has no process descriptors.
    pub async fn ended(&self) -> io::Result<()> {
        let descriptor = self.descriptor.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        readiness(descriptor.as_fd())?.readable().await.map(drop)
    }
}

/// Registers `descriptor`, which becomes readable when the process ends.
#[expect(
    deprecated,
    reason = "its replacement is unsafe, because the descriptor must stay open and the same; a \
              borrowed descriptor does"
)]
fn readiness(descriptor: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
