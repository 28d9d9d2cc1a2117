//! Transactions are published once, and said to be so.

use headroom_test_support::anvil::{ACCOUNT, OTHER_ACCOUNT};
use headroom_test_support::rpc_proxy::RpcFault;

use super::*;

/// A signed transfer.
async fn signed(node: &Anvil) -> (String, String) {
    let nonce = node
        .call("eth_getTransactionCount", json!([ACCOUNT, "pending"]))
        .await;
    let transaction = json!({
        "from": ACCOUNT, "to": OTHER_ACCOUNT, "value": "0x1", "nonce": nonce, "gas": "0x5208",
        "maxFeePerGas": "0x77359400", "maxPriorityFeePerGas": "0x3b9aca00", "chainId": format!("{CHAIN_ID:#x}"),
    });
    let signed = node.call("eth_signTransaction", json!([transaction])).await;
    let raw = signed
        .as_str()
        .or_else(|| signed["raw"].as_str())
        .unwrap()
        .to_owned();
    let bytes: ethers_core::types::Bytes = raw.parse().unwrap();
    let hash = ethers_core::types::H256(ethers_core::utils::keccak256(&bytes));
    (raw, format!("{hash:?}"))
}

#[test]
fn a_transaction_that_a_provider_has_is_published() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 3).await;
        let (raw, hash) = signed(&node).await;
        // Once, and again as a client does that has lost the answer: first as one that is in a block.
        for _ in 0..3 {
            let result = chain.result("eth_sendRawTransaction", json!([raw])).await;
            assert_eq!(result, hash);
        }
        wait_for_async(LONG, async || {
            let receipt = chain.result("eth_getTransactionReceipt", json!([hash]));
            let receipt = receipt.await;
            (receipt["status"] == "0x1").then_some(()).ok_or(receipt)
        })
        .await;
        // Another transaction with its nonce is refused.
        let refused = json!(["0x02f86d827a6980843b9aca00847735940082520894709979"]);
        assert!(chain.error("eth_sendRawTransaction", refused).await["code"].is_i64());
        chain.stop().await;
    });
}

#[test]
fn a_transaction_whose_answer_is_lost_is_looked_for() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 2).await;
        for fault in [
            RpcFault::Cut(10),
            RpcFault::Html,
            RpcFault::Error(-32603, "internal error".into()),
            RpcFault::Error(-32000, "already known".into()),
        ] {
            let (raw, hash) = signed(&node).await;
            for proxy in &chain.proxies {
                proxy.set_for(&["eth_sendRawTransaction"], fault.clone());
            }
            // It reaches the node by another way.
            node.call("eth_sendRawTransaction", json!([raw])).await;
            let result = chain.result("eth_sendRawTransaction", json!([raw])).await;
            assert_eq!(result, hash, "{fault:?}");
            for proxy in &chain.proxies {
                proxy.clear();
            }
            chain
                .until(|status| status.providers.iter().all(|it| it.is_used))
                .await;
        }
        chain.stop().await;
    });
}
