//! Processes as `/proc` shows them: their memory, their state, and the processes below them. The tests compare the
//! server's own figures with these.

#![expect(clippy::expect_used, reason = "how a test fails")]

use std::fs;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::wait::wait_for;

/// Time between two samples of a [`PeakSampler`].
const INTERVAL: Duration = Duration::from_millis(20);

/// Longest time from a signal to its effect on a process.
const SIGNAL_DEADLINE: Duration = Duration::from_secs(10);

/// One process at the moment it was read. Two are equal when they are the same process, whatever its state.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The id of its parent process.
    pub parent: u32,
    /// Its short name: `headroom`, `hr-zygote`, `hr:<model>`.
    pub name: String,
    /// When it was started, in the kernel's ticks since boot. Together with `pid` it identifies one process for good.
    pub started: u64,
    state: char,
}

impl PartialEq for Process {
    fn eq(&self, other: &Self) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }
}

impl Process {
    /// The process `pid`. `None` when there is none.
    pub fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may contain parentheses itself.
        let (head, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        Some(Self {
            pid,
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            name: head.split_once('(')?.1.to_owned(),
            // Field 22; the parent is field 4.
            started: fields.nth(17)?.parse().ok()?,
        })
    }

    /// Whether it had ended and its parent had not waited for it.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether it runs now. A zombie does not.
    pub fn is_running(&self) -> bool {
        self.read_again().is_some_and(|now| !now.is_zombie())
    }

    fn read_again(&self) -> Option<Self> {
        Self::read(self.pid).filter(|now| now == self)
    }

    /// Its proportional share of memory (PSS), in bytes: shared pages are divided among their users. 0 when it has
    /// ended.
    pub fn pss(&self) -> u64 {
        pss(self.pid)
    }

    /// How many file descriptors it has open. 0 when it has ended.
    pub fn descriptors(&self) -> usize {
        entries(&format!("/proc/{}/fd", self.pid))
    }

    /// How many threads it has. 0 when it has ended.
    pub fn threads(&self) -> usize {
        entries(&format!("/proc/{}/task", self.pid))
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        assert!(self.is_running(), "{self:?} has ended");
        signal::kill(Pid::from_raw(self.pid.cast_signed()), signal).expect("it can be signalled");
    }

    /// Kills it and waits until it has ended.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    #[track_caller]
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.wait_until_gone();
    }

    /// Stops it by SIGSTOP and waits until it is stopped.
    ///
    /// # Panics
    /// When it does not run, or does not stop in time.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        wait_for(SIGNAL_DEADLINE, || match self.read_again() {
            Some(now) if now.state == 'T' => Ok(()),
            other => Err(other),
        });
    }

    /// Waits until it runs no more.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn wait_until_gone(&self) {
        wait_until_gone(std::slice::from_ref(self));
    }
}

/// Processes that are stopped by SIGSTOP until this is dropped, also when the test fails: their parents cannot end them
/// in order otherwise.
#[derive(Debug)]
pub struct Stopped(Vec<Process>);

impl Stopped {
    /// Stops these processes.
    ///
    /// # Panics
    /// When one does not run, or does not stop in time.
    #[track_caller]
    pub fn stop(processes: Vec<Process>) -> Self {
        let stopped = Self(processes);
        stopped.0.iter().for_each(Process::stop);
        stopped
    }

    /// Stops all processes below `root`.
    ///
    /// # Panics
    /// When one ends meanwhile, or does not stop in time.
    #[track_caller]
    pub fn below(root: u32) -> Self {
        let mut processes = descendants(root);
        processes.retain(|process| !process.is_zombie());
        Self::stop(processes)
    }

    /// The processes.
    pub fn processes(&self) -> &[Process] {
        &self.0
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for process in self.0.iter().filter(|process| process.is_running()) {
            // It may end at this moment.
            signal::kill(Pid::from_raw(process.pid.cast_signed()), Signal::SIGCONT).ok();
        }
    }
}

/// Waits until none of these processes runs.
///
/// # Panics
/// When one does not end in time.
#[track_caller]
pub fn wait_until_gone(processes: &[Process]) {
    wait_for(SIGNAL_DEADLINE, || {
        let running: Vec<_> = processes.iter().filter(|it| it.is_running()).collect();
        if running.is_empty() {
            Ok(())
        } else {
            Err(running)
        }
    });
}

/// Whether the process `pid` runs. A zombie does not.
pub fn is_alive(pid: u32) -> bool {
    Process::read(pid).is_some_and(|process| !process.is_zombie())
}

fn entries(folder: &str) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// The process `root` and all processes below it, `root` first. Processes that end meanwhile are left out.
///
/// # Panics
/// When `/proc` cannot be read.
pub fn tree(root: u32) -> Vec<Process> {
    let all: Vec<Process> = fs::read_dir("/proc")
        .expect("there is a /proc")
        .flatten()
        .filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?))
        .collect();
    let mut members: Vec<&Process> = all.iter().filter(|it| it.pid == root).collect();
    let mut next = 0;
    while let Some(parent) = members.get(next).map(|member| member.pid) {
        members.extend(all.iter().filter(|it| it.parent == parent));
        next += 1;
    }
    members.into_iter().cloned().collect()
}

/// All processes below `root`.
///
/// # Panics
/// When `/proc` cannot be read.
pub fn descendants(root: u32) -> Vec<Process> {
    let mut members = tree(root);
    members.retain(|member| member.pid != root);
    members
}

/// The memory of the process `root` and all below it, in bytes; shared pages are counted once.
///
/// The processes are read one after another. A page that becomes shared between two reads is counted too often, so a
/// fork can make one sum too high. No sum is too low.
pub fn tree_pss(root: u32) -> u64 {
    tree(root).iter().map(Process::pss).sum()
}

/// The private dirty memory of the process `root` and all below it, in bytes. Two sums are comparable even when other
/// processes have mapped the same files in between.
pub fn tree_private(root: u32) -> u64 {
    tree(root).iter().map(|it| private_dirty(it.pid)).sum()
}

/// The proportional share of one process, in bytes. 0 when it has ended.
pub fn pss(pid: u32) -> u64 {
    rollup(pid, "Pss:")
}

/// The private dirty memory of one process, in bytes: mappings of other processes do not change it. 0 when it has
/// ended.
pub fn private_dirty(pid: u32) -> u64 {
    rollup(pid, "Private_Dirty:")
}

fn rollup(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// Samples the memory of a process tree on a thread of its own, and keeps the highest sum.
#[derive(Debug)]
pub struct PeakSampler {
    stop: SyncSender<()>,
    thread: JoinHandle<Peak>,
}

/// The result of a [`PeakSampler`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    /// The highest sum, in bytes.
    pub bytes: u64,
    /// How many samples there were.
    pub samples: usize,
}

impl PeakSampler {
    /// Samples the process `root` and all below it every 20 ms.
    pub fn start(root: u32) -> Self {
        let (stop, stopped) = sync_channel(1);
        Self {
            stop,
            thread: std::thread::spawn(move || sample(root, &stopped)),
        }
    }

    /// Ends the sampling.
    ///
    /// # Panics
    /// When the sampling thread has panicked.
    pub fn finish(self) -> Peak {
        self.stop.try_send(()).ok();
        self.thread
            .join()
            .expect("the sampling thread has not panicked")
    }
}

fn sample(root: u32, stopped: &Receiver<()>) -> Peak {
    let mut peak = Peak::default();
    loop {
        peak.bytes = peak.bytes.max(tree_pss(root));
        peak.samples += 1;
        if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
            return peak;
        }
    }
}
