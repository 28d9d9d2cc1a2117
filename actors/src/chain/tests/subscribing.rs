//! Subscribers are told each block and log once, in order, whatever providers do.

use futures_util::FutureExt;
use headroom_test_support::rpc_proxy::RpcFault;

use super::super::{
    LogsFilter, Notification, Subscribe, SubscribeError, SubscriptionId, Topic, Unsubscribe,
};
use super::logs::TOPIC;
use super::*;
use crate::kernel::{EventBounds, EventReader, EventSender, Queued, event_queue};

struct Subscription {
    id: SubscriptionId,
    events: EventReader<Notification>,
    sender: Arc<EventSender<Notification>>,
}

impl Subscription {
    async fn to(chain: &TestChain, topic: Topic) -> Self {
        let bounds = EventBounds {
            events: 1000,
            bytes: 1 << 20,
        };
        let (sender, events) = event_queue(bounds);
        let sender = Arc::new(sender);
        let subscribe = Subscribe {
            topic,
            sender: Arc::clone(&sender),
        };
        let id = chain
            .entry
            .handle
            .ask(subscribe, LONG)
            .await
            .unwrap()
            .unwrap();
        Self { id, events, sender }
    }

    async fn next(&mut self) -> Value {
        let next = tokio::time::timeout(LONG, self.events.next()).await;
        let Some(Queued::Event(notification)) = next.unwrap() else {
            panic!("a gap");
        };
        assert_eq!(notification.subscription, self.id);
        serde_json::from_slice(&notification.result).unwrap()
    }

    async fn next_number(&mut self) -> u64 {
        number(&self.next().await["number"])
    }
}

/// What somebody is answered who should not be able to subscribe.
async fn refusal(chain: &TestChain, topic: Topic) -> Result<SubscriptionId, SubscribeError> {
    let (sender, _events) = event_queue(EventBounds {
        events: 1,
        bytes: 1,
    });
    let sender = Arc::new(sender);
    let subscribe = Subscribe { topic, sender };
    chain.entry.handle.ask(subscribe, LONG).await.unwrap()
}

#[test]
fn each_block_is_told_once_and_in_order_while_providers_fail() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        node.mine(5).await;
        let chain = TestChain::start(&system, &node, 2).await;
        chain.until(|status| status.head >= Some(5)).await;
        let mut heads = Subscription::to(&chain, Topic::NewHeads).await;
        for round in 0..4_u64 {
            chain.proxies[(round % 2) as usize].set(RpcFault::Reset);
            node.mine(5).await;
            for block in 0..5 {
                assert_eq!(heads.next_number().await, 6 + round * 5 + block);
            }
            chain.proxies[(round % 2) as usize].clear();
            chain
                .until(|status| status.providers.iter().all(|it| it.is_used))
                .await;
        }
        let unsubscribe = Unsubscribe { id: heads.id };
        assert!(chain.entry.handle.ask(unsubscribe, LONG).await.unwrap());
        assert!(!chain.entry.handle.ask(unsubscribe, LONG).await.unwrap());
        chain.stop().await;
    });
}

#[test]
fn who_subscribes_after_a_silence_is_told_what_happens_from_then_on() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 3).await;
        chain.until(|status| status.head == Some(0)).await;
        // Nobody learns of the new blocks, as if nobody had called for long.
        let old = node
            .call("eth_getBlockByNumber", json!(["0x0", false]))
            .await;
        for proxy in &chain.proxies {
            proxy.set_for(&["eth_getBlockByNumber"], RpcFault::Result(old.clone()));
        }
        node.mine(300).await;
        chain.proxies.iter().for_each(RpcProxy::clear);
        let mut heads = Subscription::to(&chain, Topic::NewHeads).await;
        node.mine(1).await;
        assert_eq!(heads.next_number().await, 301);
        chain.stop().await;
    });
}

#[test]
fn a_header_is_as_the_node_tells_it() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 1).await;
        let mut heads = Subscription::to(&chain, Topic::NewHeads).await;
        node.mine(1).await;
        let head = heads.next().await;
        let block = node
            .call("eth_getBlockByNumber", json!(["latest", false]))
            .await;
        for (name, value) in head.as_object().unwrap() {
            assert_eq!(*value, block[name], "{name}");
        }
        for name in [
            "hash",
            "parentHash",
            "timestamp",
            "baseFeePerGas",
            "logsBloom",
            "stateRoot",
        ] {
            assert!(head[name].is_string(), "{name} {head}");
        }
        assert!(head.get("transactions").is_none());
        chain.stop().await;
    });
}

#[test]
fn logs_are_told_once_and_taken_back_after_a_reorganisation() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let contract = node.deploy_counter().await;
        let other = node.deploy_counter().await;
        let chain = TestChain::start(&system, &node, 2).await;
        chain.until(|status| status.head >= Some(2)).await;
        let filter = LogsFilter::read(&json!({ "address": contract }).to_string()).unwrap();
        let mut logs = Subscription::to(&chain, Topic::Logs(filter)).await;
        let mut heads = Subscription::to(&chain, Topic::NewHeads).await;
        for count in 1..=3 {
            node.log(&contract, TOPIC).await;
            node.log(&other, TOPIC).await;
            let log = logs.next().await;
            assert_eq!(
                (number(&log["data"]), &log["removed"]),
                (count, &json!(false)),
                "{log}"
            );
        }
        for expected in 3..=8 {
            assert_eq!(heads.next_number().await, expected);
        }
        // The last two blocks of this contract's logs are 5 and 7.
        node.reorg(4).await;
        let mut removed = vec![number(&logs.next().await["blockNumber"])];
        let log = logs.next().await;
        assert_eq!(log["removed"], json!(true), "{log}");
        removed.push(number(&log["blockNumber"]));
        assert_eq!(removed, [7, 5]);
        for expected in 5..=8 {
            assert_eq!(heads.next_number().await, expected);
        }
        node.log(&contract, TOPIC).await;
        assert_eq!(logs.next().await["removed"], json!(false));
        chain.stop().await;
    });
}

#[test]
fn pending_transactions_are_told_from_another_provider_when_one_fails() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let contract = node.deploy_counter().await;
        let chain = TestChain::start(&system, &node, 2).await;
        let mut pending = Subscription::to(&chain, Topic::NewPendingTransactions).await;
        node.log(&contract, TOPIC).await;
        let first = pending.next().await;
        assert_eq!(first.as_str().unwrap().len(), 66);
        for proxy in &chain.proxies {
            proxy.set_times(1, &["eth_getFilterChanges"], RpcFault::Html);
        }
        // Until another filter is there, transactions may be missed.
        wait_for_async(LONG, async || {
            node.log(&contract, TOPIC).await;
            let next = tokio::time::timeout(Duration::from_millis(300), pending.next()).await;
            next.map(|next| assert_ne!(next, first))
                .map_err(|_| "nothing")
        })
        .await;
        chain.stop().await;
    });
}

#[test]
fn a_subscription_ends_with_the_owner_of_the_chain_and_is_refused_if_the_settings_say_so() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 1).await;
        let mut heads = Subscription::to(&chain, Topic::NewHeads).await;
        chain.stop().await;
        let end = tokio::time::timeout(LONG, heads.events.next()).await;
        assert!(matches!(end.unwrap(), Some(Queued::Gap)));

        let chain = TestChain::start_with(&system, &node, 1, |config| {
            config.methods_denied = vec!["eth_subscribe".into()];
        })
        .await;
        let refused = refusal(&chain, Topic::NewHeads).await;
        assert_eq!(refused, Err(SubscribeError::Forbidden));
        chain.stop().await;
    });
}

#[test]
fn logs_that_a_search_does_not_give_are_read_from_receipts() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let contract = node.deploy_counter().await;
        for fault in [
            RpcFault::Error(-32005, "query returned more than 10000 results".into()),
            // As of a provider that does not have the block.
            RpcFault::Result(json!([])),
        ] {
            let chain = TestChain::start(&system, &node, 1).await;
            let mut logs = Subscription::to(&chain, Topic::Logs(LogsFilter::default())).await;
            chain.proxies[0].set_for(&["eth_getLogs"], fault);
            node.log(&contract, TOPIC).await;
            let expected = node.call("eth_getLogs", json!([{}])).await;
            assert_eq!(logs.next().await, expected[0]);
            chain.stop().await;
        }
    });
}

#[test]
fn blocks_are_told_although_no_provider_gives_their_logs() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let contract = node.deploy_counter().await;
        let chain = TestChain::start(&system, &node, 1).await;
        let mut heads = Subscription::to(&chain, Topic::NewHeads).await;
        let mut logs = Subscription::to(&chain, Topic::Logs(LogsFilter::default())).await;
        let refusal = RpcFault::Error(-32005, "query returned more than 10000 results".into());
        chain.proxies[0].set_for(&["eth_getLogs", "eth_getBlockReceipts"], refusal);
        node.log(&contract, TOPIC).await;
        let newest = node.call("eth_blockNumber", json!([])).await;
        assert_eq!(heads.next_number().await, number(&newest));
        let next = tokio::time::timeout(LONG, logs.events.next()).await;
        assert!(matches!(next, Ok(Some(Queued::Gap))), "{next:?}");
        chain.stop().await;
    });
}

#[test]
fn others_have_their_turn_while_many_are_told() {
    const MANY: usize = 4000;
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let contract = node.deploy_counter().await;
        let chain = TestChain::start(&system, &node, 1).await;
        let filter = LogsFilter::read(&json!({ "address": contract }).to_string()).unwrap();
        let (sender, mut events) = event_queue(EventBounds {
            events: MANY,
            bytes: usize::MAX,
        });
        let sender = Arc::new(sender);
        let subscribed = (0..MANY).map(|_| {
            let subscribe = Subscribe {
                topic: Topic::Logs(filter.clone()),
                sender: Arc::clone(&sender),
            };
            chain.entry.handle.ask(subscribe, LONG)
        });
        for subscribed in futures_util::future::join_all(subscribed).await {
            subscribed.unwrap().unwrap();
        }
        // Whenever it is this task's turn, it reads all that is there.
        let read = async {
            let (mut all, mut most) = (0, 0);
            while all < MANY {
                let first = tokio::time::timeout(LONG, events.next()).await;
                assert!(matches!(first, Ok(Some(Queued::Event(_)))));
                let further = || events.next().now_or_never();
                let count = 1 + std::iter::from_fn(further).count();
                (all, most) = (all + count, most.max(count));
            }
            most
        };
        let (most, _) = tokio::join!(read, node.log(&contract, TOPIC));
        assert!(most < MANY / 2, "{most} at once");
        chain.stop().await;
    });
}

#[test]
fn filters_of_pending_transactions_are_kept_here() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let contract = node.deploy_counter().await;
        let chain = TestChain::start(&system, &node, 2).await;
        let held = chain.buffers.held();
        let make = || chain.result("eth_newPendingTransactionFilter", json!([]));
        let (one, two) = (make().await, make().await);
        let poll = |id: &Value| chain.result("eth_getFilterChanges", json!([id]));
        let hashes = async |id: &Value| {
            wait_for_async(LONG, async || {
                let hashes = poll(id).await.as_array().unwrap().clone();
                (!hashes.is_empty()).then_some(hashes).ok_or("nothing")
            })
            .await
        };
        node.log(&contract, TOPIC).await;
        let block = node.call("eth_getBlockByNumber", json!(["latest", false]));
        let expected = block.await["transactions"].as_array().unwrap().clone();
        assert_eq!(hashes(&one).await, expected);
        assert_eq!(poll(&one).await, json!([]));
        assert_eq!(hashes(&two).await, expected);
        // The provider that has told them fails: another one is asked.
        for proxy in &chain.proxies {
            proxy.set_times(1, &["eth_getFilterChanges"], RpcFault::Html);
        }
        wait_for_async(LONG, async || {
            node.log(&contract, TOPIC).await;
            let hashes = poll(&one).await;
            (hashes != json!([])).then_some(()).ok_or(hashes)
        })
        .await;
        let logs = chain.error("eth_getFilterLogs", json!([one]));
        assert_eq!(logs.await["message"], "filter not found");
        for id in [one, two] {
            assert_eq!(chain.result("eth_uninstallFilter", json!([id])).await, true);
        }
        // Nobody wants to know them any more.
        wait_for_async(LONG, async || {
            let now = chain.buffers.held();
            (now <= held).then_some(()).ok_or(now)
        })
        .await;
        chain.stop().await;
    });
}

#[test]
fn who_wants_pending_transactions_is_told_if_no_provider_tells_them() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 2).await;
        let method = "eth_newPendingTransactionFilter";
        for proxy in &chain.proxies {
            let unknown = RpcFault::Error(-32601, "the method does not exist".into());
            proxy.set_for(&[method], unknown);
        }
        let refused = chain.ask(method, json!([])).await;
        assert!(
            matches!(refused, Err(ChainError::Unsupported { .. })),
            "{refused:?}"
        );
        let refused = refusal(&chain, Topic::NewPendingTransactions).await;
        assert_eq!(refused, Err(SubscribeError::NotTold));
        chain.stop().await;
    });
}

#[test]
fn what_waits_for_subscribers_is_part_of_the_memory_budget() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 1).await;
        let mut heads = Subscription::to(&chain, Topic::NewHeads).await;
        let held = chain.buffers.held();
        node.mine(50).await;
        let waiting = held + 50 * 500;
        wait_for_async(LONG, async || {
            let now = chain.buffers.held();
            (now >= waiting).then_some(()).ok_or(now)
        })
        .await;
        for _ in 0..50 {
            heads.next().await;
        }
        wait_for_async(LONG, async || {
            let now = chain.buffers.held();
            (now < waiting).then_some(()).ok_or(now)
        })
        .await;
        chain.stop().await;
    });
}

#[test]
fn a_subscription_is_part_of_the_memory_budget_until_it_ends() {
    let Some(node) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let chain = TestChain::start(&system, &node, 1).await;
        let addresses: Vec<_> = (0..1000).map(|number| format!("0x{number:040x}")).collect();
        let filter = LogsFilter::read(&json!({ "address": addresses }).to_string()).unwrap();
        let held = chain.buffers.held();
        let logs = Subscription::to(&chain, Topic::Logs(filter.clone())).await;
        assert!(chain.buffers.held() >= held + 1000 * 20);
        let unsubscribe = Unsubscribe { id: logs.id };
        assert!(chain.entry.handle.ask(unsubscribe, LONG).await.unwrap());
        wait_for_async(LONG, async || {
            let now = chain.buffers.held();
            (now < held + 1000 * 20).then_some(()).ok_or(now)
        })
        .await;
        chain.buffers.set_max(0);
        let subscribe = Subscribe {
            topic: Topic::Logs(filter),
            sender: Arc::clone(&logs.sender),
        };
        let refused = chain.entry.handle.ask(subscribe, LONG).await.unwrap();
        assert_eq!(refused, Err(SubscribeError::Memory));
        chain.buffers.set_max(256 * MIB);
        chain.stop().await;
    });
}
