//! The server's processes as the operating system sees them.

use std::fs;
use std::time::Duration;

use headroom_test_support::process_tree;
use headroom_test_support::wait::wait_for;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// How long a process may take to be gone once nothing keeps it.
pub(crate) const GONE_WITHIN: Duration = Duration::from_secs(10);

/// One process, told apart from a later one of the same number by when it began.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// As `ps` shows it: `hr-zygote`, `hr:<model>`.
    pub(crate) name: String,
    state: char,
    begun: u64,
}

/// By number and beginning: what it does at the moment makes it no other.
impl PartialEq for Process {
    fn eq(&self, other: &Self) -> bool {
        (self.pid, self.begun) == (other.pid, other.begun)
    }
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may hold any character, these included.
        let (before, after) = stat.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = after.split_whitespace().collect();
        Some(Self {
            pid,
            name,
            state: fields.first()?.chars().next()?,
            begun: fields.get(19)?.parse().ok()?,
        })
    }

    /// Whether it runs no more. One that only waits for its parent's attention is gone for our ends.
    pub(crate) fn is_gone(&self) -> bool {
        Self::read(self.pid).is_none_or(|now| now.begun != self.begun || now.state == 'Z')
    }

    pub(crate) fn is_stopped(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.begun == self.begun && now.state == 'T')
    }

    pub(crate) fn signal(&self, signal: Signal) {
        assert!(!self.is_gone(), "{self:?} is gone already");
        signal::kill(Pid::from_raw(self.pid as i32), signal).expect("it can be signalled");
    }

    #[track_caller]
    pub(crate) fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.wait_until_gone();
    }

    /// Holds it as SIGSTOP does, and waits until it is held.
    #[track_caller]
    pub(crate) fn hold(&self) {
        self.signal(Signal::SIGSTOP);
        wait_for(GONE_WITHIN, || {
            self.is_stopped().then_some(()).ok_or("not stopped yet")
        });
    }

    #[track_caller]
    pub(crate) fn wait_until_gone(&self) {
        wait_for(GONE_WITHIN, || {
            self.is_gone()
                .then_some(())
                .ok_or_else(|| Self::read(self.pid))
        });
    }
}

/// The process `pid`.
#[track_caller]
pub(crate) fn process(pid: u32) -> Process {
    Process::read(pid).expect("it runs")
}

/// All processes below `pid`, however deep.
pub(crate) fn below(pid: u32) -> Vec<Process> {
    let members = process_tree::tree(pid).into_iter().skip(1);
    members
        .filter_map(|member| Process::read(member.pid))
        .collect()
}

/// The processes below `pid` that run no more and that nobody has looked after.
pub(crate) fn zombies_below(pid: u32) -> Vec<Process> {
    let mut found = below(pid);
    found.retain(|process| process.state == 'Z');
    found
}

#[track_caller]
pub(crate) fn wait_until_all_gone(processes: &[Process]) {
    wait_for(GONE_WITHIN, || {
        let left: Vec<_> = processes.iter().filter(|it| !it.is_gone()).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}
