//! Calls that succeed, and those whose errors concern the caller.

use futures_util::future::join_all;
use headroom_test_support::anvil::ACCOUNT;
use headroom_test_support::rpc_proxy::RpcFault;

use super::*;

fn batches(url: &str) -> ProviderConfig {
    ProviderConfig {
        batch_max: 20,
        batch_wait: Duration::from_millis(20),
        ..config(url)
    }
}

#[test]
fn results_and_errors_pass_through_as_the_node_writes_them() {
    with_node(async |system, anvil, proxy| {
        let provider = TestProvider::start(&system, config(&proxy.url())).await;
        for (method, params) in [
            ("eth_getBalance", json!([ACCOUNT, "latest"])),
            ("eth_getBlockByNumber", json!(["0x0", true])),
            (
                "eth_getTransactionReceipt",
                json!([format!("0x{}", "1".repeat(64))]),
            ),
            ("eth_getBalance", json!(["0x12", "latest"])),
            ("eth_call", json!([{ "data": "0x5f5ffd" }, "latest"])),
            ("eth_sendRawTransaction", json!(["0x00"])),
        ] {
            let direct = anvil.answer(method, params.clone()).await;
            let text = match provider.send(method, &params).await {
                Ok(Outcome::Result(text)) => {
                    assert_eq!(direct.get("error"), None, "{method}");
                    (text, &direct["result"])
                }
                Ok(Outcome::Error(text)) => (text, &direct["error"]),
                Err(fault) => panic!("{method}: {fault}"),
            };
            assert_eq!(
                &serde_json::from_slice::<Value>(&text.0).unwrap(),
                text.1,
                "{method}"
            );
        }
        let status = provider.status().await;
        assert!(status.total.caller_errors >= 3, "{status:?}");
        assert_eq!(
            (status.error_rate, status.state),
            (0.0, ProviderState::Ready)
        );
        provider.stop().await;
    });
}

#[test]
fn a_large_answer_holds_its_part_of_the_budget_until_it_is_dropped() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, config(&proxy.url())).await;
        proxy.set_for(&["eth_getLogs"], RpcFault::Huge(8 * MIB));
        let Ok(Outcome::Result(text)) = provider.send("eth_getLogs", &json!([{}])).await else {
            panic!();
        };
        assert_eq!(text.len() as u64, 8 * MIB + 2);
        assert!(provider.buffers.held() >= 8 * MIB);
        let slice = text.slice(..10);
        drop(text);
        assert!(provider.buffers.held() >= 8 * MIB);
        drop(slice);
        provider.stop().await;
    });
}

#[test]
fn calls_that_come_together_go_as_one_request() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, batches(&proxy.url())).await;
        // The answers come in another order, and are matched by their ids.
        proxy.set(RpcFault::Reverse);
        let before = (proxy.requests(), proxy.calls("eth_getStorageAt"));
        let slots: Vec<_> = (0..40)
            .map(|slot| json!([ACCOUNT, format!("{slot:#x}"), "latest"]))
            .collect();
        let balance = json!([ACCOUNT, "latest"]);
        let (results, balance) = tokio::join!(
            join_all(
                slots
                    .iter()
                    .map(|params| provider.result("eth_getStorageAt", params))
            ),
            provider.result("eth_getBalance", &balance),
        );
        assert!(
            results
                .iter()
                .all(|slot| slot.as_str().unwrap().len() == 66)
        );
        assert_ne!(balance, results[0]);
        assert_eq!(proxy.calls("eth_getStorageAt") - before.1, 40);
        let requests = proxy.requests() - before.0;
        assert!(requests <= 6, "{requests} requests for 41 calls");
        provider.stop().await;
    });
}

#[test]
fn a_provider_that_refuses_batches_gets_single_calls() {
    with_node(async |system, _anvil, proxy| {
        proxy.set(RpcFault::NoBatches);
        let provider = TestProvider::start(&system, batches(&proxy.url())).await;
        for _ in 0..2 {
            let params = json!([ACCOUNT, "latest"]);
            let results = join_all((0..10).map(|_| provider.result("eth_getBalance", &params)));
            assert_eq!(results.await.len(), 10);
        }
        let status = provider.status().await;
        assert_eq!((status.limits.batch_max, status.error_rate), (1, 0.0));
        provider.stop().await;
    });
}

#[test]
fn only_the_call_whose_answer_is_missing_fails() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, batches(&proxy.url())).await;
        proxy.set_for(&["eth_getBalance"], RpcFault::Lack);
        let params = json!([ACCOUNT, "latest"]);
        let results = join_all((0..20).map(|_| provider.send("eth_getBalance", &params))).await;
        let failed = results
            .iter()
            .filter(|result| matches!(result, Err(Fault::NotRpc(_))));
        assert_eq!(failed.count(), 1, "{results:?}");
        let answered = results.iter().filter(|result| result.is_ok());
        assert_eq!(answered.count(), 19);
        drop(results);
        provider.stop().await;
    });
}

#[test]
fn wrong_and_double_ids_are_faults() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, batches(&proxy.url())).await;
        let params = json!([ACCOUNT, "latest"]);
        for fault in [RpcFault::WrongId, RpcFault::Twice] {
            proxy.clear();
            proxy.set_for(&["eth_getBalance"], fault);
            let results = join_all((0..3).map(|_| provider.send("eth_getBalance", &params))).await;
            let failed = results
                .iter()
                .filter(|result| matches!(result, Err(Fault::NotRpc(_))));
            assert_eq!(failed.count(), 3, "{results:?}");
        }
        provider.stop().await;
    });
}

#[test]
fn a_caller_that_leaves_ends_its_request_and_frees_its_place() {
    with_node(async |system, _anvil, proxy| {
        let limit = ProviderConfig {
            in_flight_max: 1,
            // Nothing else ends the request while the test waits.
            timeout: 2 * LONG,
            ..config(&proxy.url())
        };
        let provider = TestProvider::start(&system, limit).await;
        proxy.set_for(&["eth_gasPrice"], RpcFault::Stall);
        let call = Arc::new(Call::new("eth_gasPrice", ""));
        let asked = provider
            .handle
            .ask(Send { call }, Duration::from_millis(300));
        asked.await.unwrap_err();
        let status = provider
            .until(|status| status.requests_in_flight == 0)
            .await;
        assert_eq!(status.calls_in_flight, 0);
        assert!(
            status.latency.light.average_seconds.unwrap() > 0.01,
            "it counts as slow"
        );
        provider
            .until(|status| status.state == ProviderState::Ready)
            .await;
        provider.stop().await;
    });
}
