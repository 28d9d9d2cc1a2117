//! SIGKILL for the server itself: whatever its processes are doing, they go with it.

use std::sync::mpsc::sync_channel;

use headroom_test_support::process_tree::is_alive;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::processes::wait_until_all_gone;
use crate::setup::{BINARY, DEADLINE, ServerWithModels, floats, milliseconds};

#[tokio::test]
async fn a_killed_server_leaves_no_process_behind_whatever_they_were_doing() {
    let mut setup = ServerWithModels::start("");
    setup.place("affine", torchscript::affine);
    setup.place("busy", torchscript::slow);
    setup.place("stopped", torchscript::affine);
    setup.infer("affine", &floats(&[2.0])).await.output();
    setup.infer("stopped", &floats(&[2.0])).await.output();
    setup.infer("busy", &milliseconds(1)).await.output();
    let busy = setup.begin("busy", &milliseconds(60_000));
    setup.wait_until_busy("busy").await;
    setup.host("stopped").hold();
    setup.zygote().hold();

    let processes = setup.processes();
    assert_eq!(processes.len(), 4, "{processes:?}");
    setup.server.signal(Signal::SIGKILL);
    setup.server.wait_for_end(DEADLINE);
    wait_until_all_gone(&processes);
    busy.abort();
}

/// As when a test is killed: nothing of it gets to run any more, and neither the server nor those below it do.
#[tokio::test]
async fn a_stopped_server_and_all_below_it_end_with_the_thread_that_started_it() {
    let (end, ended) = sync_channel::<()>(0);
    let (started, starting) = tokio::sync::oneshot::channel();
    let test = std::thread::spawn(move || {
        started.send(ServerWithModels::start("")).ok();
        ended.recv().ok();
    });
    let setup = starting.await.unwrap();
    setup.place("affine", torchscript::affine);
    setup.infer("affine", &floats(&[2.0])).await.output();
    for pool in ["postgres", "redis-primary"] {
        let path = format!("/api/pools/{pool}/probe");
        let answer = setup.server.post(&path, &json!({})).await;
        assert_eq!(answer.status(), 200, "{pool}");
    }

    let processes = setup.processes();
    for name in ["hr:affine", "hr-zygote", "redis-server", "postgres"] {
        // Of PostgreSQL's, that which the server started: it is found before its own.
        processes.iter().find(|it| it.name == name).unwrap().hold();
    }
    setup.server.signal(Signal::SIGSTOP);
    drop(end);
    test.join().unwrap();
    wait_until_all_gone(&processes);
    assert!(!is_alive(setup.server.pid()));
}

#[tokio::test]
async fn a_killed_server_starts_again_on_the_same_ports_and_folders() {
    let mut setup = ServerWithModels::start("");
    setup.place("affine", torchscript::affine);
    setup.infer("affine", &floats(&[2.0])).await.output();
    let listen = setup.server.address();
    let admin_url = setup.server.admin_url("");
    let folder = setup.server.folder().join("data");
    let processes = setup.processes();
    setup.server.signal(Signal::SIGKILL);
    setup.server.wait_for_end(DEADLINE);

    // At once: nothing waits for the old processes.
    let settings = format!(
        "server.listen = '{}'\nserver.admin_listen = '{}'\ndata.dir = '{}'",
        listen,
        admin_url.trim_start_matches("http://"),
        folder.display()
    );
    let server = Server::start(setup.models.options(BINARY).settings(&settings));
    assert_eq!(server.address(), listen);
    let first = std::mem::replace(&mut setup.server, server);
    setup.infer("affine", &floats(&[2.0])).await.output();
    wait_until_all_gone(&processes);
    drop(first);
    setup.infer("affine", &floats(&[2.0])).await.output();
}
