//! Clients that go away: their work is dropped where it can be, and nobody else notices.

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{infer_path, tensor};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::wait::wait_for_async;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{BINARY, DEADLINE};

const OWNER: &str = "actor=\"headroom/models/slow:1/owner\"";

fn start(models: &Models) -> Server {
    models.add("slow", 1, torchscript::slow);
    Server::start(models.options(BINARY))
}

fn work(milliseconds: u32) -> Value {
    json!({ "inputs": [tensor("milliseconds", "INT64", &[1], json!([milliseconds]))] })
}

/// A request with a connection of its own, which closes when it is aborted.
fn send(server: &Server, milliseconds: u32) -> JoinHandle<Value> {
    let url = server.url(&infer_path("slow"));
    tokio::spawn(async move {
        let client = reqwest::Client::new();
        let answer = client.post(url).json(&work(milliseconds)).send().await;
        answer.unwrap().json().await.unwrap()
    })
}

async fn wait_for_owner(server: &Server, busy: u32, queued: u32) {
    wait_for_async(DEADLINE, || async {
        let owner = server.owner("slow:1").await;
        let there = owner["busy"] == busy && owner["queued"] == queued;
        if there { Ok(()) } else { Err(owner) }
    })
    .await;
}

async fn wait_for_abandoned(server: &Server, count: f64) {
    wait_for_async(DEADLINE, || async {
        let labels = ["class=\"abandoned\""];
        let seen = server.metric("headroom_http_requests_total", &labels).await;
        if seen == count { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn outcomes(server: &Server, outcome: &str) -> f64 {
    let outcome = format!("outcome=\"{outcome}\"");
    let labels = [OWNER, outcome.as_str()];
    server
        .metric("headroom_actor_messages_total", &labels)
        .await
}

#[tokio::test]
async fn a_request_that_waits_is_dropped_with_its_client() {
    let models = Models::new();
    let server = start(&models);
    server.infer("slow", &work(0)).await.ok();
    let running = send(&server, 6000);
    wait_for_owner(&server, 1, 0).await;
    let patient = send(&server, 1);
    wait_for_owner(&server, 1, 1).await;
    // Long enough for the test to fail if it were worked on.
    let leaving = send(&server, 25_000);
    wait_for_owner(&server, 1, 2).await;
    leaving.abort();
    wait_for_abandoned(&server, 1.0).await;
    // Its place in the queue is free again while the others still work and wait.
    wait_for_owner(&server, 1, 1).await;
    assert_eq!(running.await.unwrap()["outputs"][0]["data"], json!([6000]));
    assert_eq!(patient.await.unwrap()["outputs"][0]["data"], json!([1]));
    assert_eq!(outcomes(&server, "cancelled").await, 1.0);
    assert_eq!(outcomes(&server, "handled").await, 3.0);
}

#[tokio::test]
async fn a_request_in_the_process_runs_to_its_end_without_its_client() {
    let models = Models::new();
    let server = start(&models);
    server.infer("slow", &work(0)).await.ok();
    let leaving = send(&server, 2500);
    wait_for_owner(&server, 1, 0).await;
    leaving.abort();
    wait_for_abandoned(&server, 1.0).await;
    let next = send(&server, 7).await.unwrap();
    assert_eq!(next["outputs"][0]["data"], json!([7]));
    assert_eq!(outcomes(&server, "handled").await, 3.0);
    let restarts = ["actor=\"headroom/models/slow:1/host-0\""];
    let restarts = server.metric("headroom_actor_restarts_total", &restarts);
    assert_eq!(restarts.await, 0.0);
}
