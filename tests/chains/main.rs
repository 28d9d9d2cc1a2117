//! The gateway to chains behind the real binary: requests and their limits, settings, secrets, and what is said of chains.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod cast;
mod clients;
mod differential;
mod hostile;
mod limits;
mod logs;
mod nodes;
mod refused;
mod reorgs;
mod requests;
mod settings;
mod socket;
mod sockets;
mod storm;
mod views;

use headroom_test_support::server::{Options, Server};
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

/// A chain whose only provider cannot be reached.
pub(crate) const ETHEREUM: &str = "chains.ethereum.providers.node.url = 'http://127.0.0.1:1'";

/// A number that the environment may give.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap())
}

pub(crate) fn start(settings: &str) -> Server {
    Server::start(Options::new(BINARY).settings(ETHEREUM).settings(settings))
}

/// The status and the text of the answer to `body`.
pub(crate) async fn post(
    server: &Server,
    path: &str,
    body: impl Into<reqwest::Body>,
) -> (u16, String) {
    let request = server.client().post(server.url(path)).body(body);
    let answer = request.header(CONTENT_TYPE, "application/json").send();
    let answer = answer.await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// The JSON of the answer to `body`, which has the status 200.
pub(crate) async fn answer(server: &Server, body: impl Into<reqwest::Body>) -> Value {
    let (status, text) = post(server, "/rpc/ethereum", body).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The problem of an answer.
pub(crate) async fn problem(answer: reqwest::Response, status: u16, kind: &str) -> Value {
    assert_eq!(answer.status(), status);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["type"], format!("/problems/{kind}"), "{problem}");
    problem
}

/// The text of a call.
pub(crate) fn call(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_chainId"}}"#)
}

/// What is sent to a path, as its status.
pub(crate) async fn status(server: &Server, path: &str) -> u16 {
    let body = call("1");
    post(server, path, body).await.0
}

/// The phase of the chain's resource.
pub(crate) async fn phase(server: &Server, chain: &str) -> Value {
    let status: Value = server
        .get("/api/performance/lazy-loader/status")
        .await
        .json()
        .await
        .unwrap();
    let mut resources = status["resources"].as_array().unwrap().iter();
    let name = json!(format!("chain:{chain}"));
    let found = resources.find(|resource| resource["name"] == name);
    found.map_or(Value::Null, |resource| resource["phase"].clone())
}
