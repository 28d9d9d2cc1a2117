//! The node of the tests, and the proxy in front of it.

#![allow(missing_docs)]

use std::time::Duration;

use headroom_test_support::anvil::{ACCOUNT, Anvil, AnvilOptions};
use headroom_test_support::rpc_proxy::{RpcFault, RpcProxy};
use serde_json::{Value, json};

async fn ask(url: &str, body: &Value) -> Result<(u16, String), reqwest::Error> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build()?;
    let answer = client.post(url).json(body).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

fn call(id: u64, method: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": [] })
}

#[tokio::test]
async fn a_node_mines_reorganises_and_ends_with_the_test() {
    let Some(anvil) = Anvil::start_with(&AnvilOptions::default().chain_id(10)) else {
        return;
    };
    assert_eq!(anvil.call("eth_chainId", json!([])).await, "0xa");
    anvil.mine(5).await;
    assert_eq!(anvil.block_number().await, 5);
    let newest = async || {
        anvil
            .call("eth_getBlockByNumber", json!(["latest", false]))
            .await
    };
    let before = newest().await;
    anvil.reorg(3).await;
    let after = newest().await;
    assert_eq!(after["number"], before["number"]);
    assert_ne!(after["hash"], before["hash"]);
    anvil.rollback(2).await;
    assert_eq!(anvil.block_number().await, 3);
    let balance = anvil.call("eth_getBalance", json!([ACCOUNT, "latest"]));
    assert_ne!(balance.await, "0x0");
}

#[tokio::test]
async fn the_proxy_passes_calls_on_and_makes_the_faults_that_are_set() {
    let Some(anvil) = Anvil::start() else {
        return;
    };
    let proxy = RpcProxy::start(anvil.url());
    let (url, one) = (proxy.url(), call(1, "eth_chainId"));
    let (status, body) = ask(&url, &one).await.unwrap();
    assert_eq!((status, body.contains("0x7a69")), (200, true), "{body}");

    proxy.set(RpcFault::Throttle(Some(7)));
    assert_eq!(ask(&url, &one).await.unwrap().0, 429);
    proxy.set(RpcFault::Cut(5));
    ask(&url, &one).await.unwrap_err();
    proxy.set(RpcFault::Reset);
    ask(&url, &one).await.unwrap_err();
    proxy.set(RpcFault::Html);
    assert!(ask(&url, &one).await.unwrap().1.starts_with("<html>"));
    proxy.set(RpcFault::Huge(100_000));
    let (_, body) = ask(&url, &one).await.unwrap();
    serde_json::from_str::<Value>(&body).unwrap();
    assert!(body.len() > 100_000);

    proxy.clear();
    proxy.set_for(&["eth_chainId"], RpcFault::Result(json!("0x1")));
    let batch = json!([call(1, "eth_chainId"), call(2, "eth_blockNumber")]);
    let (_, body) = ask(&url, &batch).await.unwrap();
    let answers: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&answers[0]["result"], &answers[1]["result"]),
        (&json!("0x1"), &json!("0x0"))
    );

    proxy.clear();
    proxy.set_times(1, &[], RpcFault::Status(503));
    assert_eq!(ask(&url, &one).await.unwrap().0, 503);
    assert_eq!(ask(&url, &one).await.unwrap().0, 200);
    drop(anvil);
    assert_eq!(ask(&url, &one).await.unwrap().0, 502);
    assert_eq!(proxy.calls("eth_chainId"), 10);
}
