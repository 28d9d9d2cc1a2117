//! The shell functions of scripts/setup, killed during their work: no lock and no temporary change stays. And what
//! scripts/run.sh says if nothing is built.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use headroom_test_support::child::{self, Child};
use headroom_test_support::wait::{DEADLINE, wait_until};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A shell with the functions of scripts/setup. Its cache and its policy file are in `folder`.
fn shell(folder: &Path, script: &str) -> std::process::Command {
    let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/setup");
    let script = format!(
        "set -euo pipefail\n. '{0}/base.sh'\n. '{0}/servers.sh'\n\
         POLICY=$PWD/policy-rc.d POLICY_KEPT=$POLICY.kept\n\
         have() {{ true; }}; can_install() {{ true; }}; as_root() {{ \"$@\"; }}\n{script}",
        setup.display()
    );
    let mut bash = child::command("bash");
    bash.args(["-c", &script])
        .env("HEADROOM_CACHE", folder)
        .current_dir(folder);
    bash.process_group(0);
    bash
}

fn start(folder: &TempDir, script: &str) -> Child {
    let log = fs::File::create(folder.path().join("log")).unwrap();
    child::start(shell(folder.path(), script).stderr(log)).unwrap()
}

fn kill_group(mut leader: Child) {
    killpg(Pid::from_raw(leader.id().cast_signed()), Signal::SIGKILL).unwrap();
    leader.wait_within(DEADLINE).unwrap();
}

#[test]
fn services_may_start_again_once_a_killed_installation_has_ended() {
    for before in [None, Some("#!/bin/sh\nexit 104\n")] {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy-rc.d");
        if let Some(before) = before {
            fs::write(&policy, before).unwrap();
        }
        // The installation survives the kill, since it must not end half-way.
        let script =
            "apt_install() { bounded 100 sh -c 'touch installing; sleep 2'; }; install_idle x";
        let setup = start(&folder, script);
        wait_until(DEADLINE, "the installation runs", || {
            folder.path().join("installing").exists()
        });
        assert!(
            fs::read_to_string(&policy)
                .unwrap()
                .contains("put here by Headroom")
        );
        kill_group(setup);
        assert!(
            policy.exists(),
            "services could start during the installation"
        );
        wait_until(DEADLINE, "the policy is restored", || {
            fs::read_to_string(&policy).ok().as_deref() == before
        });
    }
}

#[test]
fn services_may_start_again_after_an_installation_that_failed() {
    let folder = tempfile::tempdir().unwrap();
    let script = "apt_install() { [ -x $POLICY ] && touch forbidden; false; }; install_idle x || \
                  { [ ! -e $POLICY ] && touch restored; }";
    let output = child::output(&mut shell(folder.path(), script), DEADLINE).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(folder.path().join("forbidden").exists());
    assert!(folder.path().join("restored").exists());
}

#[test]
fn a_killed_setup_does_not_block_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let setup = start(
        &folder,
        "open_work; bounded 100 sh -c 'touch working; sleep 3'",
    );
    wait_until(DEADLINE, "the setup holds the lock", || {
        folder.path().join("working").exists()
    });
    kill_group(setup);
    // A command that the killed setup has started still runs.
    let next = child::output(
        &mut shell(folder.path(), "LOCK_WAIT=1; open_work"),
        DEADLINE,
    );
    let next = next.unwrap();
    assert!(next.status.success(), "{next:?}");
}

#[test]
fn a_setup_waits_for_another_one_for_a_limited_time() {
    let folder = tempfile::tempdir().unwrap();
    let setup = start(&folder, "open_work; touch working; sleep 100");
    wait_until(DEADLINE, "the setup holds the lock", || {
        folder.path().join("working").exists()
    });
    let next = child::output(
        &mut shell(folder.path(), "LOCK_WAIT=1; open_work"),
        DEADLINE,
    );
    let next = next.unwrap();
    let text = String::from_utf8(next.stderr).unwrap();
    assert!(
        !next.status.success() && text.contains("another setup"),
        "{text}"
    );
    kill_group(setup);
}

#[test]
fn bounded_commands_get_no_input_and_end_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let script = "bounded 20 cat; bounded 1 sleep 100 || echo \"ended with $?\"";
    let mut bash = shell(folder.path(), script);
    // An open pipe to which nothing is written.
    let (input, _held) = std::io::pipe().unwrap();
    let output = child::output(bash.stdin(input), DEADLINE).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("no end within 1 s: sleep 100"), "{text}");
    assert!(text.contains("ended with 124"), "{text}");
}

#[test]
fn a_checkout_that_is_not_built_is_told_what_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/run.sh");
    let mut run = child::command(script);
    run.env("CARGO_TARGET_DIR", folder.path())
        .env("HEADROOM_CACHE", folder.path());
    let output = child::output(&mut run, DEADLINE).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("release/headroom is missing"), "{text}");
    assert!(text.contains("run 'make run'"), "{text}");
    assert_eq!(output.stdout, b"");
}
