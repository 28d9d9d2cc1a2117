//! What a process and all its descendants use.
//!
//! The sum of proportional shares counts every page once, however the processes share it: libtorch
//! mapped by ten hosts is counted as one libtorch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::process::{self, ProcessUsage, Vitals};
use super::{Probe, ProbeError, Source, System, read_text};

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
    /// How many processes could only be estimated.
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

/// What a look at the tree may cost, and how old what it says may be.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Time for measuring processes within one look. What does not fit is estimated until its turn
    /// comes; at least one is measured each time.
    slice: Duration,
    /// Part of it for those of which nothing says that they changed.
    routine: Duration,
    /// A process that only took page faults is measured again after this time.
    moved: Duration,
    /// One that did not even do that, after this time.
    still: Duration,
    /// The children of a process are listed again after this time, or when it took a page fault: a
    /// fork cannot be without one, a `vfork` can.
    listed: Duration,
}

const PACE: Pace = Pace {
    slice: Duration::from_millis(20),
    routine: Duration::from_millis(1),
    moved: Duration::from_secs(1),
    still: Duration::from_secs(30),
    listed: Duration::from_secs(5),
};

/// A process whose resident pages changed by more than this is measured again at once. The kernel
/// counts them per processor and tells the sum only roughly.
const PAGES_CHANGED: u64 = 64;

/// Faster changes than this many pages count as none until [`Pace::still`] has passed.
const FAULTS_CHANGED: u64 = 64;

/// Reads the processes of a tree.
///
/// Measuring a process costs in proportion to its pages (15 ms for each GiB), so one at rest is
/// not measured each time, and one look at the tree measures no more than fits into a slice of
/// time. All are measured again when any process came or went, since that changes what the others
/// share.
#[derive(Debug)]
pub(in crate::memory) struct ProcessTree {
    system: System,
    /// Who was in the tree at the last look.
    members: BTreeSet<i32>,
    known: BTreeMap<i32, Known>,
    listed: BTreeMap<i32, Listed>,
    pace: Pace,
}

/// What was last measured of one process.
#[derive(Debug)]
struct Known {
    vitals: Vitals,
    usage: ProcessUsage,
    at: Instant,
    /// Processes came or went since.
    is_stale: bool,
}

/// The children of a process, as they were last listed.
#[derive(Debug)]
struct Listed {
    vitals: Vitals,
    at: Instant,
    children: Vec<i32>,
}

/// Why a process is to be measured, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    New,
    Changed,
    Stale,
    Routine,
}

impl ProcessTree {
    pub(in crate::memory) fn new(system: &System) -> Self {
        Self {
            system: system.clone(),
            members: BTreeSet::new(),
            known: BTreeMap::new(),
            listed: BTreeMap::new(),
            pace: PACE,
        }
    }

    fn look(&mut self) -> Result<TreeUsage, ProbeError> {
        let own = self.system.pid().ok_or(ProbeError::NoProcess)?;
        let members = match self.by_children(own) {
            Some(members) => members,
            None => self.by_parents(own)?,
        };
        self.notice(&members);
        let began = Instant::now();
        self.measure_due(&members, began);
        let told = members.iter().filter_map(|(pid, vitals)| {
            let usage = self.told(*pid, vitals, began)?;
            Some((*pid, usage))
        });
        let processes: BTreeMap<_, _> = told.collect();
        if !processes.contains_key(&own) {
            return Err(ProbeError::NoProcess);
        }
        Ok(TreeUsage {
            own,
            processes,
            shared_files: 0,
        })
    }

    /// Takes note of who came and went.
    fn notice(&mut self, members: &BTreeMap<i32, Vitals>) {
        self.listed.retain(|pid, _| members.contains_key(pid));
        self.known.retain(|pid, known| {
            let same = members.get(pid);
            same.is_some_and(|vitals| vitals.identity == known.vitals.identity)
        });
        if !self.members.iter().eq(members.keys()) || self.known.len() != members.len() {
            self.members = members.keys().copied().collect();
            for known in self.known.values_mut() {
                known.is_stale = true;
            }
        }
    }

    /// Measures as many processes as the slice of time allows, the most urgent and of these the
    /// longest known first.
    fn measure_due(&mut self, members: &BTreeMap<i32, Vitals>, began: Instant) {
        let due = members.iter().filter_map(|(pid, vitals)| {
            let known = self.known.get(pid);
            let due = self.due(vitals, known)?;
            Some((due, known.map(|known| known.at), *pid))
        });
        let mut due: Vec<_> = due.collect();
        due.sort_unstable();
        for (turn, (due, _, pid)) in due.into_iter().enumerate() {
            let slice = match due {
                Due::Routine => self.pace.routine,
                Due::New | Due::Changed | Due::Stale => self.pace.slice,
            };
            if turn > 0 && began.elapsed() >= slice {
                return;
            }
            let vitals = &members[&pid];
            let measured = process::measure(&self.system, pid, &vitals.identity);
            match measured {
                Some(usage) => {
                    let known = Known {
                        vitals: vitals.clone(),
                        usage,
                        at: Instant::now(),
                        is_stale: false,
                    };
                    self.known.insert(pid, known);
                }
                None => {
                    self.known.remove(&pid);
                }
            }
        }
    }

    /// Whether and why a process is to be measured now.
    fn due(&self, vitals: &Vitals, known: Option<&Known>) -> Option<Due> {
        let Some(known) = known else {
            return Some(Due::New);
        };
        if known.has_changed(vitals) {
            return Some(Due::Changed);
        }
        let age = known.at.elapsed();
        let faults = known.vitals.faults.abs_diff(vitals.faults);
        if faults > FAULTS_CHANGED && age >= self.pace.moved {
            return Some(Due::Changed);
        }
        if known.is_stale {
            return Some(Due::Stale);
        }
        (age >= self.pace.still).then_some(Due::Routine)
    }

    /// What is told of a process: what was measured, unless that holds no longer.
    fn told(&self, pid: i32, vitals: &Vitals, began: Instant) -> Option<ProcessUsage> {
        let known = self.known.get(&pid);
        if let Some(known) = known
            && (known.at >= began || !known.has_changed(vitals))
        {
            return Some(known.usage.clone());
        }
        let before = known.map(|known| &known.usage);
        process::estimate(&self.system, pid, &vitals.identity, before)
    }

    /// Walks down by the lists of children. `None` where the kernel was built without them.
    fn by_children(&mut self, own: i32) -> Option<BTreeMap<i32, Vitals>> {
        let list = self.system.proc(&format!("{own}/task/{own}/children"));
        fs::metadata(list).ok()?;
        let mut members = BTreeMap::new();
        let mut queue = VecDeque::from([own]);
        while let Some(pid) = queue.pop_front() {
            if members.contains_key(&pid) {
                continue;
            }
            let Some(vitals) = process::vitals(&self.system, pid) else {
                continue;
            };
            if !self.is_listed(pid, &vitals) {
                let listed = Listed {
                    children: self.children(pid, vitals.threads),
                    vitals: vitals.clone(),
                    at: Instant::now(),
                };
                self.listed.insert(pid, listed);
            }
            let listed = self.listed.get(&pid);
            queue.extend(listed.iter().flat_map(|listed| &listed.children));
            members.insert(pid, vitals);
        }
        Some(members)
    }

    /// Whether the children of a process were listed, and it can hardly have made any since.
    fn is_listed(&self, pid: i32, vitals: &Vitals) -> bool {
        self.listed.get(&pid).is_some_and(|known| {
            known.at.elapsed() < self.pace.listed
                && known.vitals.identity == vitals.identity
                && known.vitals.faults == vitals.faults
                // Without this number the kernel may be telling no faults either.
                && vitals.pages.is_some()
        })
    }

    /// The children of a process: every thread has a list of those that it made.
    fn children(&self, pid: i32, threads: u64) -> Vec<i32> {
        let of_thread = |path: &Path| {
            let children = read_text(&path.join("children")).unwrap_or_default();
            let children = children.split_ascii_whitespace();
            children
                .filter_map(|child| child.parse().ok())
                .collect::<Vec<i32>>()
        };
        let tasks = self.system.proc(&format!("{pid}/task"));
        if threads == 1 {
            return of_thread(&tasks.join(pid.to_string()));
        }
        let Ok(threads) = fs::read_dir(tasks) else {
            return Vec::new();
        };
        let threads = threads.flatten();
        threads
            .flat_map(|thread| of_thread(&thread.path()))
            .collect()
    }

    /// Asks every process for its parent.
    fn by_parents(&self, own: i32) -> Result<BTreeMap<i32, Vitals>, ProbeError> {
        let mut all = BTreeMap::new();
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        let processes = self.system.proc("");
        let entries =
            fs::read_dir(&processes).map_err(|error| ProbeError::unreadable(&processes, &error))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            if let Some(vitals) = process::vitals(&self.system, pid) {
                let parent = vitals.identity.parent;
                children.entry(parent).or_default().push(pid);
                all.insert(pid, vitals);
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

impl Known {
    /// Whether the process has grown or shrunk, as far as the kernel tells.
    fn has_changed(&self, vitals: &Vitals) -> bool {
        let changed = self.vitals.pages.zip(vitals.pages);
        changed.is_none_or(|(then, now)| then.abs_diff(now) > PAGES_CHANGED)
    }
}

impl Probe for ProcessTree {
    type Value = TreeUsage;

    const SOURCE: Source = Source::Processes;

    /// The tree without the shared files. Processes that end meanwhile are left out. Fails only
    /// when not even the process at its root can be read.
    fn read(&mut self) -> Result<TreeUsage, ProbeError> {
        self.look()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, stat};
    use super::*;
    use headroom_test_support::child::{self, Child};
    use std::io::Write;
    use std::process::Stdio;

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
        let tree = ProcessTree::new(&fixture.system()).read().unwrap();
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
            .file(
                "proc/100/stat",
                "100 (headroom) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 2 0 4711\n",
            )
            .file("proc/101/task/101/children", "102 100 ");
        // The parents would say otherwise.
        fixture.process(103, 100, "not listed", 1);
        let tree = ProcessTree::new(&fixture.system()).read().unwrap();
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
        let tree = ProcessTree::new(&fixture.system()).read().unwrap();
        assert_eq!(names(&tree), [(100, "headroom")]);
        fixture.remove("proc/100");
        assert!(ProcessTree::new(&fixture.system()).read().is_err());
    }

    /// The shares of all processes, in KiB.
    fn shares(tree: &mut ProcessTree) -> Vec<u64> {
        let processes = tree.read().unwrap().processes;
        processes
            .values()
            .map(|process| process.pss >> 10)
            .collect()
    }

    /// Sets the share, in KiB, and what a look at the vitals tells.
    fn set(fixture: &Fixture, pid: i32, share: u64, vitals: Told) {
        let parents = [(100, 1), (101, 100), (102, 101), (103, 101)];
        let (_, parent) = parents.into_iter().find(|(own, _)| *own == pid).unwrap();
        fixture.write(
            &format!("proc/{pid}/smaps_rollup"),
            format!("Pss: {share} kB\nAnonymous: {share} kB\n"),
        );
        let Told {
            name,
            faults,
            pages,
        } = vitals;
        let tail = format!("0 0 0 0 0 0 0 20 0 1 0 4711 1 {pages}");
        let stat = format!("{pid} ({name}) S {parent} 1 1 0 -1 0 {faults} {tail}\n");
        fixture.write(&format!("proc/{pid}/stat"), stat);
    }

    #[derive(Clone, Copy)]
    struct Told {
        name: &'static str,
        faults: u64,
        pages: u64,
    }

    const REST: Told = Told {
        name: "a",
        faults: 1000,
        pages: 500,
    };

    /// 10, 20 and 30 KiB at rest, and a tree that measures nothing by the clock.
    fn at_rest() -> (Fixture, ProcessTree) {
        let fixture = family();
        for (pid, share) in [(100, 10), (101, 20), (102, 30)] {
            set(&fixture, pid, share, REST);
        }
        let mut tree = ProcessTree::new(&fixture.system());
        tree.pace = Pace {
            slice: Duration::MAX,
            routine: Duration::MAX,
            moved: Duration::MAX,
            still: Duration::MAX,
            listed: Duration::MAX,
        };
        assert_eq!(shares(&mut tree), [10, 20, 30]);
        (fixture, tree)
    }

    #[test]
    fn only_what_may_have_changed_is_measured_again() {
        let (fixture, mut tree) = at_rest();
        set(&fixture, 101, 21, REST);
        let grown = Told { pages: 565, ..REST };
        set(&fixture, 102, 31, Told { pages: 564, ..REST });
        assert_eq!(shares(&mut tree), [10, 20, 30], "at rest");
        set(&fixture, 102, 31, grown);
        assert_eq!(shares(&mut tree), [10, 20, 31], "one grew");
        set(&fixture, 103, 40, REST);
        assert_eq!(shares(&mut tree), [10, 21, 31, 40], "one came");
        // Another process under the same number.
        set(&fixture, 103, 50, Told { name: "b", ..REST });
        assert_eq!(shares(&mut tree), [10, 21, 31, 50], "one was replaced");
        set(
            &fixture,
            101,
            22,
            Told {
                faults: 1065,
                ..REST
            },
        );
        assert_eq!(shares(&mut tree), [10, 21, 31, 50], "a moment ago");
        tree.pace.moved = Duration::ZERO;
        assert_eq!(shares(&mut tree), [10, 22, 31, 50], "it took faults");
        set(&fixture, 102, 32, grown);
        tree.pace.still = Duration::ZERO;
        assert_eq!(shares(&mut tree), [10, 22, 32, 50], "time passed");
    }

    #[test]
    fn one_look_measures_no_more_than_its_slice_and_estimates_the_rest_until_its_turn() {
        let (fixture, mut tree) = at_rest();
        tree.pace.slice = Duration::ZERO;
        let status = "VmRSS: 90 kB\nRssAnon: 70 kB\n";
        for (pid, share) in [(100, 15), (101, 25), (102, 35)] {
            set(&fixture, pid, share, Told { pages: 900, ..REST });
            fixture.write(&format!("proc/{pid}/status"), status);
        }
        set(&fixture, 103, 45, REST);
        // The new one first, of the others the one that was measured longest ago; what the others
        // grew by is the growth of their anonymous part.
        assert_eq!(shares(&mut tree), [80 - 10, 70, 70, 45]);
        assert_eq!(tree.read().unwrap().estimated(), 2);
        assert_eq!(shares(&mut tree), [15, 25, 70, 45]);
        assert_eq!(shares(&mut tree), [15, 25, 35, 45]);
        // Nothing left but what changed only in its sharing: one at a time as well.
        let seen: Vec<_> = (0..4).map(|_| tree.read().unwrap().estimated()).collect();
        assert_eq!(seen, [0; 4]);
        set(&fixture, 101, 26, Told { pages: 900, ..REST });
        fixture.remove("proc/103");
        let turns = (0..4).find(|_| shares(&mut tree) == [15, 26, 35]);
        assert!(turns.is_some(), "everyone has a turn");
    }

    #[test]
    fn children_are_listed_again_once_their_parent_took_a_fault_or_time_passed() {
        let (fixture, mut tree) = at_rest();
        fixture.write("proc/100/task/100/children", "101 ");
        fixture.write("proc/101/task/101/children", "");
        assert_eq!(shares(&mut tree), [10, 20]);
        fixture.write("proc/101/task/101/children", "102 ");
        assert_eq!(shares(&mut tree), [10, 20]);
        set(
            &fixture,
            101,
            20,
            Told {
                faults: 1001,
                ..REST
            },
        );
        assert_eq!(shares(&mut tree), [10, 20, 30]);
        fixture.remove("proc/102");
        assert_eq!(shares(&mut tree), [10, 20], "listed, but gone");
        set(&fixture, 102, 30, REST);
        fixture.write("proc/101/task/101/children", "");
        tree.pace.listed = Duration::ZERO;
        assert_eq!(shares(&mut tree), [10, 20], "no longer listed");
    }

    /// A child that holds `bytes` until it is dropped.
    struct Hog {
        child: Child,
    }

    impl Hog {
        fn new(bytes: usize) -> Self {
            // tail keeps all it was given, since there is no line end in it, until its input ends.
            let script = format!("{{ head -c {bytes} /dev/zero; cat; }} | tail");
            let mut shell = child::command("sh");
            shell.args(["-c", &script]).stdin(Stdio::piped());
            Self {
                child: child::start(&mut shell).unwrap(),
            }
        }
    }

    impl Drop for Hog {
        fn drop(&mut self) {
            let mut input = self.child.stdin.take().unwrap();
            input.flush().unwrap();
            drop(input);
            let ended = self.child.wait_within(Duration::from_secs(20)).unwrap();
            assert!(ended.is_some(), "it ends with its input");
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
            let held = family(&tree.read().unwrap(), shell);
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
        assert_eq!(family(&tree.read().unwrap(), shell), 0);
    }

    #[test]
    fn processes_that_come_and_go_are_no_error() {
        let come_and_go = "for i in 1 2 3 4 5 6 7 8 9; do \
                           for j in 1 2 3 4 5 6 7 8 9; do (:) & done; wait; done";
        let mut busy = child::start(child::command("sh").args(["-c", come_and_go])).unwrap();
        let mut tree = ProcessTree::new(&System::default());
        while busy.try_wait().unwrap().is_none() {
            let usage = tree.read().unwrap();
            assert!(usage.processes[&usage.own].pss > 0);
        }
    }
}
