//! SIGKILL for the server itself: its processes end with it, whatever they are doing.

use std::sync::mpsc::sync_channel;

use headroom_test_support::process_tree::wait_until_gone;
use headroom_test_support::protocol::milliseconds;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::setup::{BINARY, ServerWithModels, floats};

#[tokio::test]
async fn a_killed_server_leaves_no_process_behind() {
    let mut server = ServerWithModels::start("");
    server.add_model("affine", torchscript::affine);
    server.add_model("busy", torchscript::slow);
    server.add_model("stopped", torchscript::affine);
    server.infer("affine", &floats(&[2.0])).await.output();
    server.infer("stopped", &floats(&[2.0])).await.output();
    server.infer("busy", &milliseconds(1)).await.output();
    let busy = server.begin_infer("busy", milliseconds(60_000).to_string());
    server.wait_until_busy("busy").await;
    server.only_host("stopped").stop();
    server.zygote().stop();

    let processes = server.processes();
    assert_eq!(processes.len(), 4, "{processes:?}");
    server.signal(Signal::SIGKILL);
    server.wait_for_exit();
    wait_until_gone(&processes);
    busy.abort();
}

/// As when a test is killed: no code of the test runs any more, and the server and its processes are stopped.
#[tokio::test]
async fn a_stopped_server_and_its_processes_end_with_the_thread_that_started_it() {
    let (end, ended) = sync_channel::<()>(0);
    let (started, starting) = tokio::sync::oneshot::channel();
    let test = std::thread::spawn(move || {
        started.send(ServerWithModels::start("")).ok();
        ended.recv().ok();
    });
    let server = starting.await.unwrap();
    server.add_model("affine", torchscript::affine);
    server.infer("affine", &floats(&[2.0])).await.output();
    for pool in ["postgres", "redis-primary"] {
        let path = format!("/api/pools/{pool}/probe");
        server.post_json(&path, &json!({})).await.ok();
    }

    let own_process = server.process();
    let processes = server.processes();
    for name in ["hr:affine", "hr-zygote", "redis-server", "postgres"] {
        // PostgreSQL's main process comes before its children in the list.
        processes.iter().find(|it| it.name == name).unwrap().stop();
    }
    server.signal(Signal::SIGSTOP);
    drop(end);
    test.join().unwrap();
    wait_until_gone(&processes);
    own_process.wait_until_gone();
}

#[tokio::test]
async fn a_killed_server_starts_again_on_the_same_ports_and_folders() {
    let mut server = ServerWithModels::start("");
    server.add_model("affine", torchscript::affine);
    server.infer("affine", &floats(&[2.0])).await.output();
    let listen = server.address();
    let admin_url = server.admin_url("");
    let folder = server.folder().join("data");
    let processes = server.processes();
    server.signal(Signal::SIGKILL);
    server.wait_for_exit();

    // At once, without waiting for the end of the old processes.
    let settings = format!(
        "server.listen = '{}'\nserver.admin_listen = '{}'\ndata.dir = '{}'",
        listen,
        admin_url.trim_start_matches("http://"),
        folder.display()
    );
    let second = Server::start(server.models.options(BINARY).settings(&settings));
    assert_eq!(second.address(), listen);
    let first = std::mem::replace(&mut server.server, second);
    server.infer("affine", &floats(&[2.0])).await.output();
    wait_until_gone(&processes);
    drop(first);
    server.infer("affine", &floats(&[2.0])).await.output();
}
