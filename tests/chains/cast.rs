//! `cast` of Foundry through the gateway: what it sends works, and what it prints is what it prints on the node.

use std::process::Output;
use std::time::Duration;

use headroom_test_support::anvil::{ACCOUNT, OTHER_ACCOUNT, topic};
use headroom_test_support::child;
use headroom_test_support::models::cached;
use serde_json::Value;

use super::nodes::Gateway;

/// How long one command may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// The key of the first account of the development nodes.
const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// Runs a command on what is behind `url`.
async fn cast(url: &str, words: &[&str]) -> Output {
    let mut command = child::command(cached("cast/cast"));
    // It would read settings from there.
    let home = tempfile::tempdir().unwrap();
    command
        .args(words)
        .env("ETH_RPC_URL", url)
        .env("HOME", home.path())
        .current_dir(home.path());
    let run = move || child::output(&mut command, DEADLINE).unwrap();
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// Sends a transaction through the gateway. Returns its receipt.
async fn send(gateway: &Gateway, words: &[&str]) -> Value {
    let words = [&["send", "--json", "--private-key", KEY], words].concat();
    let output = cast(&gateway.url(), &words).await;
    let receipt = serde_json::from_slice(&output.stdout);
    let receipt: Value = receipt.unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(receipt["status"], "0x1", "{receipt}");
    receipt
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cast_prints_what_it_prints_on_the_node() {
    let Some(gateway) = Gateway::start(3, "").await else {
        return;
    };
    let (topic, node) = (topic(0xc1), &gateway.node);
    let contract = node.deploy_counter().await;
    gateway.wait_for_head_of(node).await;
    let sent = send(&gateway, &[&contract, &topic]).await;
    assert_eq!(sent["logs"][0]["topics"][0], *topic, "{sent}");
    let hash = sent["transactionHash"].as_str().unwrap();
    send(&gateway, &[OTHER_ACCOUNT, "--value", "5"]).await;
    gateway.wait_for_head_of(node).await;
    let commands: &[&[&str]] = &[
        &["client"],
        &["chain-id"],
        &["chain"],
        &["block-number"],
        &["gas-price"],
        &["base-fee"],
        &["age"],
        &["block", "latest"],
        &["block", "0", "--json"],
        &["block", "1", "--full"],
        &["block", "999"],
        &["find-block", "1"],
        &["balance", ACCOUNT],
        &["balance", OTHER_ACCOUNT, "--ether", "--block", "1"],
        &["nonce", ACCOUNT],
        &["code", &contract],
        &["codesize", &contract],
        &["storage", &contract, "0"],
        &["proof", &contract, "0"],
        &["tx", hash],
        &["receipt", hash, "--json"],
        &["logs", "--from-block", "0", "--json"],
        &["logs", "--from-block", "0", "--address", &contract, &topic],
        &["call", &contract, &topic],
        &["call", &contract, &topic, "--block", "1"],
        // Reverts.
        &["call", &contract],
        &["estimate", &contract, &topic],
        &["estimate", &contract],
        &["access-list", &contract, &topic],
        &["rpc", "eth_getBlockByNumber", "latest", "false"],
        &["rpc", "eth_getBalance", "0x12", "latest"],
        &["rpc", "eth_nonsense"],
        &["publish", "0x1234"],
    ];
    let mut successes = 0;
    for words in commands {
        let through = cast(&gateway.url(), words).await;
        let direct = cast(&node.url(), words).await;
        assert_eq!(through, direct, "{words:?}");
        successes += usize::from(direct.status.success());
    }
    // The others are those that the node refuses.
    assert_eq!(commands.len() - successes, 6);
}
