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
fn the_tree_is_this_process_and_all_its_descendants() {
    let fixture = family();
    let tree = ProcessTree::new(&fixture.system()).read().unwrap();
    let expected = [(100, "headroom"), (101, "hr-zygote"), (102, "hr:a")];
    assert_eq!(names(&tree), expected);
    assert_eq!(tree.total(), 60 << 10);
    assert_eq!(tree.own, 100);
}

#[test]
fn ended_and_malformed_processes_are_left_out_and_cycles_end() {
    let fixture = family()
        .file("proc/300/stat", stat(300, "gone", 100))
        .file("proc/301/stat", "garbage")
        .file("proc/302/stat", stat(302, "own parent", 302));
    fixture.process(303, 102, "deep", 1);
    fixture.process(102, 101, "hr:a", 30);
    fixture.write("proc/101/stat", stat(101, "cycle", 303));
    let tree = ProcessTree::new(&fixture.system()).read().unwrap();
    assert_eq!(names(&tree), [(100, "headroom")]);
    fixture.remove("proc/100");
    assert!(ProcessTree::new(&fixture.system()).read().is_err());
}

/// The PSS of all processes, in KiB.
fn shares(tree: &mut ProcessTree) -> Vec<u64> {
    let processes = tree.read().unwrap().processes;
    processes
        .values()
        .map(|process| process.pss >> 10)
        .collect()
}

/// Sets the PSS of a process, in KiB, and its stat file.
fn set(fixture: &Fixture, pid: i32, share: u64, stat: TestStat) {
    let parents = [(100, 1), (101, 100), (102, 101), (103, 101)];
    let (_, parent) = parents.into_iter().find(|(own, _)| *own == pid).unwrap();
    fixture.write(
        &format!("proc/{pid}/smaps_rollup"),
        format!("Pss: {share} kB\nAnonymous: {share} kB\n"),
    );
    let TestStat {
        name,
        faults,
        pages,
    } = stat;
    let tail = format!("0 0 0 0 0 0 0 20 0 1 0 4711 1 {pages}");
    let text = format!("{pid} ({name}) S {parent} 1 1 0 -1 0 {faults} {tail}\n");
    fixture.write(&format!("proc/{pid}/stat"), text);
}

#[derive(Clone, Copy)]
struct TestStat {
    name: &'static str,
    faults: u64,
    pages: u64,
}

const REST: TestStat = TestStat {
    name: "a",
    faults: 1000,
    pages: 500,
};

/// Processes of 10, 20 and 30 KiB at rest, and a tree that measures nothing because of time alone.
fn at_rest() -> (Fixture, ProcessTree) {
    let fixture = family();
    for (pid, share) in [(100, 10), (101, 20), (102, 30)] {
        set(&fixture, pid, share, REST);
    }
    let mut tree = ProcessTree::new(&fixture.system());
    tree.pace = Pace {
        time_slice: Duration::MAX,
        routine_slice: Duration::MAX,
        after_faults: Duration::MAX,
        at_rest: Duration::MAX,
    };
    assert_eq!(shares(&mut tree), [10, 20, 30]);
    (fixture, tree)
}

#[test]
fn only_processes_that_may_have_changed_are_measured_again() {
    let (fixture, mut tree) = at_rest();
    set(&fixture, 101, 21, REST);
    let grown = TestStat { pages: 565, ..REST };
    set(&fixture, 102, 31, TestStat { pages: 564, ..REST });
    assert_eq!(shares(&mut tree), [10, 20, 30], "at rest");
    set(&fixture, 102, 31, grown);
    assert_eq!(shares(&mut tree), [10, 20, 31], "one grew");
    set(&fixture, 103, 40, REST);
    assert_eq!(shares(&mut tree), [10, 21, 31, 40], "one came");
    // Another process with the same number.
    set(&fixture, 103, 50, TestStat { name: "b", ..REST });
    assert_eq!(shares(&mut tree), [10, 21, 31, 50], "one was replaced");
    set(
        &fixture,
        101,
        22,
        TestStat {
            faults: 1065,
            ..REST
        },
    );
    assert_eq!(
        shares(&mut tree),
        [10, 21, 31, 50],
        "faults, but measured a moment ago"
    );
    tree.pace.after_faults = Duration::ZERO;
    assert_eq!(shares(&mut tree), [10, 22, 31, 50], "it took faults");
    set(&fixture, 102, 32, grown);
    tree.pace.at_rest = Duration::ZERO;
    assert_eq!(shares(&mut tree), [10, 22, 32, 50], "time passed");
}

#[test]
fn one_reading_measures_for_a_time_slice_and_estimates_the_other_processes() {
    let (fixture, mut tree) = at_rest();
    tree.pace.time_slice = Duration::ZERO;
    let status = "VmRSS: 90 kB\nRssAnon: 70 kB\n";
    for (pid, share) in [(100, 15), (101, 25), (102, 35)] {
        set(&fixture, pid, share, TestStat { pages: 900, ..REST });
        fixture.write(&format!("proc/{pid}/status"), status);
    }
    set(&fixture, 103, 45, REST);
    // First the new process, then the one with the oldest measurement. The others are estimated by
    // the growth of their anonymous memory.
    assert_eq!(shares(&mut tree), [80 - 10, 70, 70, 45]);
    assert_eq!(tree.read().unwrap().estimated(), 2);
    assert_eq!(shares(&mut tree), [15, 25, 70, 45]);
    assert_eq!(shares(&mut tree), [15, 25, 35, 45]);
    // Only stale measurements are left; they are renewed one at a time as well.
    let estimated: Vec<_> = (0..4).map(|_| tree.read().unwrap().estimated()).collect();
    assert_eq!(estimated, [0; 4]);
    set(&fixture, 101, 26, TestStat { pages: 900, ..REST });
    fixture.remove("proc/103");
    let turn = (0..4).find(|_| shares(&mut tree) == [15, 26, 35]);
    assert!(turn.is_some(), "every process has its turn");
}

/// A child process that holds memory until it is dropped.
struct MemoryHog {
    child: Child,
}

impl MemoryHog {
    fn new(bytes: usize) -> Self {
        // tail keeps its input until the input ends, since it contains no line end.
        let script = format!("{{ head -c {bytes} /dev/zero; cat; }} | tail");
        let mut shell = child::command("sh");
        shell.args(["-c", &script]).stdin(Stdio::piped());
        Self {
            child: child::start(&mut shell).unwrap(),
        }
    }
}

impl Drop for MemoryHog {
    fn drop(&mut self) {
        let mut input = self.child.stdin.take().unwrap();
        input.flush().unwrap();
        drop(input);
        let ended = self.child.wait_within(Duration::from_secs(20)).unwrap();
        assert!(ended.is_some(), "the process did not end with its input");
    }
}

#[test]
fn the_memory_of_a_real_child_counts_until_the_child_ends() {
    const BYTES: usize = 50 << 20;
    let mut tree = ProcessTree::new(&System::default());
    let hog = MemoryHog::new(BYTES);
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
            "the reading shows only {held} bytes"
        );
        std::thread::yield_now();
    }
    drop(hog);
    assert_eq!(family(&tree.read().unwrap(), shell), 0);
}

#[test]
fn processes_that_start_and_end_meanwhile_are_no_error() {
    let come_and_go = "for i in 1 2 3 4 5 6 7 8 9; do \
                       for j in 1 2 3 4 5 6 7 8 9; do (:) & done; wait; done";
    let mut busy = child::start(child::command("sh").args(["-c", come_and_go])).unwrap();
    let mut tree = ProcessTree::new(&System::default());
    while busy.try_wait().unwrap().is_none() {
        let usage = tree.read().unwrap();
        assert!(usage.processes[&usage.own].pss > 0);
    }
}
