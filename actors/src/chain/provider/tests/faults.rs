//! Faults of the provider: each has its own name, none is passed on as an answer.

use headroom_test_support::rpc_proxy::RpcFault;

use super::*;

fn quick(url: &str) -> ProviderConfig {
    ProviderConfig {
        timeout: Duration::from_millis(400),
        ..config(url)
    }
}

/// Makes the fault for one call, and returns what became of it.
async fn suffer(provider: &TestProvider, proxy: &RpcProxy, fault: RpcFault) -> Fault {
    proxy.clear();
    proxy.set_for(&["eth_blockNumber"], fault);
    let result = provider.number().await;
    proxy.clear();
    provider.number().await.unwrap();
    result.unwrap_err()
}

#[test]
fn each_fault_is_told_from_the_others_and_leaves_the_provider_in_use() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, quick(&proxy.url())).await;
        for _ in 0..20 {
            provider.number().await.unwrap();
        }
        let fault = suffer(&provider, &proxy, RpcFault::Stall).await;
        assert!(matches!(fault, Fault::Timeout(_)), "{fault}");
        let fault = suffer(
            &provider,
            &proxy,
            RpcFault::Trickle(Duration::from_millis(50)),
        )
        .await;
        assert!(matches!(fault, Fault::Timeout(_)), "{fault}");
        let fault = suffer(&provider, &proxy, RpcFault::Cut(20)).await;
        assert!(matches!(fault, Fault::Torn), "{fault}");
        let fault = suffer(&provider, &proxy, RpcFault::Reset).await;
        assert!(matches!(fault, Fault::Torn), "{fault}");
        let fault = suffer(&provider, &proxy, RpcFault::Html).await;
        assert!(matches!(fault, Fault::NotRpc(_)), "{fault}");
        let fault = suffer(&provider, &proxy, RpcFault::Status(502)).await;
        assert!(matches!(fault, Fault::Status(502)), "{fault}");
        let to = format!("{}/elsewhere", proxy.url());
        let fault = suffer(&provider, &proxy, RpcFault::Redirect(to)).await;
        assert!(matches!(fault, Fault::Status(302)), "not followed: {fault}");
        let status = provider.status().await;
        let counts = status.total;
        assert_eq!(
            (counts.timeout, counts.torn, counts.status, counts.invalid),
            (2, 2, 2, 1)
        );
        provider.stop().await;
    });
}

#[test]
fn an_error_of_json_rpc_counts_also_with_another_status() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, config(&proxy.url())).await;
        let body = |code: i64, message: &str| {
            let error = json!({ "code": code, "message": message });
            json!({ "jsonrpc": "2.0", "id": null, "error": error }).to_string()
        };
        let reverted = RpcFault::Answer(400, body(3, "execution reverted"));
        proxy.set_for(&["eth_blockNumber"], reverted);
        assert!(matches!(provider.number().await, Ok(Outcome::Error(_))));
        proxy.clear();
        let internal = RpcFault::Answer(500, body(-32603, "Internal error"));
        let fault = suffer(&provider, &proxy, internal).await;
        assert!(matches!(fault, Fault::Error { .. }), "{fault}");
        drop(fault);
        let fault = suffer(&provider, &proxy, RpcFault::Restatus(500)).await;
        assert!(
            matches!(fault, Fault::Status(500)),
            "a result with 500 is none: {fault}"
        );
        // What looks like an error of the caller is none if the key is refused.
        let inactive = RpcFault::Answer(403, body(-32600, "App is inactive"));
        let fault = suffer(&provider, &proxy, inactive).await;
        assert!(matches!(fault, Fault::Denied(403)), "{fault}");
        provider.stop().await;
    });
}

#[test]
fn an_answer_without_end_is_given_up_and_takes_no_memory() {
    with_node(async |system, _anvil, proxy| {
        let small = ProviderConfig {
            answer_max: MIB,
            ..config(&proxy.url())
        };
        let provider = TestProvider::start(&system, small).await;
        // The first would fit into the budget, the second is more than the whole machine should take.
        for bytes in [16 * MIB, 1 << 30] {
            let fault = suffer(&provider, &proxy, RpcFault::Huge(bytes)).await;
            assert!(
                matches!(fault, Fault::TooLarge { max } if max == MIB),
                "{fault}"
            );
            assert_eq!(provider.buffers.held(), 0);
        }
        provider.stop().await;
    });
}

#[test]
fn an_answer_that_memory_has_no_room_for_is_given_up() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, config(&proxy.url())).await;
        provider.buffers.set_max(MIB);
        let fault = suffer(&provider, &proxy, RpcFault::Huge(8 * MIB)).await;
        assert!(matches!(fault, Fault::NoMemory), "{fault}");
        assert_eq!(provider.buffers.held(), 0);
        // It is not the provider's fault.
        let standing = provider.standing("eth_blockNumber").unwrap();
        assert_eq!(standing.error_rate, 0.0);
        provider.stop().await;
    });
}

#[test]
fn a_provider_that_is_away_cannot_be_reached() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, config(&proxy.url())).await;
        drop(proxy);
        let fault = loop {
            match provider.number().await {
                // The kept connection ends with it.
                Err(Fault::Torn) => {}
                Err(fault) => break fault,
                Ok(_) => panic!("an answer"),
            }
        };
        let Fault::Connect(why) = fault else {
            panic!("{fault}");
        };
        assert!(why.contains("refused"), "{why}");
        provider.stop().await;
    });
}

#[test]
fn what_the_provider_lacks_is_remembered() {
    with_node(async |system, anvil, proxy| {
        let provider = TestProvider::start(&system, config(&proxy.url())).await;
        let lacks = RpcFault::Error(-32601, "the method does not exist/is not available".into());
        proxy.set_for(&["trace_block"], lacks);
        let fault = provider
            .send("trace_block", &json!(["0x0"]))
            .await
            .unwrap_err();
        assert!(matches!(fault, Fault::Error { .. }), "{fault}");
        drop(fault);
        assert_eq!(
            provider.standing("trace_block").unwrap_err(),
            Unused::Unsupported
        );
        let fault = provider
            .send("trace_block", &json!(["0x0"]))
            .await
            .unwrap_err();
        assert!(
            matches!(fault, Fault::Unused(Unused::Unsupported)),
            "{fault}"
        );
        assert_eq!(proxy.calls("trace_block"), 1, "not asked again");

        anvil.mine(200).await;
        provider
            .until(|status| status.head.as_ref().is_some_and(|head| head.number == 200))
            .await;
        let pruned = RpcFault::Error(-32000, "missing trie node 0xabc (path )".into());
        proxy.set_times(1, &["eth_getBalance"], pruned);
        let params = json!([headroom_test_support::anvil::ACCOUNT, "0x32"]);
        provider.send("eth_getBalance", &params).await.unwrap_err();
        assert_eq!(
            provider.standing("eth_getBalance").unwrap().oldest_state,
            Some(51)
        );

        let range = RpcFault::Error(-32614, "eth_getLogs is limited to a 1,000 range".into());
        proxy.set_for(&["eth_getLogs"], range);
        provider
            .send("eth_getLogs", &json!([{}]))
            .await
            .unwrap_err();

        let status = provider.status().await;
        assert_eq!(status.limits.logs_range_max, Some(1_000));
        assert_eq!(status.limits.unsupported_methods, ["trace_block"]);
        assert_eq!((status.total.lacking, status.error_rate), (3, 0.0));
        provider.stop().await;
    });
}
