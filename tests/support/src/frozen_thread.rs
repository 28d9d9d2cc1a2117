//! One thread of a process that stands still while all others run. Signals cannot do that: SIGSTOP stops every thread.

use std::marker::PhantomData;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// A thread that is stopped by `ptrace` until this is dropped. It goes on, too, when the thread that stopped it ends.
///
/// While it is stopped, do not wait for the end of its process: the system would report the stop.
#[derive(Debug)]
pub struct FrozenThread {
    thread: Pid,
    /// Only the thread that stopped it can let it go on.
    _same_thread: PhantomData<*const ()>,
}

impl FrozenThread {
    /// Stops the main thread of the process `pid`, which the test has started.
    ///
    /// # Errors
    /// The system refuses `ptrace`.
    pub fn main_of(pid: u32) -> nix::Result<Self> {
        let thread = Pid::from_raw(pid.cast_signed());
        ptrace::seize(thread, ptrace::Options::empty())?;
        // Lets the thread go again if what follows fails.
        let frozen = Self {
            thread,
            _same_thread: PhantomData,
        };
        ptrace::interrupt(thread)?;
        waitpid(thread, Some(WaitPidFlag::__WALL))?;
        Ok(frozen)
    }
}

impl Drop for FrozenThread {
    fn drop(&mut self) {
        // Fails only when the process has ended.
        ptrace::detach(self.thread, None).ok();
    }
}
