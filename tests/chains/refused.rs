//! Requests that are refused as a whole, and clients that leave.

use std::time::Duration;

use headroom_test_support::protocol::Answer;
use headroom_test_support::rpc_proxy::RpcFault;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use reqwest::header::RETRY_AFTER;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::nodes::Gateway;
use super::problem;
use super::socket::Socket;

/// A method that no check of a provider calls.
const METHOD: &str = "eth_getBalance";

/// Calls that are not answered last longer than the test.
const PATIENT: &str = "rpc.provider.timeout = '5m'\nserver.request_deadline = '5m'";

/// A call with parameters of about so many bytes.
fn call_of(bytes: usize) -> Value {
    let address = "x".repeat(bytes);
    json!({ "jsonrpc": "2.0", "id": 1, "method": METHOD, "params": [address, "latest"] })
}

/// Sends a request whose calls are not answered, and waits until the provider has them.
async fn begin(gateway: &Gateway, body: Value) -> JoinHandle<Answer> {
    let calls = body.as_array().map_or(1, Vec::len) as u64;
    let before = gateway.proxies[0].calls(METHOD);
    let request = gateway.server.client().post(gateway.url()).json(&body);
    let begun = tokio::spawn(Answer::to(request));
    wait_for_async(DEADLINE, || async {
        let more = gateway.proxies[0].calls(METHOD) - before;
        (more >= calls).then_some(()).ok_or(more)
    })
    .await;
    begun
}

/// Waits until no call runs, neither here nor at the provider, and all memory of calls is given back.
async fn wait_until_idle(gateway: &Gateway) {
    let proxy = &gateway.proxies[0];
    wait_for_async(DEADLINE, || async {
        let status = gateway.status().await;
        let in_flight = status["providers"][0]["in_flight"].clone();
        let bodies = gateway.server.metric("headroom_http_bodies_bytes", &[]);
        let running = proxy.calls(METHOD) - proxy.given_up();
        let found = (in_flight, running, bodies.await);
        (found == (json!(0), 0, 0.0)).then_some(()).ok_or(found)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_too_many_calls_is_refused_until_some_end() {
    let settings = format!("{PATIENT}\nrpc.batch_max = 2\nrpc.client_calls_max = 2");
    let Some(gateway) = Gateway::start(1, &settings).await else {
        return;
    };
    gateway.proxies[0].set_for(&[METHOD], RpcFault::Stall);
    let begun = begin(&gateway, json!([call_of(1), call_of(2)])).await;
    let client = gateway.server.client();
    let refused = client.post(gateway.url()).json(&call_of(3));
    let refused = refused.send().await.unwrap();
    assert_eq!(refused.headers()[RETRY_AFTER], "1");
    problem(refused, 429, "too-many-requests").await;
    // Over a WebSocket there is no status to say it with.
    let mut socket = Socket::open(&gateway).await;
    let answer = socket.answer("eth_chainId", &json!([])).await;
    assert_eq!(answer["error"]["code"], -32005, "{answer}");
    begun.abort();
    wait_until_idle(&gateway).await;
    let answer = gateway.answer("eth_chainId", &json!([])).await;
    assert_eq!(answer["result"], "0x7a69");
    let labels = ["method=\"eth_getBalance\"", "outcome=\"refused\""];
    let refusals = gateway.server.metric("headroom_rpc_calls_total", &labels);
    assert_eq!(refusals.await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_body_finds_no_room_is_refused_until_there_is_some() {
    let bounds = "server.request_body_max = '64KiB'\nserver.bodies_in_flight_max = '64KiB'";
    let settings = format!("{PATIENT}\n{bounds}");
    let Some(gateway) = Gateway::start(1, &settings).await else {
        return;
    };
    gateway.proxies[0].set_for(&[METHOD], RpcFault::Stall);
    let begun = begin(&gateway, call_of(40_000)).await;
    let client = gateway.server.client();
    let refused = client.post(gateway.url()).json(&call_of(40_000));
    let refused = refused.send().await.unwrap();
    assert!(refused.headers().contains_key(RETRY_AFTER));
    problem(refused, 503, "overloaded").await;
    begun.abort();
    wait_until_idle(&gateway).await;
    gateway.proxies[0].clear();
    let request = client.post(gateway.url()).json(&call_of(40_000));
    let answer = Answer::to(request).await;
    assert_eq!(answer.ok()["error"]["code"], -32602);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_finds_no_memory_is_an_error_and_no_fault_of_its_provider() {
    let settings = "server.answers_in_flight_max = '256KiB'\nrpc.cache_max = '64KiB'";
    let Some(gateway) = Gateway::start(2, settings).await else {
        return;
    };
    // Filters have 32 MiB of the same account.
    for proxy in &gateway.proxies {
        proxy.set_for(&[METHOD], RpcFault::Huge(48 << 20));
    }
    for _ in 0..3 {
        let answer = gateway.answer(METHOD, &call_of(1)["params"]).await;
        assert_eq!(answer["error"]["code"], -32005, "{answer}");
        assert_eq!(answer["error"]["data"]["type"], "memory", "{answer}");
    }
    let status = gateway.status().await;
    for provider in status["providers"].as_array().unwrap() {
        assert_eq!(provider["error_rate"], 0.0, "{status}");
    }
    // One provider was asked for each call.
    let asked: u64 = gateway.proxies.iter().map(|it| it.calls(METHOD)).sum();
    assert_eq!(asked, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_takes_too_long_ends_with_its_calls() {
    let Some(gateway) = Gateway::start(1, "server.request_deadline = '1s'").await else {
        return;
    };
    gateway.proxies[0].set_for(&[METHOD], RpcFault::Stall);
    let late = gateway.server.client().post(gateway.url());
    let late = late.json(&call_of(1)).send().await.unwrap();
    problem(late, 504, "deadline-exceeded").await;
    wait_until_idle(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_are_answered_before_the_server_stops() {
    let Some(mut gateway) = Gateway::start(1, "").await else {
        return;
    };
    let delay = RpcFault::Delay(Duration::from_millis(500));
    gateway.proxies[0].set_for(&[METHOD], delay);
    let begun = begin(&gateway, call_of(1)).await;
    gateway.server.signal(Signal::SIGTERM);
    gateway.server.wait_until_closed();
    assert_eq!(begun.await.unwrap().ok()["error"]["code"], -32602);
    assert_eq!(gateway.server.wait_for_exit().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_cancels_its_calls() {
    let Some(gateway) = Gateway::start(1, PATIENT).await else {
        return;
    };
    gateway.proxies[0].set_for(&[METHOD], RpcFault::Stall);
    let batch = (1..=20).map(call_of).collect();
    begin(&gateway, batch).await.abort();
    wait_until_idle(&gateway).await;
    let mut socket = Socket::open(&gateway).await;
    socket.send(&call_of(1)).await;
    wait_for_async(DEADLINE, || async {
        let asked = gateway.proxies[0].calls(METHOD);
        (asked > 20).then_some(()).ok_or(asked)
    })
    .await;
    drop(socket);
    wait_until_idle(&gateway).await;
}
