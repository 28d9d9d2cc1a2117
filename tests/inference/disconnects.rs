//! Clients that disconnect: their waiting requests are dropped, and other clients are not disturbed.

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{host_path, infer_path, milliseconds};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::BINARY;

const OWNER: &str = "actor=\"headroom/models/slow:1/owner\"";

fn start(models: &Models) -> Server {
    models.add("slow", 1, torchscript::slow);
    Server::start(models.options(BINARY))
}

/// Sends a request on a connection of its own. Aborting the task closes the connection.
fn send(server: &Server, duration: u64) -> JoinHandle<Value> {
    let url = server.url(&infer_path("slow"));
    tokio::spawn(async move {
        let client = reqwest::Client::new();
        let answer = client.post(url).json(&milliseconds(duration)).send().await;
        answer.unwrap().json().await.unwrap()
    })
}

async fn wait_for_owner(server: &Server, busy: u32, queued: u32) {
    let condition = |owner: &Value| owner["busy"] == busy && owner["queued"] == queued;
    server.wait_for_owner("slow", condition).await;
}

/// Waits until the server has noticed that one client has disconnected.
async fn wait_for_disconnect(server: &Server) {
    let labels = ["outcome=\"abandoned\""];
    server
        .wait_for_metric("headroom_http_requests_total", &labels, |count| {
            count == 1.0
        })
        .await;
}

/// The number of requests with this outcome at the model's owner.
async fn count_outcome(server: &Server, outcome: &str) -> f64 {
    let outcome = format!("outcome=\"{outcome}\"");
    let labels = [OWNER, outcome.as_str()];
    server
        .metric("headroom_actor_messages_total", &labels)
        .await
}

#[tokio::test]
async fn a_waiting_request_is_dropped_when_its_client_disconnects() {
    let models = Models::new();
    let server = start(&models);
    server.infer("slow", &milliseconds(0)).await.ok();
    let running = send(&server, 6000);
    wait_for_owner(&server, 1, 0).await;
    let waiting = send(&server, 1);
    wait_for_owner(&server, 1, 1).await;
    // So long that the test fails if the request runs.
    let disconnecting = send(&server, 25_000);
    wait_for_owner(&server, 1, 2).await;
    disconnecting.abort();
    wait_for_disconnect(&server).await;
    // Its place in the queue is free again, while the others still run and wait.
    wait_for_owner(&server, 1, 1).await;
    assert_eq!(running.await.unwrap()["outputs"][0]["data"], json!([6000]));
    assert_eq!(waiting.await.unwrap()["outputs"][0]["data"], json!([1]));
    assert_eq!(count_outcome(&server, "cancelled").await, 1.0);
    assert_eq!(count_outcome(&server, "handled").await, 3.0);
}

#[tokio::test]
async fn a_request_in_the_process_runs_to_its_end_when_its_client_disconnects() {
    let models = Models::new();
    let server = start(&models);
    server.infer("slow", &milliseconds(0)).await.ok();
    let disconnecting = send(&server, 2500);
    wait_for_owner(&server, 1, 0).await;
    disconnecting.abort();
    wait_for_disconnect(&server).await;
    let next = send(&server, 7).await.unwrap();
    assert_eq!(next["outputs"][0]["data"], json!([7]));
    assert_eq!(count_outcome(&server, "handled").await, 3.0);
    server.wait_for_restarts(&host_path("slow"), 0).await;
}
