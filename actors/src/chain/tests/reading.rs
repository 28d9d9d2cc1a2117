//! Which block is the newest for those who ask, also when no provider has told its head for a while.

use headroom_test_support::anvil::ACCOUNT;
use headroom_test_support::rpc_proxy::RpcFault;

use super::*;

/// Starts a chain whose second provider is cheaper, so that it is asked first. Its node has so many blocks.
async fn start(system: &TestSystem, node: &Anvil, blocks: u64) -> TestChain {
    node.mine(blocks).await;
    let chain = TestChain::start_with(system, node, 2, |config| {
        config.providers[0].cost = 100.0;
    })
    .await;
    chain.until(|status| status.head == Some(blocks)).await;
    chain
}

/// Makes the providers tell no head until theirs are not the newest any more.
async fn make_silent(chain: &TestChain) {
    for proxy in &chain.proxies {
        proxy.clear();
        proxy.set_for(&["eth_getBlockByNumber"], RpcFault::Result(Value::Null));
    }
    chain
        .until(|status| status.head_age_seconds.is_some_and(|age| age > 7.0))
        .await;
}

#[test]
fn a_block_that_was_shown_is_not_hidden_by_a_provider_without_it_after_a_silence() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = start(&system, &node, 5).await;
        let older = node
            .call("eth_getBlockByNumber", json!(["0x4", false]))
            .await;
        chain.proxies[1].set_for(&["eth_getBlockByNumber"], RpcFault::Result(older));
        chain
            .until(|status| {
                let mut places = status.providers.iter();
                places.any(|it| it.name == "two" && it.lag_blocks == Some(1))
            })
            .await;
        make_silent(&chain).await;
        let old = [
            "eth_getBalance",
            "eth_blockNumber",
            "eth_gasPrice",
            "eth_getLogs",
        ];
        chain.proxies[1].set_for(&old, RpcFault::Result(json!("0x4")));
        let calls = vec![
            ("eth_getBalance", json!([ACCOUNT, "latest"])),
            ("eth_blockNumber", json!([])),
            ("eth_gasPrice", json!([])),
            ("eth_getLogs", json!([{ "fromBlock": "0x0" }])),
        ];
        for (call, answer) in calls.iter().zip(chain.serve(calls.clone()).await) {
            let direct = node.call(call.0, call.1.clone()).await;
            let Ok(Outcome::Result(text)) = answer else {
                panic!("{call:?}: {answer:?}");
            };
            let answer: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(answer, direct, "{call:?}");
        }
        assert!(old.iter().all(|method| chain.proxies[1].calls(method) == 0));
        chain.stop().await;
    });
}

#[test]
fn calls_wait_for_a_head_after_a_silence() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = start(&system, &node, 5).await;
        make_silent(&chain).await;
        chain.proxies.iter().for_each(RpcProxy::clear);
        // Once it is known which block `latest` is, its answer is kept.
        for _ in 0..2 {
            let price = chain.result("eth_gasPrice", json!([])).await;
            assert!(price.is_string(), "{price}");
        }
        let asked = chain.proxies.iter().map(|it| it.calls("eth_gasPrice"));
        assert_eq!(asked.sum::<u64>(), 1);
        chain.stop().await;
    });
}

#[test]
fn a_block_that_an_answer_has_shown_is_the_newest_from_then_on() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start_with(&system, &node, 1, |config| {
            // No look at the head comes between.
            config.block_time = Duration::from_secs(20);
        })
        .await;
        let blocks = 500;
        node.mine(blocks).await;
        wait_for_async(LONG, async || {
            let newest = number(&chain.result("eth_blockNumber", json!([])).await);
            (newest >= blocks).then_some(()).ok_or(newest)
        })
        .await;
        let latest = chain.result("eth_getBlockByNumber", json!(["latest", false]));
        assert!(number(&latest.await["number"]) >= blocks);
        chain.stop().await;
    });
}

#[test]
fn one_provider_of_three_does_not_show_a_block_that_none_has() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        node.mine(50).await;
        let chain = TestChain::start(&system, &node, 3).await;
        chain.until(|status| status.head == Some(50)).await;
        for proxy in &chain.proxies {
            proxy.set_for(&["eth_blockNumber"], RpcFault::Result(json!("0xffffff")));
        }
        let newest = chain.result("eth_blockNumber", json!([])).await;
        assert_eq!(number(&newest), 50);
        let latest = chain.result("eth_getBlockByNumber", json!(["latest", false]));
        assert_eq!(number(&latest.await["number"]), 50);
        chain.stop().await;
    });
}
