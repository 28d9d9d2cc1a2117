//! PostgreSQL and Redis behind the real binary: the private ones that it starts itself, and those that a URL names.
//! What is killed here is a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod embedded;
mod redis;
mod remote;

use std::time::Duration;

use headroom_test_support::process_tree::{Process, tree};
use headroom_test_support::server::{Options, Server};
use serde_json::{Value, json};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

/// Far above what anything here takes; a test that reaches it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// Every pool there is.
pub(crate) const POOLS: [&str; 4] = ["postgres", "redis-primary", "redis-cache", "redis-pubsub"];

pub(crate) fn start(settings: &str) -> Server {
    Server::start(Options::new(BINARY).settings(settings))
}

/// Uses a pool: the status and the body of the answer.
pub(crate) async fn probe(server: &Server, pool: &str) -> (u16, Value) {
    let path = format!("/api/pools/{pool}/probe");
    let answer = server.post(&path, &json!({})).await;
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap())
}

/// As [`probe`], of a pool that must answer.
pub(crate) async fn use_pool(server: &Server, pool: &str) -> Value {
    let (status, body) = probe(server, pool).await;
    assert_eq!(status, 200, "{pool}: {body}");
    body
}

pub(crate) async fn get(server: &Server, path: &str) -> Value {
    let answer = server.get(path).await;
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

/// The processes below the server with this name.
pub(crate) fn processes(server: &Server, name: &str) -> Vec<Process> {
    let below = tree(server.pid()).into_iter();
    below
        .filter(|process| process.name == name && !process.is_zombie)
        .collect()
}
