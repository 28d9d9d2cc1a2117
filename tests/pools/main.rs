//! PostgreSQL and Redis behind the real binary: private servers that it starts, and servers that a URL names. All
//! servers are real, and real processes are killed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod configured_urls;
mod private_servers;
mod redis;

use headroom_test_support::process_tree::{Process, descendants};
use headroom_test_support::server::{Options, Server};
use serde_json::{Value, json};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

/// The names of all pools without replicas.
pub(crate) const POOLS: [&str; 4] = ["postgres", "redis-primary", "redis-cache", "redis-pubsub"];

pub(crate) fn start(settings: &str) -> Server {
    Server::start(Options::new(BINARY).settings(settings))
}

/// Probes a pool, which opens it. Returns the status and the body of the answer.
pub(crate) async fn probe(server: &Server, pool: &str) -> (u16, Value) {
    let path = format!("/api/pools/{pool}/probe");
    let answer = server.post_json(&path, &json!({})).await;
    (answer.status, answer.json)
}

/// Probes a pool that must answer.
pub(crate) async fn probe_ok(server: &Server, pool: &str) -> Value {
    let (status, body) = probe(server, pool).await;
    assert_eq!(status, 200, "{pool}: {body}");
    body
}

pub(crate) async fn get(server: &Server, path: &str) -> Value {
    server.get_json(path).await.ok()
}

/// The processes below the server with this name.
pub(crate) fn processes(server: &Server, name: &str) -> Vec<Process> {
    let mut processes = descendants(server.pid());
    processes.retain(|process| process.name == name && !process.is_zombie());
    processes
}
