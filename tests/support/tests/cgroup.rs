//! Control groups of tests are beside that of the tests, and never stay.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headroom_test_support::cgroup::{Group, Version};
use headroom_test_support::child::{self, Child, command};
use headroom_test_support::process_tree::is_alive;
use headroom_test_support::wait::wait_for;

const LIMIT: u64 = 64 << 20;

const DEADLINE: Duration = Duration::from_secs(10);

fn folder(group: &Group) -> PathBuf {
    group.path("cgroup.procs").parent().unwrap().to_owned()
}

/// A process in the group at `folder`.
fn member(folder: &Path) -> Child {
    let sleep = child::start(command("sleep").arg("1000")).unwrap();
    fs::write(folder.join("cgroup.procs"), sleep.id().to_string()).unwrap();
    sleep
}

/// What the name of a group says of the process that made it.
fn made_by(folder: &Path, pid: u32, started: u64) -> PathBuf {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let mut words: Vec<_> = name.splitn(6, '-').map(ToOwned::to_owned).collect();
    (words[3], words[4]) = (pid.to_string(), started.to_string());
    folder.with_file_name(words.join("-"))
}

#[test]
fn a_group_is_not_below_that_of_the_tests() {
    let Some(group) = Group::new("beside", LIMIT) else {
        return;
    };
    let depth = match group.version() {
        Version::V1 => "/sys/fs/cgroup/memory".split('/').count() + 1,
        Version::V2 => "/sys/fs/cgroup/headroom-tests".split('/').count() + 1,
    };
    assert_eq!(folder(&group).to_str().unwrap().split('/').count(), depth);
}

#[test]
fn a_group_goes_with_all_that_is_in_it_also_when_its_test_fails() {
    for panics in [false, true] {
        let Some(group) = Group::new("dropped", LIMIT) else {
            return;
        };
        let folder = folder(&group);
        let mut member = member(&folder);
        let test = std::thread::spawn(move || {
            let _group = group;
            assert!(!panics, "as a test that fails");
        });
        assert_eq!(test.join().is_err(), panics);
        assert!(!folder.exists());
        assert!(member.wait_within(DEADLINE).unwrap().is_some());
    }
}

#[test]
fn the_group_of_a_killed_test_is_removed_by_the_next_and_no_other_is() {
    let Some(group) = Group::new("next", LIMIT) else {
        return;
    };
    let ours = folder(&group);
    // Its maker is gone; its maker's id is in use again; its maker runs.
    let mut maker = child::start(command("sleep").arg("1000")).unwrap();
    let runs = made_by(
        &ours,
        maker.id(),
        headroom_test_support::process_tree::started(maker.id()).unwrap(),
    );
    let reused = made_by(&ours, maker.id(), 1);
    let mut gone = child::start(&mut command("true")).unwrap();
    gone.wait_within(DEADLINE).unwrap();
    let gone = made_by(&ours, gone.id(), 1);
    for folder in [&runs, &reused, &gone] {
        fs::create_dir(folder).unwrap();
    }
    let (kept, killed) = (member(&runs), member(&gone));

    drop(Group::new("sweeps", LIMIT));
    assert!(!reused.exists() && !gone.exists());
    assert!(!is_alive(killed.id()));
    assert!(runs.exists() && ours.exists());
    assert!(is_alive(kept.id()));

    maker.kill().unwrap();
    maker.wait().unwrap();
    // Other tests that make a group may remove it first.
    drop(Group::new("sweeps", LIMIT));
    wait_for(DEADLINE, || {
        (!runs.exists()).then_some(()).ok_or("still there")
    });
}
