//! Long work: it is waited for, cancelled by Ctrl-C, or left to the server.

use std::fs::File;

use headroom_test_support::child;
use headroom_test_support::models::Models;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::other_server::{OtherServer, answer};
use crate::{BINARY, Ended, ask, command, json as json_of, run};

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

/// A command that waits for that load.
struct Load {
    process: child::Child,
    /// Has its file of standard error.
    folder: tempfile::TempDir,
}

impl Load {
    fn start(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut load = command(&["models", "load", "endless", "--url", &server.url("")]);
        load.stderr(File::create(folder.path().join("errors")).unwrap());
        let process = child::start(&mut load).unwrap();
        Self { process, folder }
    }

    fn assert_ends(&mut self, code: i32, errors: &str) {
        let status = self.process.wait_within(DEADLINE).unwrap();
        assert_eq!(status.expect("it ends").code(), Some(code));
        let written = std::fs::read_to_string(self.folder.path().join("errors")).unwrap();
        assert_eq!(written, errors);
    }
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
    let mut load = Load::start(&server);
    wait_for_job(&server, is_loading).await;
    kill(
        Pid::from_raw(load.process.id().cast_signed()),
        Signal::SIGINT,
    )
    .unwrap();
    load.assert_ends(130, "headroom: interrupted\n");
    let job = wait_for_job(&server, |job| job["state"] != "running").await;
    assert_eq!(job["state"], "cancelled");
}

#[tokio::test]
async fn a_job_that_another_client_cancels_is_no_interrupt() {
    let (server, _models) = start();
    let mut load = Load::start(&server);
    let job = wait_for_job(&server, is_loading).await;
    let id = job["id"].as_str().unwrap();
    let job = server.url(&format!("/api/jobs/{id}"));
    server.client().delete(job).send().await.unwrap();
    let error = format!(
        "headroom: the job {id} was cancelled by another client, or because the server stops\n"
    );
    load.assert_ends(1, &error);
}

/// A job in this state, as the server describes it.
fn job(status: &str, state: &str) -> String {
    let progress = json!({ "done": 0, "total": 1, "current_step": null });
    let job = json!({ "id": "4f7c", "state": state, "error": null, "result": null, "progress": progress });
    answer(status, &job.to_string())
}

fn load_from(server: &OtherServer, more: &[&str]) -> Ended {
    let mut load = command(&["models", "load", "one", "--url", &server.url]);
    load.args(more);
    run(load)
}

#[test]
fn a_server_that_is_away_for_a_moment_does_not_end_the_command() {
    let busy = json!({ "type": "/problems/overloaded", "title": "Busy", "detail": "try again" });
    let server = OtherServer::start(vec![
        job("202 Accepted", "running"),
        String::new(),
        answer("502 Bad Gateway", "<html>"),
        answer("503 Service Unavailable", &busy.to_string()),
        job("200 OK", "running"),
        String::new(),
        job("200 OK", "succeeded"),
    ]);
    let ended = load_from(&server, &["--json"]);
    server.end();
    assert_eq!(json_of(&ended.ok())["state"], "succeeded");
}

#[test]
fn a_job_that_is_lost_sight_of_is_named() {
    let server = OtherServer::start(vec![job("202 Accepted", "running")]);
    let ended = load_from(&server, &["--timeout", "700ms"]);
    let hint = format!(
        "headroom: the job 4f7c may still run: `curl {}/api/jobs/4f7c` shows it, until the server restarts",
        server.url
    );
    server.end();
    let (_, stderr) = ended.failed(69);
    let lines: Vec<_> = stderr.lines().collect();
    assert!(lines[0].contains("cannot reach"), "{stderr}");
    assert_eq!(lines[1..], [hint]);

    // An answer that will not change is not asked for again, and printed once.
    let gone = json!({ "type": "/problems/not-found", "title": "Gone", "detail": "no such job" });
    let server = OtherServer::start(vec![
        job("202 Accepted", "running"),
        answer("404 Not Found", &gone.to_string()),
    ]);
    let ended = load_from(&server, &["--json"]);
    server.end();
    let (stdout, stderr) = ended.failed(1);
    assert_eq!(json_of(&stdout), gone);
    assert!(stderr.contains("the job 4f7c may still run"), "{stderr}");
}

#[test]
fn a_job_or_a_result_in_another_form_is_not_asked_for_again() {
    let progress = json!({ "done": 1, "total": 1, "current_step": null });
    let succeeded = json!({ "id": "4f7c", "state": "succeeded", "error": null, "result": {},
        "progress": progress });
    for more in [&[][..], &["--json"]] {
        let server = OtherServer::start(vec![
            job("202 Accepted", "running"),
            answer("200 OK", &succeeded.to_string()),
        ]);
        let ended = load_from(&server, more);
        server.end();
        let (stdout, stderr) = ended.failed(69);
        assert_eq!((&*stdout, stderr.lines().count()), ("", 1), "{stderr}");
        assert!(stderr.contains("missing field `refused`"), "{stderr}");
    }

    let server = OtherServer::start(vec![job("202 Accepted", "running"), answer("200 OK", "{}")]);
    let ended = load_from(&server, &[]);
    server.end();
    let (_, stderr) = ended.failed(69);
    assert!(stderr.contains("is not one of this version"), "{stderr}");
    assert!(stderr.contains("the job 4f7c may still run"), "{stderr}");
}

#[tokio::test]
async fn a_job_that_is_not_waited_for_is_named() {
    let (server, _models) = start();
    let id = ask(&server, &["models", "load", "endless", "--no-wait"]).ok();
    let job = wait_for_job(&server, is_loading).await;
    assert_eq!(job["id"], id.trim());
}
