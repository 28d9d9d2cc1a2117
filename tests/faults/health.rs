//! What the health endpoints say while the actors' thread stands still, and while the models folder is gone. The server
//! answers meanwhile, since other threads serve these endpoints.

use std::fs;

use headroom_test_support::capability::skip;
use headroom_test_support::frozen_thread::FrozenThread;
use headroom_test_support::models::Models;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::setup::BINARY;

/// The endpoints of the admin listener.
const LIVE: &str = "/health/live";
const READY: &str = "/health/ready";

/// Those of the protocol, which the main listener has.
const PROTOCOL_LIVE: &str = "/v2/health/live";
const PROTOCOL_READY: &str = "/v2/health/ready";

/// The overview, which the main listener has.
const STATUS: &str = "/api/status";

/// Waits until the endpoint answers with this status. Returns the body.
async fn wait_for_admin(server: &Server, path: &str, status: u16) -> Value {
    wait_for_async(DEADLINE, || async {
        let answer = server.admin(path).await;
        let found = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        (found == status)
            .then_some(body.clone())
            .ok_or((found, body))
    })
    .await
}

/// The status and the body of an endpoint of the main listener.
async fn ask(server: &Server, path: &str) -> (u16, Value) {
    let answer = server.get(path).await;
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap())
}

/// The names of the reasons why the server is not ready.
fn reasons(problem: &Value) -> Vec<&str> {
    let reasons = problem["reasons"].as_object().unwrap();
    reasons.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_server_whose_actors_stand_still_is_first_not_ready_and_then_not_live() {
    let mut server = Server::start(Options::new(BINARY).settings("memory.stale_after = '3s'"));
    wait_for_admin(&server, LIVE, 200).await;
    wait_for_admin(&server, READY, 200).await;
    // The actors' thread starts the main listener's server.
    assert_eq!(ask(&server, PROTOCOL_LIVE).await.0, 200);
    let frozen = match FrozenThread::main_of(server.pid()) {
        Ok(frozen) => frozen,
        Err(error) => return skip(&format!("the system refuses ptrace: {error}")),
    };

    // Memory is not read any more.
    let stale = wait_for_admin(&server, READY, 503).await;
    assert_eq!(stale["type"], "/problems/not-ready");
    assert_eq!(reasons(&stale), ["memory"], "{stale}");
    wait_for_admin(&server, LIVE, 200).await;

    let still = wait_for_admin(&server, LIVE, 503).await;
    assert_eq!(still["type"], "/problems/not-ready");
    let detail = still["detail"].as_str().unwrap();
    assert!(detail.contains("actors' thread has stood still"), "{still}");
    let not_ready = wait_for_admin(&server, READY, 503).await;
    assert_eq!(reasons(&not_ready), ["actors_thread", "memory"]);
    for path in [PROTOCOL_LIVE, PROTOCOL_READY] {
        let (status, body) = ask(&server, path).await;
        assert_eq!(status, 503, "{path}: {body}");
        assert!(body["error"].as_str().unwrap().contains("stood still"));
    }
    // Probes go on.
    wait_for_admin(&server, LIVE, 503).await;

    drop(frozen);
    wait_for_admin(&server, LIVE, 200).await;
    wait_for_admin(&server, READY, 200).await;
    assert_eq!(ask(&server, PROTOCOL_LIVE).await.0, 200);

    // The log is complete when the server has ended, and has it once.
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(0));
    let log = server.log();
    let lines = log.matches("the actors' thread stands still");
    assert_eq!(lines.count(), 1, "{log}");
}

#[tokio::test]
async fn a_server_whose_models_folder_is_gone_is_live_and_not_ready() {
    let models = Models::new();
    let server = Server::start(models.options(BINARY));
    wait_for_admin(&server, READY, 200).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("models");
    fs::rename(models.path(), &moved).unwrap();

    let gone = wait_for_admin(&server, READY, 503).await;
    assert_eq!(reasons(&gone), ["models"], "{gone}");
    let reason = gone["reasons"]["models"].as_str().unwrap();
    assert!(reason.contains("models.dir"), "{reason}");
    let path = models.path().to_str().unwrap();
    assert!(reason.contains(path), "{reason}");
    let (status, body) = ask(&server, PROTOCOL_READY).await;
    assert_eq!(status, 503, "{body}");
    assert!(body["error"].as_str().unwrap().contains("models.dir"));
    wait_for_admin(&server, LIVE, 200).await;
    server.wait_for_log("models.dir cannot be read");
    let (status, overview) = ask(&server, STATUS).await;
    assert_eq!(status, 200, "{overview}");
    assert_eq!(overview["verdict"], "failing", "{overview}");
    let alert = &overview["alerts"][0];
    assert_eq!(alert["code"], "not_ready", "{overview}");
    assert_eq!(alert["subject"], "models", "{overview}");
    let text = alert["text"].as_str().unwrap();
    assert!(text.contains("models.dir"), "{text}");

    fs::rename(&moved, models.path()).unwrap();
    wait_for_admin(&server, READY, 200).await;
    let (_, overview) = ask(&server, STATUS).await;
    let mut alerts = overview["alerts"].as_array().unwrap().iter();
    assert!(
        !alerts.any(|alert| alert["code"] == "not_ready"),
        "{overview}"
    );
    server.wait_for_log("models.dir can be read again");
}
