//! Control groups of tests are outside the tests' own group, and are always removed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use headroom_test_support::cgroup::{Group, Version};
use headroom_test_support::child::{self, Child, command};
use headroom_test_support::process_tree::{Process, is_alive};
use headroom_test_support::wait::{DEADLINE, wait_until};

const LIMIT: u64 = 64 << 20;

fn folder(group: &Group) -> PathBuf {
    group.path("cgroup.procs").parent().unwrap().to_owned()
}

/// Starts a process in the group at `folder`.
fn start_member(folder: &Path) -> Child {
    let sleep = child::start(command("sleep").arg("1000")).unwrap();
    fs::write(folder.join("cgroup.procs"), sleep.id().to_string()).unwrap();
    sleep
}

/// The folder of a group whose name says that this process made it.
fn folder_of_maker(folder: &Path, pid: u32, started: u64) -> PathBuf {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let mut words: Vec<_> = name.splitn(6, '-').map(ToOwned::to_owned).collect();
    (words[3], words[4]) = (pid.to_string(), started.to_string());
    folder.with_file_name(words.join("-"))
}

#[test]
fn a_group_is_not_below_the_group_of_the_tests() {
    let Some(group) = Group::new("depth", LIMIT) else {
        return;
    };
    let depth = match group.version() {
        Version::V1 => "/sys/fs/cgroup/memory".split('/').count() + 1,
        Version::V2 => "/sys/fs/cgroup/headroom-tests".split('/').count() + 1,
    };
    assert_eq!(folder(&group).to_str().unwrap().split('/').count(), depth);
}

#[test]
fn dropping_a_group_kills_its_processes_and_removes_it_even_when_the_test_fails() {
    for panics in [false, true] {
        let Some(group) = Group::new("dropped", LIMIT) else {
            return;
        };
        let folder = folder(&group);
        let mut member = start_member(&folder);
        let test = std::thread::spawn(move || {
            let _group = group;
            assert!(!panics, "a test that fails");
        });
        assert_eq!(test.join().is_err(), panics);
        assert!(!folder.exists());
        assert!(member.wait_within(DEADLINE).unwrap().is_some());
    }
}

#[test]
fn the_next_test_removes_groups_of_killed_tests_and_no_others() {
    let Some(group) = Group::new("next", LIMIT) else {
        return;
    };
    let own = folder(&group);
    // The makers of the three groups: one runs, one has ended and its id is reused, one has ended.
    let mut maker = child::start(command("sleep").arg("1000")).unwrap();
    let runs = folder_of_maker(&own, maker.id(), Process::read(maker.id()).unwrap().started);
    let reused = folder_of_maker(&own, maker.id(), 1);
    let mut ended = child::start(&mut command("true")).unwrap();
    ended.wait_within(DEADLINE).unwrap();
    let ended = folder_of_maker(&own, ended.id(), 1);
    for folder in [&runs, &reused, &ended] {
        fs::create_dir(folder).unwrap();
    }
    let (kept, killed) = (start_member(&runs), start_member(&ended));

    drop(Group::new("next-group", LIMIT));
    assert!(!reused.exists() && !ended.exists());
    assert!(!is_alive(killed.id()));
    assert!(runs.exists() && own.exists());
    assert!(is_alive(kept.id()));

    maker.kill().unwrap();
    maker.wait().unwrap();
    // Other tests that make a group may remove it first.
    drop(Group::new("next-group", LIMIT));
    wait_until(DEADLINE, "the group is removed", || !runs.exists());
}
