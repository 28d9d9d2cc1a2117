//! Long work: it is waited for, cancelled by Ctrl-C, or left to the server.

use std::fs::File;

use headroom_test_support::child;
use headroom_test_support::models::Models;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{BINARY, ask, command};

/// A server with a model whose load takes a minute.
fn start() -> (Server, Models) {
    let models = Models::new();
    models.add("endless", 1, torchscript::hangs).settings(
        "endless",
        1,
        "[[inputs]]\nname = 'x'\ndatatype = 'FP32'\nshape = [1]\n",
    );
    (Server::start(models.options(BINARY)), models)
}

/// Waits until the only job is in a state.
async fn wait_for_job(server: &Server, is_reached: impl Fn(&Value) -> bool) -> Value {
    wait_for_async(DEADLINE, || async {
        let job = server.get_json("/api/jobs").await.ok()["jobs"][0].clone();
        if is_reached(&job) { Ok(job) } else { Err(job) }
    })
    .await
}

fn is_loading(job: &Value) -> bool {
    job["progress"]["current_step"] == "load endless:1"
}

#[tokio::test]
async fn ctrl_c_cancels_the_job_on_the_server() {
    let (server, _models) = start();
    let folder = tempfile::tempdir().unwrap();
    let errors = folder.path().join("errors");
    let mut load = command(&["models", "load", "endless", "--url", &server.url("")]);
    load.stderr(File::create(&errors).unwrap());
    let mut load = child::start(&mut load).unwrap();
    wait_for_job(&server, is_loading).await;
    kill(Pid::from_raw(load.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = load.wait_within(DEADLINE).unwrap().expect("it ends");
    assert_eq!(status.code(), Some(130));
    assert_eq!(
        std::fs::read_to_string(&errors).unwrap(),
        "headroom: interrupted\n"
    );
    let job = wait_for_job(&server, |job| job["state"] != "running").await;
    assert_eq!(job["state"], "cancelled");
}

#[tokio::test]
async fn a_job_that_is_not_waited_for_is_named() {
    let (server, _models) = start();
    let id = ask(&server, &["models", "load", "endless", "--no-wait"]).ok();
    let job = wait_for_job(&server, is_loading).await;
    assert_eq!(job["id"], id.trim());
}
