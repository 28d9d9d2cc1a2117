//! A call is answered as long as one provider can answer it.

use headroom_test_support::anvil::ACCOUNT;
use headroom_test_support::rpc_proxy::RpcFault;

use super::*;

const HUNDRED_ETHER: &str = "0x21e19e0c9bab2400000";

/// What providers do wrong.
fn faults() -> Vec<RpcFault> {
    vec![
        RpcFault::Throttle(Some(1)),
        RpcFault::Throttle(None),
        RpcFault::Status(500),
        RpcFault::Status(502),
        RpcFault::Status(401),
        RpcFault::Redirect("http://127.0.0.1:9/".into()),
        RpcFault::Reset,
        RpcFault::Cut(20),
        RpcFault::Html,
        RpcFault::Huge(64 * MIB),
        RpcFault::Error(-32603, "internal error".into()),
        RpcFault::Error(
            -32005,
            "daily request count exceeded, request rate limited".into(),
        ),
        RpcFault::Error(
            -32601,
            "the method eth_getBalance does not exist/is not available".into(),
        ),
        RpcFault::Error(-32000, "missing trie node 0xab (path )".into()),
        RpcFault::WrongId,
        RpcFault::Answer(200, "[]".into()),
        RpcFault::Answer(200, "{\"jsonrpc\":\"2.0\",\"id\":".into()),
        RpcFault::Answer(200, "null".into()),
    ]
}

#[test]
fn another_provider_answers_whatever_one_does_wrong() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        for fault in faults() {
            // Whichever is asked first.
            for index in [0, 1] {
                let chain = TestChain::start(&system, &node, 2).await;
                chain.proxies[index].set_for(&["eth_getBalance"], fault.clone());
                for _ in 0..3 {
                    let balance = chain.result("eth_getBalance", json!([ACCOUNT, "latest"]));
                    assert_eq!(balance.await, HUNDRED_ETHER, "{fault:?}");
                }
                chain.stop().await;
            }
        }
    });
}

#[test]
fn what_one_provider_does_not_know_is_asked_of_another_one() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let contract = node.deploy_counter().await;
        node.log(&contract, 1).await;
        let block = node.call("eth_getBlockByNumber", json!(["latest", false]));
        let transaction = block.await["transactions"][0].clone();
        for index in [0, 1] {
            let chain = TestChain::start(&system, &node, 2).await;
            let method = "eth_getTransactionReceipt";
            chain.proxies[index].set_for(&[method], RpcFault::Result(Value::Null));
            let receipt = chain.result(method, json!([transaction])).await;
            assert_eq!(receipt["transactionHash"], transaction);
            // One that nobody knows is asked for twice.
            let unknown = json!([format!("0x{}", "ab".repeat(32))]);
            let before: u64 = chain.proxies.iter().map(|it| it.calls(method)).sum();
            assert_eq!(chain.result(method, unknown).await, Value::Null);
            let asked: u64 = chain.proxies.iter().map(|it| it.calls(method)).sum();
            assert_eq!(asked - before, 2);
            chain.stop().await;
        }
    });
}

#[test]
fn a_block_that_one_of_the_nodes_behind_a_url_lacks_is_awaited() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 1).await;
        let lacks = RpcFault::Error(-32000, "header not found".into());
        chain.proxies[0].set_times(6, &["eth_getBalance"], lacks);
        let balance = chain.result("eth_getBalance", json!([ACCOUNT, "latest"]));
        assert_eq!(balance.await, HUNDRED_ETHER);
        chain.stop().await;
    });
}

#[test]
fn the_only_provider_is_probed_often_while_it_is_needed() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 1).await;
        chain.proxies[0].set(RpcFault::Status(503));
        let call = || chain.ask("eth_getBalance", json!([ACCOUNT, "pending"]));
        let before = chain.proxies[0].calls("eth_chainId");
        // At its own pace there are no more than five in this time.
        wait_for_async(Duration::from_secs(15), async || {
            call().await.unwrap_err();
            let probes = chain.proxies[0].calls("eth_chainId") - before;
            (probes > 10).then_some(()).ok_or(probes)
        })
        .await;
        chain.proxies[0].clear();
        wait_for_async(LONG, async || call().await.map(drop)).await;
        chain.stop().await;
    });
}

#[test]
fn a_provider_that_has_failed_is_probed_at_its_own_pace_while_another_one_answers() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 2).await;
        chain.proxies[1].set(RpcFault::Status(503));
        // The first one does not have it, so calls look for the other one.
        let unknown = RpcFault::Error(-32601, "the method does not exist".into());
        chain.proxies[0].set_for(&["trace_block"], unknown);
        let before = chain.proxies[1].calls("eth_chainId");
        let end = std::time::Instant::now() + Duration::from_secs(3);
        while std::time::Instant::now() < end {
            chain.ask("trace_block", json!(["0x0"])).await.ok();
            let balance = json!([ACCOUNT, "pending"]);
            assert_eq!(chain.result("eth_getBalance", balance).await, HUNDRED_ETHER);
        }
        let probes = chain.proxies[1].calls("eth_chainId") - before;
        assert!(probes <= 6, "{probes}");
        chain.stop().await;
    });
}

#[test]
fn a_provider_that_stops_answering_is_left_within_its_time_limit() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 2).await;
        // Neither is hedged.
        for _ in 0..50 {
            chain
                .result("eth_getBalance", json!([ACCOUNT, "latest"]))
                .await;
        }
        let first = chain.status().await.providers[0].name.clone();
        let index = usize::from(first == "two");
        chain.proxies[index].set_for(&["eth_getBalance"], RpcFault::Stall);
        let calls = vec![("eth_getBalance", json!([ACCOUNT, "latest"])); 40];
        let began = std::time::Instant::now();
        for answer in chain.serve(calls).await {
            assert_eq!(
                answer.unwrap(),
                Outcome::Result(format!("\"{HUNDRED_ETHER}\"").into())
            );
        }
        // The provider's own limit is 5 s.
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{:?}",
            began.elapsed()
        );
        chain.stop().await;
    });
}

#[test]
fn errors_of_the_caller_pass_through_unchanged() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 2).await;
        let reverts = json!([{ "data": "0x63deadbeef60e01b60005260246000fd" }, "latest"]);
        for (method, params) in [
            ("eth_call", reverts),
            ("eth_getBalance", json!(["0x12", "latest"])),
            ("eth_sendRawTransaction", json!(["0x02"])),
        ] {
            let direct = node.answer(method, params.clone()).await;
            let asked: u64 = chain.proxies.iter().map(|it| it.calls(method)).sum();
            assert_eq!(
                chain.error(method, params).await,
                direct["error"],
                "{method}"
            );
            let now: u64 = chain.proxies.iter().map(|it| it.calls(method)).sum();
            assert_eq!(now, asked + 1, "{method}");
        }
        let status = chain.status().await;
        assert!(
            status.providers.iter().all(|it| it.error_rate == 0.0),
            "{status:?}"
        );
        chain.stop().await;
    });
}

#[test]
fn if_all_fail_the_caller_learns_why() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 2).await;
        for proxy in &chain.proxies {
            proxy.set_for(&["eth_gasPrice"], RpcFault::Html);
        }
        let failed = chain.ask("eth_gasPrice", json!([])).await.unwrap_err();
        assert!(
            matches!(
                failed,
                ChainError::Failed { asked: 2.., .. } | ChainError::NoProvider(_)
            ),
            "{failed:?}"
        );
        // What nobody offers is an error of JSON-RPC.
        for proxy in &chain.proxies {
            proxy.clear();
        }
        chain
            .until(|status| status.providers.iter().all(|it| it.is_used))
            .await;
        let error = chain.error("eth_noSuchThing", json!([])).await;
        assert_eq!(error["code"], -32601, "{error}");
        chain.stop().await;
    });
}

#[test]
fn providers_that_cannot_be_used_say_why() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 3).await;
        assert!(chain.set_drained("two", true).await);
        let place = chain.place("two").await;
        assert!(
            !place.is_used && place.reason.as_deref() == Some("it is drained"),
            "{place:?}"
        );
        assert!(chain.set_drained("two", false).await);
        chain
            .until(|status| status.providers.iter().all(|it| it.is_used))
            .await;
        assert!(!chain.set_drained("five", true).await);
        // A provider that changes its chain is not used, and lags are seen.
        node.mine(30).await;
        let old = node
            .call("eth_getBlockByNumber", json!(["0x1", false]))
            .await;
        chain.proxies[0].set_for(&["eth_getBlockByNumber"], RpcFault::Result(old));
        chain
            .until(|status| {
                let mut places = status.providers.iter();
                let behind = Some("it is 29 blocks behind");
                places.any(|it| it.name == "one" && it.reason.as_deref() == behind)
            })
            .await;
        chain.stop().await;
    });
}

#[test]
fn a_drained_provider_stays_so_when_its_chain_is_closed_and_opened() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 2).await;
        assert!(chain.set_drained("two", true).await);
        let chain = chain.reopen(&system).await;
        let is_used = |name: &'static str| {
            move |status: &ChainStatus| {
                let mut places = status.providers.iter();
                places.any(|it| it.name == name && it.is_used)
            }
        };
        chain.until(is_used("one")).await;
        let place = chain.place("two").await;
        assert_eq!(place.reason.as_deref(), Some("it is drained"));
        assert!(chain.set_drained("two", false).await);
        let chain = chain.reopen(&system).await;
        chain.until(is_used("two")).await;
        chain.stop().await;
    });
}

#[test]
fn methods_are_refused_for_what_they_do_or_by_the_settings() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start_with(&system, &node, 1, |config| {
            config.methods_denied = vec!["eth_gasPrice".into()];
        })
        .await;
        for method in [
            "anvil_mine",
            "eth_sendTransaction",
            "personal_unlockAccount",
            "eth_gasPrice",
        ] {
            let refused = chain.ask(method, json!([])).await.unwrap_err();
            assert_eq!(refused.rpc_code(), -32601, "{method}");
        }
        chain.stop().await;
    });
}

#[test]
fn equal_calls_that_leave_together_hold_up_no_later_one() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 1).await;
        for round in 1..=5 {
            chain.proxies[0].set_for(&["eth_getCode"], RpcFault::Stall);
            let account = format!("0x{round:040x}");
            let code = || chain.ask("eth_getCode", json!([account, "0x0"]));
            let together = futures_util::future::join3(code(), code(), code());
            let left = tokio::time::timeout(Duration::from_millis(200), together).await;
            assert!(left.is_err(), "{left:?}");
            chain.proxies[0].clear();
            let answer = tokio::time::timeout(LONG / 3, code()).await;
            assert!(answer.is_ok(), "nobody leads");
        }
        chain.stop().await;
    });
}

/// Starts a chain of two providers without hedges and practically without time limits, so that only a provider's silence
/// makes a call leave it.
async fn start_patient(system: &TestSystem, node: &Anvil) -> TestChain {
    TestChain::start_with(system, node, 2, |config| {
        config.selection.hedge_share = 0.0;
        for provider in &mut config.providers {
            provider.timeout = LONG * 100;
        }
    })
    .await
}

#[test]
fn a_call_leaves_a_provider_that_has_stopped_answering() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = start_patient(&system, &node).await;
        chain
            .result("eth_getBalance", json!([ACCOUNT, "latest"]))
            .await;
        let first = chain.status().await.providers[0].name.clone();
        let index = usize::from(first == "two");
        chain.proxies[index].set_for(&["eth_getStorageAt"], RpcFault::Stall);
        let slot = json!([ACCOUNT, "0x0", "latest"]);
        let answer = chain.result("eth_getStorageAt", slot).await;
        assert_eq!(answer, format!("0x{}", "0".repeat(64)));
        assert_eq!(chain.proxies[index].calls("eth_getStorageAt"), 1);
        chain.stop().await;
    });
}

#[test]
fn calls_go_to_others_at_once_while_a_provider_does_not_answer() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = start_patient(&system, &node).await;
        chain
            .result("eth_getBalance", json!([ACCOUNT, "0x0"]))
            .await;
        let first = chain.status().await.providers[0].name.clone();
        let index = usize::from(first == "two");
        chain.proxies[index].set(RpcFault::Stall);
        // A call that is sent once stays where it is.
        let sent_once = chain.ask("eth_noSuchThing", json!([]));
        let others = async {
            wait_for_async(LONG, async || {
                let place = chain.place(&first).await;
                let reason = place.reason.as_deref();
                (reason == Some("it has calls and does not answer"))
                    .then_some(())
                    .ok_or(place)
            })
            .await;
            for number in 1..=20 {
                let account = format!("0x{number:040x}");
                let code = chain.result("eth_getCode", json!([account, "0x0"]));
                assert_eq!(code.await, "0x");
            }
            assert_eq!(chain.proxies[index].calls("eth_getCode"), 0);
        };
        tokio::select! {
            answer = sent_once => panic!("{answer:?}"),
            () = others => {}
        }
        chain.stop().await;
    });
}
