//! The memory of this process and all its descendants.
//!
//! The sum of proportional shares (PSS) counts every page once, however many processes share it:
//! libtorch, mapped by ten hosts, counts once.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use super::process::{self, ProcStat, ProcessUsage};
use super::{ProbeError, System};

/// The memory of the process tree at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// This process, the root of the tree.
    pub own: i32,
    /// Every process, by number.
    pub processes: BTreeMap<i32, ProcessUsage>,
    /// Bytes in this process's anonymous files. No process maps them, so no PSS contains them:
    /// tensors on their way to a host.
    pub shared_files: u64,
}

impl TreeUsage {
    /// How many processes were estimated and not measured.
    pub fn estimated(&self) -> usize {
        let processes = self.processes.values();
        processes.filter(|process| process.estimated).count()
    }

    /// All bytes together.
    pub fn total(&self) -> u64 {
        self.processes
            .values()
            .fold(self.shared_files, |sum, process| {
                sum.saturating_add(process.pss)
            })
    }
}

/// How long measuring may take, and how old a measurement may become.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Time for measurements in one reading. Processes that do not fit are estimated until a later
    /// reading measures them. Each reading measures at least one.
    time_slice: Duration,
    /// The part of it for processes that show no change.
    routine_slice: Duration,
    /// A process that took page faults is measured again after this time.
    after_faults: Duration,
    /// A process without page faults is measured again after this time.
    at_rest: Duration,
}

const PACE: Pace = Pace {
    time_slice: Duration::from_millis(20),
    routine_slice: Duration::from_millis(1),
    after_faults: Duration::from_secs(1),
    at_rest: Duration::from_secs(30),
};

/// A process whose resident pages changed by more than this is measured again at once. The kernel
/// counts them per processor, so their sum is only approximate.
const PAGES_CHANGED: u64 = 64;

/// A process with at most this many new page faults counts as being at rest.
const FAULTS_CHANGED: u64 = 64;

/// Measures the processes of the tree.
///
/// Measuring takes time in proportion to a process's pages, about 15 ms per GiB. So a process at rest
/// is not measured in each reading, and one reading measures no longer than a time slice. When a
/// process starts or ends, all are measured again, since that changes how pages are shared.
#[derive(Debug)]
pub(in crate::memory) struct ProcessTree {
    system: System,
    /// The processes of the last reading.
    pids: BTreeSet<i32>,
    measured: BTreeMap<i32, Measurement>,
    pace: Pace,
}

/// The last measurement of one process.
#[derive(Debug)]
struct Measurement {
    stat: ProcStat,
    usage: ProcessUsage,
    at: Instant,
    /// Processes started or ended since.
    is_stale: bool,
}

/// Why a process needs to be measured, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    New,
    Changed,
    Stale,
    Routine,
}

impl ProcessTree {
    pub(in crate::memory) fn new(system: &System) -> Self {
        Self {
            system: system.clone(),
            pids: BTreeSet::new(),
            measured: BTreeMap::new(),
            pace: PACE,
        }
    }

    /// The tree without the shared files. Processes that end meanwhile are left out. It fails only if
    /// this process itself cannot be read.
    pub(in crate::memory) fn read(&mut self) -> Result<TreeUsage, ProbeError> {
        let own = self.system.pid().ok_or(ProbeError::NoProcess)?;
        let stats = self.family(own)?;
        self.update_pids(&stats);
        let began = Instant::now();
        self.measure_due(&stats, began);
        let usages = stats
            .iter()
            .filter_map(|(pid, stat)| Some((*pid, self.usage(*pid, stat, began)?)));
        let processes: BTreeMap<_, _> = usages.collect();
        if !processes.contains_key(&own) {
            return Err(ProbeError::NoProcess);
        }
        Ok(TreeUsage {
            own,
            processes,
            shared_files: 0,
        })
    }

    /// The process `root` and all its descendants. Every process of the machine is read and asked for
    /// its parent, since not every kernel can list the children of a process. That takes about 5 µs for
    /// each of them.
    fn family(&self, root: i32) -> Result<BTreeMap<i32, ProcStat>, ProbeError> {
        let proc = self.system.proc("");
        let entries = fs::read_dir(&proc).map_err(|error| ProbeError::unreadable(&proc, &error))?;
        let processes = entries.flatten().filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, process::read_stat(&self.system, pid)?))
        });
        let mut others: BTreeMap<i32, ProcStat> = processes.collect();
        let mut family = BTreeMap::new();
        let mut found = vec![root];
        while let Some(parent) = found.pop() {
            // Parents are read one after another and can form a cycle, so each process is found once.
            family.extend(others.remove_entry(&parent));
            let children = others.iter();
            let children = children.filter(|(_, stat)| stat.identity.parent == parent);
            found.extend(children.map(|(pid, _)| *pid));
        }
        Ok(family)
    }

    /// Forgets processes that ended. All measurements become stale if any process started or ended.
    fn update_pids(&mut self, stats: &BTreeMap<i32, ProcStat>) {
        self.measured.retain(|pid, last| {
            let stat = stats.get(pid);
            stat.is_some_and(|stat| stat.identity == last.stat.identity)
        });
        if !self.pids.iter().eq(stats.keys()) || self.measured.len() != stats.len() {
            self.pids = stats.keys().copied().collect();
            for measurement in self.measured.values_mut() {
                measurement.is_stale = true;
            }
        }
    }

    /// Measures as many processes as the time slice allows, the most urgent first, and of these the
    /// one with the oldest measurement first.
    fn measure_due(&mut self, stats: &BTreeMap<i32, ProcStat>, began: Instant) {
        let due = stats.iter().filter_map(|(pid, stat)| {
            let last = self.measured.get(pid);
            Some((self.urgency(stat, last)?, last.map(|last| last.at), *pid))
        });
        let mut due: Vec<_> = due.collect();
        due.sort_unstable();
        for (turn, (urgency, _, pid)) in due.into_iter().enumerate() {
            let slice = match urgency {
                Urgency::Routine => self.pace.routine_slice,
                Urgency::New | Urgency::Changed | Urgency::Stale => self.pace.time_slice,
            };
            if turn > 0 && began.elapsed() >= slice {
                return;
            }
            let stat = &stats[&pid];
            self.measured.remove(&pid);
            if let Some(usage) = process::measure(&self.system, pid, &stat.identity) {
                let measurement = Measurement {
                    stat: stat.clone(),
                    usage,
                    at: Instant::now(),
                    is_stale: false,
                };
                self.measured.insert(pid, measurement);
            }
        }
    }

    /// Whether and why a process must be measured now.
    fn urgency(&self, stat: &ProcStat, last: Option<&Measurement>) -> Option<Urgency> {
        let Some(last) = last else {
            return Some(Urgency::New);
        };
        if last.has_changed(stat) {
            return Some(Urgency::Changed);
        }
        let age = last.at.elapsed();
        let faults = last.stat.faults.abs_diff(stat.faults);
        if faults > FAULTS_CHANGED && age >= self.pace.after_faults {
            return Some(Urgency::Changed);
        }
        if last.is_stale {
            return Some(Urgency::Stale);
        }
        (age >= self.pace.at_rest).then_some(Urgency::Routine)
    }

    /// The usage of a process: its last measurement if that still holds, else an estimate.
    fn usage(&self, pid: i32, stat: &ProcStat, began: Instant) -> Option<ProcessUsage> {
        let last = self.measured.get(&pid);
        if let Some(last) = last
            && (last.at >= began || !last.has_changed(stat))
        {
            return Some(last.usage.clone());
        }
        let before = last.map(|last| &last.usage);
        process::estimate(&self.system, pid, &stat.identity, before)
    }
}

impl Measurement {
    /// Whether the process grew or shrank since.
    fn has_changed(&self, stat: &ProcStat) -> bool {
        let pages = self.stat.pages.zip(stat.pages);
        pages.is_none_or(|(then, now)| then.abs_diff(now) > PAGES_CHANGED)
    }
}
