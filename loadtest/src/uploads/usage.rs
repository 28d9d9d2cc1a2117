//! The memory and the processor time of a server's processes, and the processor time of this process.

use std::fs;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use headroom_test_support::process_tree::{tree, tree_pss};

use crate::Result;

/// Time between two readings of memory. A reading takes a few milliseconds.
const INTERVAL: Duration = Duration::from_millis(250);

/// What `/proc` counts processor time in: `USER_HZ` is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// What was used.
pub(super) struct Used {
    /// The most resident memory of the server's own process, as the kernel counts it, in bytes.
    pub(super) peak_resident: u64,
    /// The most memory of all processes together, shared pages counted once, in bytes. Read from time to time.
    pub(super) peak_proportional: u64,
    /// Processor time of all of the server's processes.
    pub(super) processor: Duration,
    /// Processor time of this process: its clients.
    pub(super) own_processor: Duration,
}

/// Measures a server's processes.
pub(super) struct Meter {
    pid: u32,
    processor: Duration,
    own_processor: Duration,
    stop: SyncSender<()>,
    sampler: JoinHandle<u64>,
}

impl Meter {
    /// Measures the process `pid` and all below it.
    pub(super) fn start(pid: u32) -> Result<Self> {
        // Resets the peak.
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        let (stop, stopped) = sync_channel(1);
        Ok(Self {
            pid,
            processor: processor(pid),
            own_processor: processor_of(std::process::id()).unwrap_or_default(),
            stop,
            sampler: thread::spawn(move || sample(pid, &stopped)),
        })
    }

    pub(super) fn finish(self) -> Result<Used> {
        let processor = processor(self.pid).saturating_sub(self.processor);
        let own = processor_of(std::process::id()).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let peak = status.lines().find_map(|line| {
            let kibibytes = line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?;
            kibibytes.parse::<u64>().ok()
        });
        self.stop.try_send(()).ok();
        let sampled = self.sampler.join();
        Ok(Used {
            peak_resident: peak.ok_or("the server has ended")? << 10,
            peak_proportional: sampled.map_err(|_| "the sampler has panicked")?,
            processor,
            own_processor: own.saturating_sub(self.own_processor),
        })
    }
}

fn sample(pid: u32, stopped: &Receiver<()>) -> u64 {
    let mut peak = 0;
    loop {
        peak = peak.max(tree_pss(pid));
        if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
            return peak;
        }
    }
}

/// The processor time of a process and all below it, those that have ended included.
fn processor(root: u32) -> Duration {
    let processes = tree(root).into_iter();
    processes
        .filter_map(|process| processor_of(process.pid))
        .sum()
}

/// The processor time of a process and of its children that it has waited for.
fn processor_of(pid: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses, and may contain some. The state follows, which is field 3; the times are fields 14 to 17.
    let (_, rest) = text.rsplit_once(')')?;
    let times = rest.split_ascii_whitespace().skip(11).take(4);
    let ticks: u32 = times.filter_map(|field| field.parse::<u32>().ok()).sum();
    Some(TICK * ticks)
}
