//! Real processes, in real time.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use headroom_actors::kernel::ProcessExit;
use headroom_actors::kernel::process::{Process, ProcessSpec};
use headroom_actors::kernel::testing::TestSystem;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use crate::scripted::*;

fn shell(script: &str) -> ProcessSpec {
    ProcessSpec::new("shell", "/bin/sh")
        .argument("-c")
        .argument(script)
        .ends_with_server(Signal::SIGKILL)
}

/// A process that says "ready", writes its id into a file, and then waits.
fn waiting(folder: &TempDir, before: &str) -> ProcessSpec {
    let file = folder.path().join("pid");
    let script = format!(
        "{before}; echo $$ > {file}.new; mv {file}.new {file}; echo ready; while :; do sleep 1; done",
        file = file.display()
    );
    shell(&script).ready_line("ready")
}

fn pid(folder: &TempDir, name: &str) -> i32 {
    let text = std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// The process has ended and is reaped.
fn is_gone(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

fn spawn(spec: &ProcessSpec) -> Process {
    Process::spawn(spec, Stdio::null()).unwrap()
}

async fn spawn_ready(spec: &ProcessSpec) -> Process {
    let mut process = spawn(spec);
    timeout(LONG, process.ready()).await.unwrap().unwrap();
    process
}

async fn last_lines(process: &Process, wanted: &str) -> Vec<String> {
    eventually(wanted, || {
        let lines = process.last_lines();
        lines.iter().any(|line| line.contains(wanted))
    })
    .await;
    process.last_lines()
}

#[test]
fn a_process_is_ready_when_its_line_appears() {
    TestSystem::real_time(|_| async move {
        let folder = TempDir::new().unwrap();
        let mut process = spawn_ready(&waiting(&folder, "sleep 0.2")).await;
        assert_eq!(pid(&folder, "pid"), process.pid(), "ready before its line");
        assert_eq!(process.ready().await, Ok(()), "it stays ready");
        process.stop(LONG).await;
        assert!(is_gone(process.pid()));
    });
}

#[test]
fn a_process_without_a_line_is_ready_at_once() {
    TestSystem::real_time(|_| async move {
        let mut process = spawn(&shell("exec sleep 60"));
        assert_eq!(process.ready().await, Ok(()));
        process.kill().await;
    });
}

#[test]
fn a_process_whose_line_never_appears_is_never_ready() {
    TestSystem::real_time(|_| async move {
        let folder = TempDir::new().unwrap();
        let mut process = spawn(&waiting(&folder, ":").ready_line("never"));
        last_lines(&process, "ready").await;
        let ready = timeout(SECOND / 2, process.ready()).await;
        assert!(ready.is_err(), "{ready:?}");
        let again = timeout(SECOND / 10, process.ready()).await;
        assert!(again.is_err(), "{again:?}");
        process.stop(LONG).await;
        assert!(is_gone(process.pid()));
    });
}

#[test]
fn a_process_that_ends_before_it_is_ready_returns_its_exit() {
    TestSystem::real_time(|_| async move {
        let mut process = spawn(&shell("exit 3").ready_line("ready"));
        let ready = timeout(LONG, process.ready()).await.unwrap();
        assert_eq!(ready, Err(ProcessExit::Code(3)));
        assert!(is_gone(process.pid()));
    });
}

#[test]
fn a_program_that_cannot_be_started_is_an_error() {
    TestSystem::real_time(|_| async move {
        let spec = ProcessSpec::new("ghost", "/no/such/program");
        let error = Process::spawn(&spec, Stdio::null()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    });
}

#[test]
fn a_process_that_is_killed_is_reaped_with_its_signal() {
    TestSystem::real_time(|_| async move {
        let folder = TempDir::new().unwrap();
        let mut process = spawn_ready(&waiting(&folder, ":")).await;
        kill(Pid::from_raw(process.pid()), Signal::SIGKILL).unwrap();
        let exit = timeout(LONG, process.ended()).await.unwrap();
        assert_eq!(exit, ProcessExit::Signal(Signal::SIGKILL as i32));
        assert!(is_gone(process.pid()));
    });
}

#[test]
fn a_process_is_stopped_by_its_signal() {
    TestSystem::real_time(|_| async move {
        let folder = TempDir::new().unwrap();
        let said = folder.path().join("said");
        let trap = format!("trap 'echo bye > {}; exit 0' INT", said.display());
        let spec = waiting(&folder, &trap).stop_signal(Signal::SIGINT);
        let mut process = spawn_ready(&spec).await;
        assert_eq!(process.stop(LONG).await, ProcessExit::Code(0));
        assert_eq!(std::fs::read_to_string(said).unwrap(), "bye\n");
        assert!(is_gone(process.pid()));
    });
}

#[test]
fn a_process_that_ignores_its_stop_is_killed_at_the_deadline() {
    TestSystem::real_time(|_| async move {
        let folder = TempDir::new().unwrap();
        let mut process = spawn_ready(&waiting(&folder, "trap '' TERM")).await;
        let started_at = Instant::now();
        assert_eq!(process.stop(SECOND / 2).await, ProcessExit::Signal(9));
        assert!(started_at.elapsed() >= SECOND / 2);
        assert!(is_gone(process.pid()));
    });
}

#[test]
fn the_children_of_a_process_are_killed_however_it_ends() {
    for end in ["stop", "kill", "drop", "is killed", "exits"] {
        TestSystem::real_time(move |_| async move {
            let folder = TempDir::new().unwrap();
            let file = folder.path().join("grandchild");
            // It ignores the stop, so that only the kill of the group ends it.
            let grandchild = format!(
                "sh -c 'trap \"\" TERM; echo $$ > {}; while :; do sleep 1; done' & sleep 0.2",
                file.display()
            );
            let mut process = spawn_ready(&waiting(&folder, &grandchild)).await;
            let parent = process.pid();
            eventually("a grandchild", || pid(&folder, "grandchild") > 0).await;
            let orphan = pid(&folder, "grandchild");
            assert!(!is_gone(orphan));
            match end {
                "stop" => drop(process.stop(LONG).await),
                "kill" => drop(process.kill().await),
                "drop" => drop(process),
                other => {
                    let signal = if other == "exits" {
                        Signal::SIGTERM
                    } else {
                        Signal::SIGKILL
                    };
                    kill(Pid::from_raw(parent), signal).unwrap();
                    timeout(LONG, process.ended()).await.unwrap();
                    assert!(is_gone(parent), "reaped");
                }
            }
            eventually("all are gone", || is_dead(orphan) && is_gone(parent)).await;
        });
    }
}

/// The process has ended. It may be a zombie that the init process has not reaped yet.
fn is_dead(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

#[test]
fn a_dropped_process_is_killed_and_reaped() {
    TestSystem::real_time(|_| async move {
        let process = spawn(&shell("exec sleep 60"));
        let pid = process.pid();
        assert!(!is_gone(pid));
        drop(process);
        eventually("it is reaped", || is_gone(pid)).await;
    });
}

#[test]
fn a_reaped_process_cannot_be_signalled_through_its_reference() {
    TestSystem::real_time(|_| async move {
        let mut process = spawn(&shell("exec sleep 60"));
        let process_ref = Arc::clone(process.process_ref());
        process_ref.signal(Signal::SIGKILL).unwrap();
        process_ref.ended().await.unwrap();
        // It has ended and is not reaped: a signal has no effect and is no error.
        process_ref.signal(Signal::SIGKILL).unwrap();
        let exit = process.ended().await;
        assert_eq!(exit, ProcessExit::Signal(Signal::SIGKILL as i32));
        let gone = process_ref.signal(Signal::SIGKILL).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(nix::libc::ESRCH));
    });
}

#[test]
fn the_output_is_kept_with_its_last_lines_and_long_lines_are_cut() {
    TestSystem::real_time(|_| async move {
        let script = "i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); done; \
                      head -c 20000 /dev/zero | tr '\\0' x; echo; printf '\\377bytes\\n'; \
                      echo last >&2; sleep 0.1; echo end; exec sleep 60";
        let mut process = spawn(&shell(script));
        let lines = last_lines(&process, "end").await;
        assert_eq!(lines.len(), 20);
        assert!(lines.contains(&"line 29".to_owned()) && lines.contains(&"last".to_owned()));
        assert!(
            !lines.contains(&"line 5".to_owned()),
            "only the last are kept"
        );
        let cut = lines.iter().find(|line| line.starts_with("xxx")).unwrap();
        assert_eq!(cut.len(), 8 * 1024);
        assert!(
            lines.iter().any(|line| line.ends_with("bytes")),
            "not UTF-8, still there"
        );
        process.stop(SECOND).await;
    });
}

#[test]
fn no_variable_of_the_server_reaches_a_process_unless_the_spec_sets_it() {
    TestSystem::real_time(|_| async move {
        // The test runner always sets this one.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let spec = shell("env; echo end; exec sleep 60").environment("GIVEN", "yes");
        let mut process = spawn(&spec);
        let lines = last_lines(&process, "end").await;
        assert!(lines.contains(&"GIVEN=yes".to_owned()));
        assert!(lines.iter().any(|line| line.starts_with("PATH=")));
        let ours = lines.iter().find(|line| line.contains("CARGO"));
        assert_eq!(ours, None);
        process.stop(SECOND).await;
    });
}

#[test]
fn stop_returns_how_the_process_ended() {
    TestSystem::real_time(|_| async move {
        let mut process = spawn(&shell("exec sleep 60"));
        assert_eq!(process.stop(LONG).await, ProcessExit::Signal(15));
        let script = "trap 'exit 7' TERM; echo waiting; while :; do sleep 0.05; done";
        let mut process = spawn(&shell(script));
        last_lines(&process, "waiting").await;
        assert_eq!(process.stop(LONG).await, ProcessExit::Code(7));
        let script = "trap '' TERM; echo waiting; while :; do sleep 0.05; done";
        let mut process = spawn(&shell(script));
        last_lines(&process, "waiting").await;
        assert_eq!(process.stop(SECOND / 10).await, ProcessExit::Signal(9));
    });
}

#[test]
fn a_process_does_not_inherit_the_servers_protection_when_memory_runs_out() {
    let set = |value: &str| std::fs::write("/proc/self/oom_score_adj", value);
    // Lowering the value takes a privilege that root may lack. Then this test only shows that a
    // raised value stays as it is, and the unit test shows the rule for a lowered one.
    let expected = match set("-500") {
        Ok(()) => 0,
        Err(_) => {
            set("300").unwrap();
            300
        }
    };
    TestSystem::real_time(|_| async move {
        let mut process = spawn(&shell("exec sleep 60"));
        let path = format!("/proc/{}/oom_score_adj", process.pid());
        let value = std::fs::read_to_string(path).unwrap();
        assert_eq!(value.trim().parse::<i32>().unwrap(), expected);
        process.stop(Duration::from_secs(5)).await;
    });
}
