//! Signals to a process by a descriptor of it.
//!
//! A process id may belong to another process as soon as its process has been reaped, and who reaps
//! is often not who signals. A descriptor means the same process for ever.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process, whether or not it still runs.
#[derive(Debug)]
pub struct ProcessRef {
    pid: i32,
    /// None where the system has no such descriptors (Linux before 5.3, some sandboxes); the number
    /// must do there.
    descriptor: Option<OwnedFd>,
}

impl ProcessRef {
    /// The process that `pid` means now.
    ///
    /// # Errors
    /// There is none.
    pub fn open(pid: i32) -> io::Result<Self> {
        let number = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(descriptor) => Ok(Self::new(pid, Some(descriptor))),
            Err(Errno::SRCH) => Err(Errno::SRCH.into()),
            Err(_) => Ok(Self::new(pid, None)),
        }
    }

    /// The process `pid`, by a descriptor that its parent has opened, if it could.
    pub fn new(pid: i32, descriptor: Option<OwnedFd>) -> Self {
        Self { pid, descriptor }
    }

    /// Its number, which may be another one's once it has been reaped.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends it a signal. Nothing happens to anybody when it has been reaped.
    ///
    /// # Errors
    /// It has been reaped, or may not be signalled.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(descriptor) = &self.descriptor else {
            return Ok(kill(nix::unistd::Pid::from_raw(self.pid), signal)?);
        };
        let signal = rustix::process::Signal::from_named_raw(signal as i32);
        let signal = signal.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(pidfd_send_signal(descriptor, signal)?)
    }

    /// Waits until it has ended, without reaping it. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// It cannot be watched.
    pub async fn ended(&self) -> io::Result<()> {
        let descriptor = self.descriptor.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        watched(descriptor.as_fd())?.readable().await.map(drop)
    }
}

/// A descriptor whose readability can be waited for.
#[expect(
    deprecated,
    reason = "what replaces it is unsafe, to promise that the descriptor stays the same and open; \
              one that is borrowed keeps that promise by itself"
)]
fn watched(descriptor: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
