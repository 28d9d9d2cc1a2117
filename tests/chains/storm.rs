//! Requests at a steady rate while one provider after the other fails: no client sees a failure that a healthy provider
//! could have prevented.
//!
//! `RATE=2000 SECONDS=60` are the numbers that the project promises; fewer by default.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use headroom_test_support::anvil::ACCOUNT;
use headroom_test_support::rpc_proxy::RpcFault;
use serde_json::{Value, json};
use tokio::time::{Instant, interval, sleep_until};

use super::nodes::Gateway;
use super::number;

/// Whether an answer is right.
type IsRight = fn(&Value) -> bool;

fn calls() -> Vec<(Value, IsRight)> {
    let call = |method: &str, params: Value| json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
    let is_text = |answer: &Value| {
        answer["result"]
            .as_str()
            .is_some_and(|it| it.starts_with("0x"))
    };
    vec![
        (call("eth_blockNumber", json!([])), is_text),
        (call("eth_getBalance", json!([ACCOUNT, "latest"])), is_text),
        (
            call("eth_getBlockByNumber", json!(["latest", false])),
            |answer| answer["result"]["hash"].is_string(),
        ),
        (
            call("eth_getBlockByNumber", json!(["0x0", false])),
            |answer| answer["result"]["number"] == "0x0",
        ),
        (
            call(
                "eth_getLogs",
                json!([{ "fromBlock": "0x0", "toBlock": "latest" }]),
            ),
            |answer| answer["result"].is_array(),
        ),
        // An error of the caller stays one.
        (
            call("eth_getBalance", json!(["0x12", "latest"])),
            |answer| answer["error"]["code"] == -32602,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_one_provider_works() {
    let (rate, seconds) = (number("RATE", 100), number("SECONDS", 8));
    let Some(gateway) = Gateway::start_mining(3, "").await else {
        return;
    };
    let (sent, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let calls = Arc::new(calls());
    let url = gateway.url();
    let client = gateway.server.client().clone();
    let (began, ends) = (Instant::now(), Duration::from_secs(seconds));
    let load = {
        let (sent, failed) = (Arc::clone(&sent), Arc::clone(&failed));
        tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / u32::try_from(rate).unwrap());
            let mut requests = tokio::task::JoinSet::new();
            while began.elapsed() < ends {
                ticks.tick().await;
                let (client, url) = (client.clone(), url.clone());
                let (calls, failed) = (Arc::clone(&calls), Arc::clone(&failed));
                let number = sent.fetch_add(1, Relaxed) as usize;
                requests.spawn(async move {
                    let (call, is_right) = &calls[number % calls.len()];
                    let answered = client.post(url).json(call).send().await;
                    let answer: Option<Value> = match answered {
                        Ok(answer) => answer.json().await.ok(),
                        Err(_) => None,
                    };
                    if !answer.as_ref().is_some_and(is_right) {
                        println!("{call}: {answer:?}");
                        failed.fetch_add(1, Relaxed);
                    }
                });
                while requests.try_join_next().is_some() {}
            }
            while requests.join_next().await.is_some() {}
        })
    };
    // One provider works at each time, and never the same for long.
    let old = gateway
        .node
        .call("eth_getBlockByNumber", json!(["0x0", false]))
        .await;
    let phases: Vec<Box<dyn Fn()>> = vec![
        Box::new(|| gateway.proxies[0].set(RpcFault::Reset)),
        Box::new(|| gateway.proxies[1].set(RpcFault::Throttle(Some(1)))),
        Box::new(|| {
            gateway.proxies[0].clear();
            gateway.proxies[2].set(RpcFault::Stall);
        }),
        Box::new(|| {
            gateway.proxies[1].clear();
            gateway.proxies[1].set_for(&["eth_chainId"], RpcFault::Result(json!("0x1")));
        }),
        Box::new(|| {
            gateway.proxies[2].clear();
            gateway.proxies[2].set_for(&["eth_getBlockByNumber"], RpcFault::Result(old.clone()));
        }),
        Box::new(|| {
            gateway.proxies[1].clear();
            gateway.proxies[1].set(RpcFault::Cut(30));
        }),
        Box::new(|| {
            gateway.proxies[2].clear();
            gateway.proxies[2].set(RpcFault::Html);
        }),
    ];
    for (index, phase) in phases.iter().enumerate() {
        phase();
        let next = u32::try_from(index + 1).unwrap();
        sleep_until(began + ends * next / u32::try_from(phases.len()).unwrap()).await;
    }
    load.await.unwrap();
    let (sent, failed) = (sent.load(Relaxed), failed.load(Relaxed));
    assert_eq!(failed, 0, "of {sent}; {}", gateway.status().await);
    assert!(sent >= rate * seconds / 2, "{sent}");
    println!("{sent} requests");
}
