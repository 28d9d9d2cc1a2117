//! What a process and everything below it uses, read from `/proc`: the tests' own measure, so that
//! what the server says of itself is compared with something.

#![expect(clippy::expect_used, reason = "how a test fails")]

use std::fs;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two samples of a [`Watch`].
const INTERVAL: Duration = Duration::from_millis(20);

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The number of the process that started it.
    pub parent: u32,
    /// Its short name: `headroom`, `hr-zygote`, `hr:<model>`.
    pub name: String,
    /// Whether it has ended and nobody has waited for it.
    pub is_zombie: bool,
    /// Its proportional share of memory, in bytes: shared pages are divided among their users.
    pub pss: u64,
}

impl Process {
    /// How many files it has open. 0 when it has ended.
    pub fn descriptors(&self) -> usize {
        entries(&format!("/proc/{}/fd", self.pid))
    }

    /// How many threads it has. 0 when it has ended.
    pub fn threads(&self) -> usize {
        entries(&format!("/proc/{}/task", self.pid))
    }
}

/// Whether the process `pid` runs; one that nobody has waited for does not.
pub fn is_alive(pid: u32) -> bool {
    Stat::read(pid).is_some_and(|stat| !stat.is_zombie)
}

/// When the process `pid` was started, in the kernel's ticks since the machine's start: together with `pid` it names
/// one process for good. `None` when it has ended.
pub fn started(pid: u32) -> Option<u64> {
    Stat::read(pid)
        .filter(|stat| !stat.is_zombie)
        .map(|stat| stat.started)
}

fn entries(folder: &str) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// The process `root` and all below it, `root` first. What ends meanwhile is left out.
pub fn tree(root: u32) -> Vec<Process> {
    let stats: Vec<Stat> = fs::read_dir("/proc")
        .expect("there is a /proc")
        .flatten()
        .filter_map(|entry| Stat::read(entry.file_name().to_str()?.parse().ok()?))
        .collect();
    let mut members: Vec<&Stat> = stats.iter().filter(|stat| stat.pid == root).collect();
    let mut next = 0;
    while let Some(parent) = members.get(next).map(|member| member.pid) {
        members.extend(stats.iter().filter(|stat| stat.parent == parent));
        next += 1;
    }
    let process = |stat: &Stat| Process {
        pid: stat.pid,
        parent: stat.parent,
        name: stat.name.clone(),
        is_zombie: stat.is_zombie,
        pss: pss(stat.pid),
    };
    members.into_iter().map(process).collect()
}

/// The memory of the process `root` and all below it, in bytes, shared pages counted once.
///
/// The processes are read one after another. A page that comes to be shared meanwhile is counted
/// too often, so a fork can make one sum too high, never too low by what is in use all along.
pub fn tree_pss(root: u32) -> u64 {
    tree(root).iter().map(|process| process.pss).sum()
}

/// What the process `root` and all below it have written, each alone, in bytes. Two sums can be compared
/// whoever else has the same files mapped meanwhile.
pub fn tree_private(root: u32) -> u64 {
    let processes = tree(root);
    processes.iter().map(|it| private_dirty(it.pid)).sum()
}

struct Stat {
    pid: u32,
    parent: u32,
    name: String,
    is_zombie: bool,
    started: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in brackets and may hold some itself.
        let (head, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        Some(Self {
            pid,
            parent: fields.next()?.parse().ok()?,
            name: head.split_once('(')?.1.to_owned(),
            is_zombie: state == "Z" || state == "X",
            // The 22nd of all fields; the name is the second, its parent the fourth.
            started: fields.nth(17)?.parse().ok()?,
        })
    }
}

/// The proportional share of one process, in bytes. 0 when it has ended.
pub fn pss(pid: u32) -> u64 {
    rollup(pid, "Pss:")
}

/// What one process alone has written, in bytes: whoever else has the same files mapped changes
/// nothing of it. 0 when it has ended.
pub fn private_dirty(pid: u32) -> u64 {
    rollup(pid, "Private_Dirty:")
}

fn rollup(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Samples the memory of a process tree, on a thread of its own, until it is asked for the highest
/// sum.
#[derive(Debug)]
pub struct Watch {
    stop: SyncSender<()>,
    thread: JoinHandle<Peak>,
}

/// What a [`Watch`] has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    /// The highest sum, in bytes.
    pub bytes: u64,
    /// How many samples there were.
    pub samples: usize,
}

impl Watch {
    /// Samples the tree below `root` every 20 ms.
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
    /// When the sampling thread has.
    pub fn finish(self) -> Peak {
        self.stop.try_send(()).ok();
        self.thread.join().expect("the samples are taken")
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
