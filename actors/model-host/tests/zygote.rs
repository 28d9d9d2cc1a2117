//! The zygote with the real protocol: forks, exits of children, the exit of the zygote.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(missing_docs)]

#[allow(dead_code)] // Each test binary uses another part.
mod owner;

use std::{fs, io::Read, os::unix::process::ExitStatusExt};

use headroom_model_protocol::*;
use headroom_test_support::{process_tree::is_alive, torchscript};
use nix::sys::signal::Signal;
use owner::*;

fn ready(host: &mut Host, start: Start) -> LoadedModel {
    match host.start(start) {
        HostReply::Ready(ready) => ready,
        reply => panic!("not ready: {reply:?}"),
    }
}

fn status(pid: i32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.unwrap().trim().to_owned()
}

#[test]
fn forks_hosts_that_serve_and_stays_single_threaded() {
    let mut zygote = Zygote::spawn();
    assert_eq!(status(zygote.pid, "Threads"), "1");
    let mut hosts: Vec<_> = (0..4).map(|_| zygote.fork()).collect();
    let mut answers = Vec::new();
    for (host, pid, _log) in &mut hosts {
        ready(host, sample_start());
        answers.push(
            (0..5)
                .map(|index| host.speech_probability(&chunk(index), false))
                .collect::<Vec<_>>(),
        );
        assert_eq!(
            fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(),
            "hr:silero-vad\n"
        );
    }
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert_eq!(status(zygote.pid, "Threads"), "1");
    assert_eq!(
        fs::read_to_string(format!("/proc/{}/comm", zygote.pid)).unwrap(),
        "hr-zygote\n"
    );
}

#[test]
fn a_child_computes_with_two_threads() {
    let (_folder, path) = model(torchscript::threads);
    let mut zygote = Zygote::spawn();
    for _ in 0..3 {
        let (mut host, pid, _log) = zygote.fork();
        let start = Start {
            threads: 2,
            ..Start::new("threads", &path)
        };
        ready(&mut host, start);
        let before: u32 = status(pid, "Threads").parse().unwrap();
        let side = 400;
        let x = TensorData::floats(&[side, side], &vec![0.001; (side * side) as usize]);
        for _ in 0..3 {
            assert_eq!(host.run(&x).shape, [side, side]);
        }
        let after: u32 = status(pid, "Threads").parse().unwrap();
        assert_eq!(after, before + 1, "the multiplication ran on one thread");
    }
    assert_eq!(status(zygote.pid, "Threads"), "1");
}

#[test]
fn ends_are_reported_as_they_were() {
    let (_folder, path) = model(torchscript::crashes);
    let mut zygote = Zygote::spawn();

    let (mut stopped, stopped_pid, _log) = zygote.fork();
    ready(&mut stopped, Start::new("echo", &path));
    stopped.socket.send(&HostRequest::Stop, &[]);
    assert_eq!(zygote.exit_of(stopped_pid).code(), Some(0));

    let (mut crashed, crashed_pid, _log) = zygote.fork();
    ready(&mut crashed, Start::new("crashes", &path));
    crashed.send_infer(&[Arg::Tensor(&TensorData::floats(&[1], &[1.]))], &[], false);
    assert_eq!(
        zygote.exit_of(crashed_pid).signal(),
        Some(Signal::SIGSEGV as i32)
    );

    let (_killed, killed_pid, _log) = zygote.fork();
    signal(killed_pid, Signal::SIGKILL);
    assert_eq!(
        zygote.exit_of(killed_pid).signal(),
        Some(Signal::SIGKILL as i32)
    );

    let (mut refused, refused_pid, _log) = zygote.fork();
    let reply = refused.start(Start::new("none", "/dev/null"));
    assert!(
        matches!(
            reply,
            HostReply::StartFailed(Failure {
                kind: FailureKind::Unreadable,
                ..
            })
        ),
        "{reply:?}"
    );
    assert_eq!(zygote.exit_of(refused_pid).code(), Some(65));

    let (abandoned, abandoned_pid, _log) = zygote.fork();
    drop(abandoned);
    assert_eq!(zygote.exit_of(abandoned_pid).code(), Some(0));
}

#[test]
fn hosts_die_with_a_killed_zygote() {
    let (_folder, path) = model(torchscript::hangs);
    let mut zygote = Zygote::spawn();
    let mut hosts: Vec<_> = (0..3).map(|_| zygote.fork()).collect();
    for (host, _, _) in &mut hosts {
        ready(host, Start::new("hangs", &path));
    }
    // One is busy, one idle, one stopped.
    hosts[0]
        .0
        .send_infer(&[Arg::Tensor(&TensorData::floats(&[1], &[1.]))], &[], false);
    signal(hosts[2].1, Signal::SIGSTOP);
    signal(zygote.pid, Signal::SIGKILL);
    for (_, pid, _) in &hosts {
        wait_for("a host to die", || !is_alive(pid.cast_unsigned()));
    }
}

#[test]
fn everything_ends_when_the_server_is_gone() {
    let (_folder, path) = model(torchscript::echo);
    let mut zygote = Zygote::spawn();
    let (mut host, pid, _log) = zygote.fork();
    ready(&mut host, Start::new("echo", &path));
    zygote
        .socket
        .stream
        .shutdown(std::net::Shutdown::Both)
        .unwrap();
    assert_eq!(zygote.process.wait().code(), Some(0));
    wait_for("the host to die", || !is_alive(pid.cast_unsigned()));
}

#[test]
fn a_child_holds_nothing_of_its_siblings() {
    let (_folder, path) = model(torchscript::echo);
    let mut zygote = Zygote::spawn();
    let (mut first, first_pid, _first_log) = zygote.fork();
    let (mut second, second_pid, _second_log) = zygote.fork();
    ready(&mut second, Start::new("echo", &path));
    let sockets = |pid: i32| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let mut links: Vec<String> = links
            .map(|link| link.to_string_lossy().into_owned())
            .collect();
        links.retain(|link| link.starts_with("socket:") || link.starts_with("anon_inode:"));
        links.sort();
        links.dedup();
        links
    };
    assert_eq!(sockets(second_pid).len(), 1, "{:?}", sockets(second_pid));
    assert_eq!(sockets(zygote.pid).len(), 2, "{:?}", sockets(zygote.pid));
    // A zygote that kept a child's end would keep the child's owner from seeing its end.
    signal(first_pid, Signal::SIGKILL);
    assert_eq!(first.socket.receive(), None);
    // Its own group, so that a terminal's Ctrl-C does not reach it.
    let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(second_pid))).unwrap();
    assert_eq!(group.as_raw(), second_pid);
}

#[test]
fn what_a_host_prints_goes_to_its_log() {
    let mut zygote = Zygote::spawn();
    let (mut host, pid, mut log) = zygote.fork();
    host.socket.send(&HostRequest::Stop, &[]);
    assert_eq!(zygote.exit_of(pid).code(), Some(76));
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert_eq!(
        text,
        "the host cannot start: the first request is not a start\n"
    );
}

#[test]
fn hosts_are_ended_before_the_server_when_memory_runs_out() {
    let (_folder, path) = model(torchscript::echo);
    let mut zygote = Zygote::spawn();
    let (mut host, pid, _log) = zygote.fork();
    ready(&mut host, Start::new("echo", &path));
    assert_eq!(
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))
            .unwrap()
            .trim(),
        "800"
    );
}

#[test]
fn a_load_that_takes_more_than_it_may_fails_and_not_the_machine() {
    let (_folder, path) = model(|path| torchscript::weights(path, 64 << 20));
    let mut zygote = Zygote::spawn();
    let (mut host, pid, _log) = zygote.fork();
    let reply = host.start(Start {
        own_max: Some(32 << 20),
        ..Start::new("weights", &path)
    });
    let HostReply::StartFailed(failure) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(failure.kind, FailureKind::OutOfMemory);
    assert_eq!(zygote.exit_of(pid).code(), Some(65));
}

#[test]
fn unknown_arguments_are_refused_in_one_line() {
    for arguments in [&[][..], &["--frob"], &["--check"], &["--zygote", "x"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(64));
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
    }
    let output = run(&["--zygote"]);
    assert_eq!(output.status.code(), Some(76));
}
