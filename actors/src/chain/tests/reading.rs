//! Which block is the newest for those who ask.

use headroom_test_support::rpc_proxy::RpcFault;

use super::*;

fn number(text: &Value) -> u64 {
    let digits = text.as_str().and_then(|text| text.strip_prefix("0x"));
    u64::from_str_radix(digits.unwrap(), 16).unwrap()
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
