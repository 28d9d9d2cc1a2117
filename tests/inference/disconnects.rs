//! Clients that disconnect: their waiting requests are dropped, and other clients are not disturbed. Those that only close
//! their sending side get an answer that is ready within moments.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{host_path, infer_path, milliseconds};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::BINARY;

/// How long after its request a client may close its sending side and still wants the answer.
const WITH_REQUEST: Duration = Duration::from_millis(50);

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

/// Sends a request, closes the sending side of its connection, and returns all that comes back, and how long that took.
fn send_and_close(server: &Server, duration: u64) -> JoinHandle<(String, Duration)> {
    let address = server.address();
    let body = milliseconds(duration).to_string();
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        infer_path("slow"),
        body.len()
    );
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer, begun.elapsed())
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
    let disconnecting = send(&server, 4000);
    wait_for_owner(&server, 1, 0).await;
    disconnecting.abort();
    wait_for_disconnect(&server).await;
    let next = send(&server, 7).await.unwrap();
    assert_eq!(next["outputs"][0]["data"], json!([7]));
    assert_eq!(count_outcome(&server, "handled").await, 3.0);
    server.wait_for_restarts(&host_path("slow"), 0).await;
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_with_its_request_gets_an_answer_that_takes_moments()
{
    let models = Models::new();
    let server = start(&models);
    server.infer("slow", &milliseconds(0)).await.ok();
    // On a busy machine the close may come too late, so the client tries again.
    wait_for_async(DEADLINE, || async {
        let (answer, took) = send_and_close(&server, 100).await.unwrap();
        if answer.starts_with("HTTP/1.1 200 ") && answer.contains("[100]") {
            return Ok(());
        }
        assert!(took > WITH_REQUEST, "after {took:?}: {answer}");
        Err(answer)
    })
    .await;
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_counts_as_gone_if_the_answer_takes_longer() {
    let models = Models::new();
    let server = start(&models);
    server.infer("slow", &milliseconds(0)).await.ok();
    let running = send(&server, 6000);
    wait_for_owner(&server, 1, 0).await;
    // Its turn would come when the other request ends.
    let (answer, _) = send_and_close(&server, 1).await.unwrap();
    assert_eq!(answer, "");
    wait_for_disconnect(&server).await;
    wait_for_owner(&server, 1, 0).await;
    assert_eq!(running.await.unwrap()["outputs"][0]["data"], json!([6000]));
    assert_eq!(count_outcome(&server, "cancelled").await, 1.0);
}
