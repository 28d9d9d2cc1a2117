//! Searches for logs in more blocks than a provider takes.

use bytes::Bytes;
use headroom_test_support::anvil::ACCOUNT;
use headroom_test_support::rpc_proxy::RpcFault;
use tokio::sync::mpsc;

use super::super::{SearchLogs, Searched};
use super::*;

/// The byte that topics are made of.
pub(super) const TOPIC: u8 = 0xc1;

/// Deploys a contract, and has it log in so many blocks. Returns its address.
pub(super) async fn make_logs(node: &Anvil, count: usize) -> String {
    let contract = node.deploy_counter().await;
    for _ in 0..count {
        node.log(&contract, TOPIC).await;
    }
    contract
}

#[test]
fn ranges_that_providers_refuse_are_split_and_joined_in_order() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        make_logs(&node, 20).await;
        let chain = TestChain::start_with(&system, &node, 2, |config| {
            for provider in &mut config.providers {
                provider.logs_range_max = Some(3);
            }
        })
        .await;
        chain.until(|status| status.head >= Some(21)).await;
        for filter in [
            json!([{ "fromBlock": "0x0", "toBlock": "latest" }]),
            json!([{ "fromBlock": "earliest" }]),
            json!([{ "fromBlock": "0x3", "toBlock": "0x10", "topics": [null] }]),
            json!([{ "fromBlock": "0x0", "toBlock": "0x1", "topics": [format!("0x{}", "aa".repeat(32))] }]),
        ] {
            let direct = node.call("eth_getLogs", filter.clone()).await;
            assert_eq!(
                chain.result("eth_getLogs", filter.clone()).await,
                direct,
                "{filter}"
            );
        }
        let asked: u64 = chain.proxies.iter().map(|it| it.calls("eth_getLogs")).sum();
        // The second one is the first in other words.
        assert!(asked > 8 + 5, "{asked}");
        chain.stop().await;
    });
}

#[test]
fn what_providers_refuse_is_learned() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        make_logs(&node, 10).await;
        let chain = TestChain::start(&system, &node, 1).await;
        chain.until(|status| status.head >= Some(11)).await;
        let refusal = RpcFault::Error(-32005, "query returned more than 10000 results".into());
        chain.proxies[0].set_times(2, &["eth_getLogs"], refusal);
        let filter = json!([{ "fromBlock": "0x0", "toBlock": "latest" }]);
        let direct = node.call("eth_getLogs", filter.clone()).await;
        assert_eq!(direct.as_array().unwrap().len(), 10);
        assert_eq!(chain.result("eth_getLogs", filter).await, direct);
        chain.stop().await;
    });
}

#[test]
fn logs_of_final_blocks_are_searched_once() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        make_logs(&node, 8).await;
        node.mine(60).await;
        make_logs(&node, 8).await;
        let chain = start(&system, &node, 2, 78).await;
        // The first 14 blocks are final.
        for (last, parts) in [("0xd", 0), ("0x13", 3)] {
            let filter = json!([{ "fromBlock": "0x0", "toBlock": last }]);
            let direct = node.call("eth_getLogs", filter.clone()).await;
            let result = || chain.result("eth_getLogs", filter.clone());
            assert_eq!(result().await, direct);
            let before = chain.proxies[0].calls("eth_getLogs");
            assert_eq!(result().await, direct);
            let asked = chain.proxies[0].calls("eth_getLogs") - before;
            assert_eq!(asked, parts, "{last}");
        }
        chain.stop().await;
    });
}

#[test]
fn ranges_up_to_the_final_block_are_split_and_bounded_as_others_are() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        make_logs(&node, 8).await;
        node.mine(100).await;
        let chain = TestChain::start_with(&system, &node, 1, |config| {
            config.providers[0].logs_range_max = Some(3);
            config.logs_range_max = 60;
        })
        .await;
        chain.until(|status| status.head >= Some(109)).await;
        let filter = json!([{ "fromBlock": "0x0", "toBlock": "finalized" }]);
        let direct = node.call("eth_getLogs", filter.clone()).await;
        assert_eq!(direct.as_array().unwrap().len(), 8);
        assert_eq!(chain.result("eth_getLogs", filter).await, direct);
        assert!(chain.proxies[0].calls("eth_getLogs") > 3);
        for to in ["latest", "pending", "0xffff"] {
            let filter = json!([{ "fromBlock": "0x0", "toBlock": to }]);
            let refused = chain.ask("eth_getLogs", filter).await;
            assert!(
                matches!(refused, Err(ChainError::Invalid(_))),
                "{to}: {refused:?}"
            );
        }
        chain.stop().await;
    });
}

#[test]
fn a_search_begins_with_what_providers_took_of_the_last_one() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        node.mine(400).await;
        let chain = TestChain::start(&system, &node, 1).await;
        chain.until(|status| status.head >= Some(400)).await;
        let refusal = RpcFault::Error(-32005, "block range is too wide".into());
        chain.proxies[0].set_times(2, &["eth_getLogs"], refusal);
        // None of these blocks is final.
        let filter = json!([{ "fromBlock": "0x151", "toBlock": "0x190" }]);
        chain.result("eth_getLogs", filter).await;
        let filter = |from: &str| json!([{ "fromBlock": from, "toBlock": "latest" }]);
        let asked = || chain.proxies[0].calls("eth_getLogs");
        let before = asked();
        chain.result("eth_getLogs", filter("0x10")).await;
        assert_eq!(asked() - before, 1, "that search was short");
        let refusal = RpcFault::Error(-32005, "block range is too wide".into());
        chain.proxies[0].set_times(2, &["eth_getLogs"], refusal);
        chain.result("eth_getLogs", filter("0x11")).await;
        let before = asked();
        chain.result("eth_getLogs", filter("0x12")).await;
        assert!(asked() - before > 1);
        chain.stop().await;
    });
}

/// The zeros of a log whose JSON has 200 KiB.
const ZEROS: u32 = 100 * 1024;

/// Starts a chain whose provider searches so many blocks at once, and waits for the block `head`.
async fn start(system: &TestSystem, node: &Anvil, blocks: u64, head: u64) -> TestChain {
    let chain = TestChain::start_with(system, node, 1, |config| {
        config.providers[0].logs_range_max = Some(blocks);
    })
    .await;
    chain.until(|status| status.head >= Some(head)).await;
    chain
}

/// A search of all blocks, and the parts of its answer.
fn search(
    chain: &TestChain,
) -> (
    impl Future<Output = Result<Searched, ChainError>>,
    mpsc::Receiver<Bytes>,
) {
    let (parts, found) = mpsc::channel(1);
    let search = SearchLogs {
        call: Arc::new(Call {
            method: "eth_getLogs".into(),
            params: r#"[{"fromBlock":"0x0","toBlock":"latest"}]"#.into(),
        }),
        parts,
        within: LONG,
        step_within: LONG,
    };
    let search = chain.entry.handle.ask(search, LONG);
    (async { search.await.unwrap() }, found)
}

#[test]
fn many_logs_are_sent_in_order_while_others_are_searched() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        node.log_zeros(20, ZEROS).await;
        let chain = start(&system, &node, 4, 21).await;
        // The first ranges are too large, and are split.
        let refusal = RpcFault::Error(-32005, "query returned more than 10000 results".into());
        chain.proxies[0].set_times(3, &["eth_getLogs"], refusal);
        let (search, mut found) = search(&chain);
        let read = async {
            let mut all = String::new();
            while let Some(part) = found.recv().await {
                let separator = if all.is_empty() { "[" } else { "," };
                all += &format!("{separator}{}", str::from_utf8(&part).unwrap());
            }
            serde_json::from_str::<Value>(&format!("{all}]")).unwrap()
        };
        let (ended, all) = tokio::join!(search, read);
        assert_eq!(ended.unwrap(), Searched::Streamed);
        let filter = json!([{ "fromBlock": "0x0", "toBlock": "latest" }]);
        assert_eq!(all, node.call("eth_getLogs", filter).await);
        chain.stop().await;
    });
}

#[test]
fn a_search_waits_for_a_caller_that_does_not_read_and_tells_a_failure() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        node.log_zeros(40, ZEROS).await;
        let chain = start(&system, &node, 1, 41).await;
        let (search, mut found) = search(&chain);
        let read = async {
            found.recv().await.unwrap();
            // Nobody reads, so no more is searched meanwhile.
            for _ in 0..100 {
                // No answer about what is pending is kept.
                let params = json!([ACCOUNT, "pending"]);
                chain.ask("eth_getBalance", params).await.unwrap();
            }
            let searched = chain.proxies[0].calls("eth_getLogs");
            assert!(searched <= 16, "{searched}");
            chain.proxies[0].set_for(&["eth_getLogs"], RpcFault::Status(500));
            let mut parts = 1;
            while found.recv().await.is_some() {
                parts += 1;
            }
            parts
        };
        let (ended, parts) = tokio::join!(search, read);
        assert!(matches!(ended, Err(ChainError::Failed { .. })), "{ended:?}");
        assert!(parts < 40, "{parts}");
        chain.stop().await;
    });
}

#[test]
fn logs_of_two_branches_are_no_answer() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        node.log_zeros(20, ZEROS).await;
        let chain = start(&system, &node, 1, 21).await;
        let (search, mut found) = search(&chain);
        let read = async {
            found.recv().await.unwrap();
            let before = chain.status().await.head_hash;
            node.reorg(15).await;
            chain.until(|status| status.head_hash != before).await;
            while found.recv().await.is_some() {}
        };
        let (ended, ()) = tokio::join!(search, read);
        assert!(matches!(ended, Err(ChainError::Reorganised)), "{ended:?}");
        // The next one is of the new branch.
        let filter = json!([{ "fromBlock": "0x0", "toBlock": "latest" }]);
        let direct = node.call("eth_getLogs", filter.clone()).await;
        assert_eq!(chain.result("eth_getLogs", filter).await, direct);
        chain.stop().await;
    });
}

#[test]
fn few_logs_come_whole() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        make_logs(&node, 5).await;
        let chain = start(&system, &node, 1, 6).await;
        let (search, mut found) = search(&chain);
        let Searched::Whole(Outcome::Result(logs)) = search.await.unwrap() else {
            panic!("no result")
        };
        let logs: Vec<Value> = serde_json::from_slice(&logs).unwrap();
        assert_eq!((logs.len(), found.recv().await), (5, None));
        chain.stop().await;
    });
}

#[test]
fn more_blocks_than_allowed_are_refused() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        node.mine(50).await;
        let chain =
            TestChain::start_with(&system, &node, 1, |config| config.logs_range_max = 20).await;
        chain.until(|status| status.head >= Some(50)).await;
        let all = json!([{ "fromBlock": "0x0", "toBlock": "latest" }]);
        let refused = chain.ask("eth_getLogs", all).await.unwrap_err();
        assert_eq!(refused.rpc_code(), -32602, "{refused:?}");
        chain.stop().await;
    });
}

#[test]
fn logs_of_the_newest_block_are_not_asked_of_a_provider_without_it() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        make_logs(&node, 3).await;
        let chain = TestChain::start(&system, &node, 2).await;
        chain.until(|status| status.head == Some(4)).await;
        // One is a block behind, and is asked first.
        let older = node
            .call("eth_getBlockByNumber", json!(["0x3", false]))
            .await;
        chain.proxies[1].set_for(
            &["eth_getBalance"],
            RpcFault::Delay(Duration::from_millis(50)),
        );
        chain.proxies[0].set_for(&["eth_getBlockByNumber"], RpcFault::Result(older));
        chain.proxies[0].set_for(&["eth_getLogs"], RpcFault::Result(json!([])));
        chain
            .until(|status| {
                let mut places = status.providers.iter();
                places.any(|it| it.name == "one" && it.lag_blocks == Some(1))
            })
            .await;
        for filter in [
            json!([{ "fromBlock": "0x4", "toBlock": "0x4" }]),
            json!([{ "fromBlock": "latest" }]),
            json!([{}]),
        ] {
            let logs = chain.result("eth_getLogs", filter.clone()).await;
            assert_eq!(logs.as_array().map(Vec::len), Some(1), "{filter}");
        }
        chain.stop().await;
    });
}
