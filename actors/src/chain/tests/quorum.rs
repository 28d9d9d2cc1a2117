//! Answers that several providers must agree on.

use headroom_test_support::anvil::ACCOUNT;
use headroom_test_support::rpc_proxy::RpcFault;

use super::logs::make_logs;

use super::super::config::QuorumConfig;
use super::*;

#[test]
fn the_answer_is_the_one_that_enough_providers_give() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start_with(&system, &node, 3, |config| {
            config.quorum = vec![QuorumConfig {
                method: "eth_getBalance".into(),
                asked: 3,
                needed: 2,
            }];
        })
        .await;
        let balance = json!([ACCOUNT, "latest"]);
        let right = node.call("eth_getBalance", balance.clone()).await;
        let lie = |value: &str| RpcFault::Result(json!(value));
        // One lies.
        chain.proxies[0].set_for(&["eth_getBalance"], lie("0x1"));
        assert_eq!(chain.result("eth_getBalance", balance.clone()).await, right);
        // One lies and one fails.
        chain.proxies[1].set_for(&["eth_getBalance"], lie("0x2"));
        let no_quorum = chain
            .ask("eth_getBalance", balance.clone())
            .await
            .unwrap_err();
        let ChainError::NoQuorum {
            needed: 2,
            answers: 3,
            ..
        } = no_quorum
        else {
            panic!("{no_quorum:?}");
        };
        chain.proxies[1].clear();
        chain.proxies[0].clear();
        chain.proxies[0].set_for(&["eth_getBalance"], RpcFault::Html);
        assert_eq!(chain.result("eth_getBalance", balance).await, right);
        chain.stop().await;
    });
}

#[test]
fn providers_agree_on_the_logs_of_each_part_of_a_range() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        make_logs(&node, 8).await;
        let chain = TestChain::start_with(&system, &node, 3, |config| {
            config.quorum = vec![QuorumConfig {
                method: "eth_getLogs".into(),
                asked: 3,
                needed: 2,
            }];
        })
        .await;
        chain.until(|status| status.head >= Some(9)).await;
        let filter = json!([{ "fromBlock": "0x0", "toBlock": "0x9" }]);
        let direct = node.call("eth_getLogs", filter.clone()).await;
        // One hides logs, and the others take no more than five blocks at once.
        chain.proxies[0].set_for(&["eth_getLogs"], RpcFault::Result(json!([])));
        for proxy in &chain.proxies[1..] {
            let refusal = RpcFault::Error(-32005, "query returned more than 10000 results".into());
            proxy.set_times(1, &["eth_getLogs"], refusal);
        }
        assert_eq!(chain.result("eth_getLogs", filter.clone()).await, direct);
        // Only a provider knows which block this is.
        let block = node
            .call("eth_getBlockByNumber", json!(["0x9", false]))
            .await;
        let of_block = json!([{ "blockHash": block["hash"] }]);
        let direct = node.call("eth_getLogs", of_block.clone()).await;
        assert_eq!(chain.result("eth_getLogs", of_block).await, direct);
        // Two hide different ones.
        let lie = RpcFault::Result(json!([{ "logIndex": "0x0" }]));
        chain.proxies[1].set_for(&["eth_getLogs"], lie);
        let no_quorum = chain.ask("eth_getLogs", filter).await;
        assert!(
            matches!(
                no_quorum,
                Err(ChainError::NoQuorum {
                    needed: 2,
                    answers: 3,
                    ..
                })
            ),
            "{no_quorum:?}"
        );
        chain.stop().await;
    });
}
