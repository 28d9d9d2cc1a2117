//! Clients that others wrote, through the gateway: what they do works, and what they find is what the node says.

use std::time::Duration;

use headroom_test_support::child;
use headroom_test_support::models::cached;
use serde_json::{Value, json};

use super::nodes::Gateway;

/// How long one client may take.
const DEADLINE: Duration = Duration::from_secs(120);

fn run(client: &str, step: &str, http: &str, ws: &str) -> Value {
    let script = |name: &str| format!("{}/tests/chains/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut command = match client {
        "web3.py" => {
            let mut python = child::command("python3");
            python
                .arg(script("clients.py"))
                .env("PYTHONPATH", cached("chain-clients-python"))
                .env("PYTHONDONTWRITEBYTECODE", "1");
            python
        }
        _ => {
            let mut node = child::command("node");
            node.arg(script("clients.mjs"))
                .arg(cached("chain-clients"))
                .arg(client);
            node
        }
    };
    let output = child::output(command.args([step, http, ws]), DEADLINE).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{client} {step}: {error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn check(client: &str) {
    let Some(gateway) = Gateway::start(3, "").await else {
        return;
    };
    let (http, ws) = (gateway.url(), gateway.ws_url());
    let written = run(client, "write", &http, &ws);
    assert_eq!(written["logs"], json!([1, 2, 3]), "{written}");
    assert_eq!(written["heads"], true, "{written}");
    let statuses = written["statuses"].as_array().unwrap();
    let is_success = |status: &Value| *status == json!(1) || *status == json!("success");
    assert!(
        statuses.len() == 3 && statuses.iter().all(is_success),
        "{written}"
    );
    // web3.js has no filters over HTTP.
    if client != "web3" {
        assert_eq!(written["polled"], json!([4]), "{written}");
    }
    let (node_http, node_ws) = (gateway.node.url(), gateway.node.ws_url());
    let through = run(client, "read", &http, &ws);
    let direct = run(client, "read", &node_http, &node_ws);
    assert_eq!(through, direct, "{client}");
    assert!(direct["logs"].as_array().unwrap().len() >= 3, "{direct}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ethers_works_as_on_the_node() {
    check("ethers").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viem_works_as_on_the_node() {
    check("viem").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web3_js_works_as_on_the_node() {
    check("web3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web3_py_works_as_on_the_node() {
    check("web3.py").await;
}
