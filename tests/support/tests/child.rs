//! Processes that a test starts end with the test, even when no code of the test runs any more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use headroom_test_support::child::{self, command};
use headroom_test_support::process_tree::{Process, is_alive};
use headroom_test_support::wait::{DEADLINE, wait_for, wait_until};
use nix::sys::signal::Signal;

fn wait_until_gone(pid: u32) {
    wait_until(DEADLINE, "the process has ended", || !is_alive(pid));
}

/// Starts and stops a process on a thread that then ends without cleaning up. Returns the process's id.
fn stopped_process_of_an_ended_thread(arguments: &[&str]) -> u32 {
    let mut command = command("sh");
    command.args(arguments).stdout(Stdio::piped());
    let starting = thread::spawn(move || {
        let mut child = child::start(&mut command).unwrap();
        // It writes a line once it has become the program.
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();
        let pid = child.id();
        Process::read(pid).unwrap().signal(Signal::SIGSTOP);
        std::mem::forget(child);
        pid
    });
    starting.join().unwrap()
}

#[test]
fn a_stopped_process_is_killed_when_the_thread_that_started_it_ends() {
    wait_until_gone(stopped_process_of_an_ended_thread(&[
        "-c",
        "echo; sleep 1000",
    ]));
}

#[test]
fn the_death_signal_survives_exec() {
    wait_until_gone(stopped_process_of_an_ended_thread(&[
        "-c",
        "echo; exec sleep 1000",
    ]));
}

#[test]
fn a_process_does_not_become_the_program_when_its_parent_has_ended() {
    // With another parent id in its arguments, it looks as if its parent had ended.
    let mut words: Vec<_> = command("true").get_args().map(ToOwned::to_owned).collect();
    let own_id = std::process::id().to_string();
    let id = words.iter_mut().find(|word| **word == *own_id).unwrap();
    *id = "1".into();
    let mut orphan = command("setpriv");
    let ended = child::output(orphan.args(words), DEADLINE).unwrap();
    assert!(!ended.status.success(), "{ended:?}");
}

#[test]
fn a_process_does_not_inherit_the_standard_streams() {
    let mut sleep = child::start(command("sleep").arg("1000")).unwrap();
    let pid = sleep.id();
    wait_for(DEADLINE, || {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        (name == "sleep\n").then_some(()).ok_or(name)
    });
    for stream in 0..3 {
        let target = std::fs::read_link(format!("/proc/{pid}/fd/{stream}")).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"), "stream {stream}");
    }
    assert!(sleep.try_wait().unwrap().is_none());
    drop(sleep);
    wait_until_gone(pid);
}

#[test]
fn output_is_complete_and_does_not_wait_for_a_process_that_holds_it_open() {
    let mut shell = command("sh");
    shell.args(["-c", "echo out; echo err >&2; sleep 5 & exit 3"]);
    let output = child::output(&mut shell, DEADLINE).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        (&*output.stdout, &*output.stderr),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let late = child::output(command("sleep").arg("1000"), Duration::from_millis(50));
    assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn starting_a_missing_program_fails() {
    for missing in ["no-such-program-anywhere", "/no/such/program"] {
        let error = child::start(&mut command(missing)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{missing}");
    }
}

#[test]
fn standard_input_can_be_a_pipe() {
    let mut cat = command("cat");
    cat.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut cat = child::start(&mut cat).unwrap();
    drop(cat.stdin.take());
    let mut text = String::new();
    cat.stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(cat.wait_within(DEADLINE).unwrap().unwrap().code(), Some(0));
}
