//! Which children are reaped by a process that adopts others. Alone in its program: adopting is a property of a whole
//! process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use headroom_actors::kernel::ProcessExit;
use headroom_actors::kernel::process::{Process, ProcessSpec, reap_ended};
use headroom_actors::kernel::testing::TestSystem;
use headroom_test_support::process_tree::Process as Seen;
use nix::sys::prctl::set_child_subreaper;
use tokio::time::{Instant, sleep};

const DEADLINE: Duration = Duration::from_secs(20);

fn spawn(script: &str) -> Process {
    let spec = ProcessSpec::new("shell", "/bin/sh")
        .argument("-c")
        .argument(script);
    Process::spawn(&spec, Stdio::null()).unwrap()
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn is_zombie(pid: u32) -> bool {
    Seen::read(pid).is_some_and(|seen| seen.is_zombie())
}

#[test]
fn adopted_children_are_reaped_and_started_ones_keep_their_exit_status() {
    set_child_subreaper(true).unwrap();
    TestSystem::real_time(|_| async {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        // The inner shell outlives the outer one, which is reaped with its status.
        let script = format!(
            "setsid sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 0.2' & \
             while ! [ -e {0} ]; do sleep 0.01; done; exit 7",
            file.display()
        );
        let mut parent = spawn(&script);
        let parent_pid = parent.pid().cast_unsigned();
        eventually("the started child has ended", || is_zombie(parent_pid)).await;
        let orphan: u32 = std::fs::read_to_string(&file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        eventually("the orphan has ended", || is_zombie(orphan)).await;

        assert_eq!(reap_ended(), 1);
        assert!(!Path::new(&format!("/proc/{orphan}")).exists());
        assert!(is_zombie(parent_pid));
        assert_eq!(parent.ended().await, ProcessExit::Code(7));
        assert_eq!(reap_ended(), 0);
    });
}
