//! A file server that never answers: a thread that looks at one of its files hangs in a system call, which only the end of
//! the process ends.

use std::path::Path;
use std::time::{Duration, Instant};

use headroom_test_support::capability::skip;
use headroom_test_support::child;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::DEADLINE;
use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::setup::{BINARY, floats};

/// The deadline of a stop. A busy machine may need several times as long.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);

/// Starts a server that sees in `folder` a file system without a file server. Both end together. `None` where the system
/// cannot mount one.
fn start_with_unserved(folder: &Path, settings: &str) -> Option<Server> {
    // The file server is whoever has the device open: the server, which does not know it.
    let mount = format!(
        "exec 3<>/dev/fuse && mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 unserved '{}' && exec \"$@\"",
        folder.display()
    );
    let mut launcher = vec!["unshare", "--mount"];
    if !Uid::effective().is_root() {
        launcher.extend(["--user", "--map-root-user"]);
    }
    launcher.extend(["sh", "-c", &mount, "sh"]);
    let mut probe = child::command(launcher[0]);
    probe.args(&launcher[1..]).arg("true");
    let probed = child::output(&mut probe, DEADLINE).unwrap();
    if !probed.status.success() {
        let reason = String::from_utf8_lossy(&probed.stderr);
        skip(&format!("FUSE cannot be mounted: {reason}"));
        return None;
    }
    let options = Options::new(BINARY).settings(settings);
    Some(Server::start(options.launched_by(&launcher)))
}

#[tokio::test]
async fn a_file_server_that_hangs_holds_up_neither_the_start_nor_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let settings = format!(
        "models.dir = '{}'\nserver.request_deadline = '1s'\nserver.shutdown_deadline = '{}s'",
        folder.path().display(),
        SHUTDOWN_DEADLINE.as_secs()
    );
    let Some(mut server) = start_with_unserved(folder.path(), &settings) else {
        return;
    };
    server.wait_for_log("the file system has not answered for 5 s");
    // The repository hangs in its look at the folder.
    let answer = server.infer("any", &floats(&[2.0])).await;
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(server.get("/").await.status(), 200);
    let signalled = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(0));
    let took = signalled.elapsed();
    assert!(took < 10 * SHUTDOWN_DEADLINE, "{took:?}");
}
