//! What a process and all its descendants use.
//!
//! The sum of proportional shares counts every page once, however the processes share it: libtorch
//! mapped by ten hosts is counted as one libtorch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::process::{self, Identity, ProcessUsage, resident_pages};
use super::{System, read_text};

/// What the whole tree uses at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// The process at the root of the tree: this one.
    pub own: i32,
    /// Every process, by number.
    pub processes: BTreeMap<i32, ProcessUsage>,
    /// Bytes in this process's own anonymous files, which nobody maps and no process's share
    /// therefore shows: tensors on their way to a model host.
    pub shared_files: u64,
}

impl TreeUsage {
    /// All bytes together.
    pub fn total(&self) -> u64 {
        self.processes
            .values()
            .fold(self.shared_files, |sum, process| {
                sum.saturating_add(process.pss)
            })
    }
}

/// A measurement of a process is used again for this long as long as nothing speaks against it.
const MEASURE_AGAIN: Duration = Duration::from_secs(1);

/// A process whose resident pages changed by more than this is measured again at once. The kernel
/// counts them per processor and tells the sum only roughly.
const PAGES_CHANGED: u64 = 64;

/// Reads the processes of a tree.
///
/// Measuring a process costs in proportion to its pages, so one at rest is not measured each time.
/// All are measured when any process came or went, since that changes what the others share.
#[derive(Debug)]
pub(in crate::memory) struct ProcessTree {
    system: System,
    known: BTreeMap<i32, Known>,
    measure_again: Duration,
}

/// What was last measured of one process.
#[derive(Debug)]
struct Known {
    identity: Identity,
    pages: Option<u64>,
    usage: ProcessUsage,
    at: Instant,
}

impl ProcessTree {
    pub(in crate::memory) fn new(system: &System) -> Self {
        Self {
            system: system.clone(),
            known: BTreeMap::new(),
            measure_again: MEASURE_AGAIN,
        }
    }

    /// Measures the tree, without the shared files. Processes that end meanwhile are left out.
    ///
    /// # Errors
    /// Not even the process at its root can be read.
    pub(in crate::memory) fn measure(&mut self) -> io::Result<TreeUsage> {
        let own = self.system.pid().ok_or(io::ErrorKind::NotFound)?;
        let members = match self.by_children(own) {
            Some(members) => members,
            None => self.by_parents(own)?,
        };
        let mut before = std::mem::take(&mut self.known);
        if !before.keys().eq(members.keys()) {
            before.clear();
        }
        for (pid, identity) in members {
            if let Some(known) = self.measure_one(pid, identity, before.remove(&pid)) {
                self.known.insert(pid, known);
            }
        }
        if !self.known.contains_key(&own) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let measured = self.known.iter();
        Ok(TreeUsage {
            own,
            processes: measured
                .map(|(pid, known)| (*pid, known.usage.clone()))
                .collect(),
            shared_files: 0,
        })
    }

    fn measure_one(&self, pid: i32, identity: Identity, before: Option<Known>) -> Option<Known> {
        let pages = resident_pages(&self.system, pid);
        let is_same = |before: &Known| {
            let changed = before
                .pages
                .zip(pages)
                .map(|(then, now)| then.abs_diff(now));
            before.identity == identity
                && before.at.elapsed() < self.measure_again
                && changed.is_some_and(|pages| pages <= PAGES_CHANGED)
        };
        if let Some(known) = before.filter(is_same) {
            return Some(known);
        }
        let at = Instant::now();
        let usage = process::measure(&self.system, pid, &identity)?;
        Some(Known {
            identity,
            pages,
            usage,
            at,
        })
    }

    /// Walks down by the lists of children. `None` where the kernel was built without them.
    fn by_children(&self, own: i32) -> Option<BTreeMap<i32, Identity>> {
        let system = &self.system;
        fs::metadata(system.proc(&format!("{own}/task/{own}/children"))).ok()?;
        let mut members = BTreeMap::new();
        let mut queue = VecDeque::from([own]);
        while let Some(pid) = queue.pop_front() {
            if members.contains_key(&pid) {
                continue;
            }
            let Some(identity) = process::identity(system, pid) else {
                continue;
            };
            members.insert(pid, identity);
            // Every thread has a list of the children that it made.
            let Ok(threads) = fs::read_dir(system.proc(&format!("{pid}/task"))) else {
                continue;
            };
            for thread in threads.flatten() {
                let children = read_text(&thread.path().join("children")).unwrap_or_default();
                let children = children.split_ascii_whitespace();
                queue.extend(children.filter_map(|child| child.parse::<i32>().ok()));
            }
        }
        Some(members)
    }

    /// Asks every process for its parent.
    fn by_parents(&self, own: i32) -> io::Result<BTreeMap<i32, Identity>> {
        let mut all = BTreeMap::new();
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for entry in fs::read_dir(self.system.proc(""))?.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            if let Some(identity) = process::identity(&self.system, pid) {
                children.entry(identity.parent).or_default().push(pid);
                all.insert(pid, identity);
            }
        }
        let mut seen = BTreeSet::new();
        let mut queue = VecDeque::from([own]);
        while let Some(pid) = queue.pop_front() {
            if seen.insert(pid) {
                queue.extend(children.get(&pid).into_iter().flatten());
            }
        }
        all.retain(|pid, _| seen.contains(pid));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, stat};
    use super::*;
    use std::io::Write;
    use std::process::{Child, Command, Stdio};

    fn names(tree: &TreeUsage) -> Vec<(i32, &str)> {
        let named = tree.processes.iter();
        named.map(|(pid, usage)| (*pid, &*usage.name)).collect()
    }

    fn family() -> Fixture {
        let fixture = Fixture::new();
        fixture.process(100, 1, "headroom", 10);
        fixture.process(1, 0, "init", 1000);
        fixture.process(101, 100, "hr-zygote", 20);
        fixture.process(102, 101, "hr:a", 30);
        fixture.process(200, 1, "stranger", 4000);
        fixture
    }

    #[test]
    fn the_tree_is_this_process_and_all_below_it() {
        let fixture = family();
        let tree = ProcessTree::new(&fixture.system()).measure().unwrap();
        let expected = [(100, "headroom"), (101, "hr-zygote"), (102, "hr:a")];
        assert_eq!(names(&tree), expected);
        assert_eq!(tree.total(), 60 << 10);
        assert_eq!(tree.own, 100);
    }

    #[test]
    fn lists_of_children_are_used_where_there_are_any() {
        let fixture = family()
            .file("proc/100/task/100/children", "")
            .file("proc/100/task/107/children", "101 9999 x ")
            .file("proc/101/task/101/children", "102 100 ");
        // The parents would say otherwise.
        fixture.process(103, 100, "not listed", 1);
        let tree = ProcessTree::new(&fixture.system()).measure().unwrap();
        let expected = [(100, "headroom"), (101, "hr-zygote"), (102, "hr:a")];
        assert_eq!(names(&tree), expected);
    }

    #[test]
    fn processes_that_are_gone_or_broken_are_left_out_and_rings_end() {
        let fixture = family()
            .file("proc/300/stat", stat(300, "gone", 100))
            .file("proc/301/stat", "garbage")
            .file("proc/302/stat", stat(302, "own parent", 302));
        fixture.process(303, 102, "deep", 1);
        fixture.process(102, 101, "hr:a", 30);
        fixture.write("proc/101/stat", stat(101, "ring", 303));
        let tree = ProcessTree::new(&fixture.system()).measure().unwrap();
        assert_eq!(names(&tree), [(100, "headroom")]);
        fixture.remove("proc/100");
        assert!(ProcessTree::new(&fixture.system()).measure().is_err());
    }

    #[test]
    fn only_what_may_have_changed_is_measured_again() {
        let fixture = family();
        let mut tree = ProcessTree::new(&fixture.system());
        tree.measure_again = Duration::MAX;
        let shares = |tree: &mut ProcessTree| {
            let processes = tree.measure().unwrap().processes;
            let shares = processes.values().map(|process| process.pss >> 10);
            shares.collect::<Vec<_>>()
        };
        let rollup = |kilobytes| format!("Pss: {kilobytes} kB\n");
        for pid in [100, 101, 102] {
            fixture.write(&format!("proc/{pid}/statm"), "900 500 300 1 0 1 0");
        }
        assert_eq!(shares(&mut tree), [10, 20, 30]);
        fixture.write("proc/101/smaps_rollup", rollup(21));
        fixture.write("proc/102/smaps_rollup", rollup(31));
        assert_eq!(shares(&mut tree), [10, 20, 30], "at rest");
        fixture.write("proc/102/statm", "900 565 300 1 0 1 0");
        assert_eq!(shares(&mut tree), [10, 20, 31], "one grew");
        fixture.process(103, 101, "hr:b", 40);
        assert_eq!(shares(&mut tree), [10, 21, 31, 40], "one came");
        // Another process under the same number.
        fixture.write("proc/103/statm", "900 500 300 1 0 1 0");
        shares(&mut tree);
        fixture.process(103, 101, "hr:c", 50);
        assert_eq!(shares(&mut tree), [10, 21, 31, 50], "one was replaced");
        fixture.write("proc/101/smaps_rollup", rollup(22));
        tree.measure_again = Duration::ZERO;
        assert_eq!(shares(&mut tree), [10, 22, 31, 50], "time passed");
    }

    /// A child that holds `bytes` until it is dropped.
    struct Hog {
        child: Child,
    }

    impl Hog {
        fn new(bytes: usize) -> Self {
            // tail keeps all it was given, since there is no line end in it, until its input ends.
            let script = format!("{{ head -c {bytes} /dev/zero; cat; }} | tail");
            let child = Command::new("sh")
                .args(["-c", &script])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            Self { child }
        }
    }

    impl Drop for Hog {
        fn drop(&mut self) {
            let mut input = self.child.stdin.take().unwrap();
            input.flush().unwrap();
            drop(input);
            self.child.wait().unwrap();
        }
    }

    #[test]
    fn a_real_childs_memory_is_seen_and_gone_when_it_is() {
        const BYTES: usize = 50 << 20;
        let mut tree = ProcessTree::new(&System::default());
        let hog = Hog::new(BYTES);
        let family = |usage: &TreeUsage, pid: i32| {
            let members = usage.processes.iter();
            let below = members.filter(|(other, usage)| **other == pid || usage.parent == pid);
            below.map(|(_, usage)| usage.pss).sum::<u64>()
        };
        let shell = i32::try_from(hog.child.id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let held = family(&tree.measure().unwrap(), shell);
            if held >= BYTES as u64 {
                assert!(held < 2 * BYTES as u64, "{held}");
                break;
            }
            assert!(
                Instant::now() < deadline,
                "only {held} bytes were ever seen"
            );
            std::thread::yield_now();
        }
        drop(hog);
        assert_eq!(family(&tree.measure().unwrap(), shell), 0);
    }

    #[test]
    fn processes_that_come_and_go_are_no_error() {
        let mut busy = Command::new("sh")
            .args(["-c", "for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5 6 7 8 9; do (:) & done; wait; done"])
            .spawn()
            .unwrap();
        let mut tree = ProcessTree::new(&System::default());
        while busy.try_wait().unwrap().is_none() {
            let usage = tree.measure().unwrap();
            assert!(usage.processes[&usage.own].pss > 0);
        }
    }
}
