//! Requests and providers that are made to do harm: memory stays bounded, and there is a clear error, or the answer of a
//! provider that works.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use headroom_test_support::process_tree::{PeakSampler, tree_pss};
use headroom_test_support::rpc_proxy::RpcFault;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::nodes::Gateway;

const MIB: u64 = 1024 * 1024;

/// The bounds of a provider in these tests.
const BOUNDS: &str = "rpc.provider.answer_max = '4MiB'\nrpc.provider.timeout = '1s'";

/// The text that the gateway or the node answers to the text `body`.
async fn post(gateway: &Gateway, url: &str, body: String) -> String {
    let request = gateway.server.client().post(url).body(body);
    let request = request.header(CONTENT_TYPE, "application/json");
    let answer = request.send().await.unwrap();
    answer.text().await.unwrap()
}

/// An answer, with the text of its id.
#[derive(Deserialize)]
struct Answer<'text> {
    #[serde(borrow)]
    id: &'text RawValue,
    result: Option<Value>,
    error: Option<Value>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_ten_thousand_is_answered_in_order_where_it_is_allowed() {
    let Some(gateway) = Gateway::start(2, "rpc.batch_max = 10000").await else {
        return;
    };
    let huge = "9".repeat(400);
    let (mut calls, mut expected) = (Vec::new(), Vec::new());
    for number in 0..10_000 {
        let id = match number % 7 {
            0 => None,
            1 => Some("null".to_owned()),
            2 => Some(format!("\"{number}\\u0000\\\"\"")),
            3 => Some(format!("{huge}{number}")),
            4 => Some(format!("-{number}.5e-{huge}")),
            5 => Some("7".to_owned()),
            _ => Some(number.to_string()),
        };
        let member = id.as_ref().map(|id| format!("\"id\":{id},"));
        let member = member.unwrap_or_default();
        let is_call = number % 11 > 0;
        let version = if is_call { "2.0" } else { "1.0" };
        calls.push(format!(
            "{{\"jsonrpc\":\"{version}\",{member}\"method\":\"eth_chainId\"}}"
        ));
        match (id, is_call) {
            (None, true) => {}
            (id, _) => expected.push((id.unwrap_or("null".into()), is_call)),
        }
    }
    let url = gateway.url();
    let text = post(&gateway, &url, format!("[{}]", calls.join(","))).await;
    let answers: Vec<Answer<'_>> = serde_json::from_str(&text).unwrap();
    assert_eq!(answers.len(), expected.len());
    for (answer, (id, is_call)) in answers.iter().zip(&expected) {
        assert_eq!(answer.id.get(), id);
        match is_call {
            true => assert_eq!(answer.result, Some(json!("0x7a69")), "{id}"),
            false => assert_eq!(answer.error.as_ref().unwrap()["code"], -32600, "{id}"),
        }
    }
    // Equal calls of a batch are one.
    let proxies = gateway.proxies.iter();
    let asked: u64 = proxies.map(|it| it.calls("eth_chainId")).sum();
    assert!(asked < 1000, "{asked}");
    calls.push(calls[1].clone());
    let text = post(&gateway, &url, format!("[{}]", calls.join(","))).await;
    let refused: Value = serde_json::from_str(&text).unwrap();
    let message = "the batch has more than 10000 calls";
    assert_eq!(refused["error"]["message"], message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_does_not_read_gets_the_error_of_the_node() {
    let Some(gateway) = Gateway::start(2, "").await else {
        return;
    };
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for value in [
        nested(120),
        "{\"a\":".repeat(120) + "1" + &"}".repeat(120),
        "9".repeat(100_000),
        "-0.0".into(),
        "1e-999999".into(),
        format!("\"0x{}\"", "f".repeat(1_000_000)),
        format!("\"{}\"", "\\u0000".repeat(100_000)),
        "\"\\ud83d\\ude00 \u{fffd}\"".into(),
        "{\"a\":1,\"a\":2,\"\":3}".into(),
    ] {
        let body = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_getBalance\",\"params\":[{value},\"0x0\"]}}"
        );
        let through = post(&gateway, &gateway.url(), body.clone()).await;
        let direct = post(&gateway, &gateway.node.url(), body).await;
        let [through, direct]: [Value; 2] =
            [through, direct].map(|text| serde_json::from_str(&text).unwrap());
        let shown: String = value.chars().take(40).collect();
        assert!(direct["error"]["code"].is_i64(), "{shown}: {direct}");
        assert_eq!(through["error"], direct["error"], "{shown}");
    }
}

fn get_code(number: u64) -> Value {
    json!([format!("{number:#042x}"), "latest"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_a_bound_cost_no_more_than_the_bound() {
    let Some(gateway) = Gateway::start(1, BOUNDS).await else {
        return;
    };
    let gateway = &gateway;
    let (calls, bound) = (16, 4 * MIB);
    let before = tree_pss(gateway.server.pid());
    let sampler = PeakSampler::start(gateway.server.pid());
    for (round, fault) in [
        RpcFault::Huge(1 << 30),
        RpcFault::Endless,
        RpcFault::Huge(5 << 20),
    ]
    .into_iter()
    .enumerate()
    {
        gateway.proxies[0].clear();
        gateway.proxies[0].set_for(&["eth_getCode"], fault.clone());
        // Different calls, so that each is sent.
        let asked = (0..calls).map(|call| async move {
            let params = get_code(round as u64 * calls + call);
            gateway.answer("eth_getCode", &params).await
        });
        for answer in join_all(asked).await {
            let error = &answer["error"];
            assert_eq!(error["code"], -32002, "{fault:?}: {answer}");
            assert_eq!(error["data"]["type"], "failed", "{answer}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("more than 4194304 bytes"), "{message}");
        }
    }
    let peak = sampler.finish().bytes;
    // Each answer has at most its bound, and what is being read of the next piece. The rest is a margin.
    let most = before + 2 * calls * bound + 32 * MIB;
    assert!(peak < most, "{before} before, {peak} at most");
    wait_for_async(DEADLINE, || async {
        let held = gateway.server.buffer_bytes("chains").await;
        (held < bound).then_some(()).ok_or(held)
    })
    .await;
    gateway.proxies[0].clear();
    let answer = gateway.answer("eth_getCode", &get_code(0)).await;
    assert_eq!(answer["result"], "0x");
}

fn unfinished() -> [RpcFault; 4] {
    [
        RpcFault::Stall,
        RpcFault::Pause(10),
        RpcFault::Trickle(Duration::from_secs(1)),
        RpcFault::Endless,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_provider_answers_for_one_that_does_not_finish() {
    let Some(gateway) = Gateway::start(2, BOUNDS).await else {
        return;
    };
    let count = AtomicU64::new(0);
    for fault in unfinished().into_iter().chain([RpcFault::Huge(1 << 30)]) {
        // The provider that is quicker otherwise is asked first.
        gateway.proxies[1].set(RpcFault::Delay(Duration::from_millis(30)));
        gateway.proxies[0].clear();
        gateway.wait_until_all_are_used().await;
        gateway.proxies[0].set_for(&["eth_getCode"], fault.clone());
        let asked = gateway.proxies[0].calls("eth_getCode");
        wait_for_async(DEADLINE, || async {
            let number = count.fetch_add(1, Relaxed);
            let answer = gateway.answer("eth_getCode", &get_code(number)).await;
            assert_eq!(answer["result"], "0x", "{fault:?}: {answer}");
            let is_asked = gateway.proxies[0].calls("eth_getCode") > asked;
            is_asked.then_some(()).ok_or("the other one was asked")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_does_not_finish_is_named_in_a_clear_error() {
    let Some(gateway) = Gateway::start(1, BOUNDS).await else {
        return;
    };
    for (fault, said) in unfinished().into_iter().zip([
        "did not answer in 1s",
        "did not answer in 1s",
        "did not answer in 1s",
        "more than 4194304 bytes",
    ]) {
        gateway.proxies[0].clear();
        gateway.wait_until_all_are_used().await;
        gateway.proxies[0].set_for(&["eth_getCode"], fault.clone());
        let given_up = gateway.proxies[0].given_up();
        let answer = gateway.answer("eth_getCode", &get_code(1)).await;
        let error = &answer["error"];
        assert_eq!(error["code"], -32002, "{fault:?}: {answer}");
        let message = error["message"].as_str().unwrap();
        let is_clear = message.contains(said) || message.contains("too many calls failed");
        assert!(is_clear, "{fault:?}: {message}");
        if !matches!(fault, RpcFault::Trickle(_)) {
            // No connection is left that nobody reads.
            wait_for_async(DEADLINE, || async {
                let now = gateway.proxies[0].given_up();
                (now > given_up).then_some(()).ok_or(now)
            })
            .await;
        }
    }
}
