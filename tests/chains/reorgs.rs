//! Reorganisations, chains that go back, and providers on different branches: once the gateway tells a new head, nobody gets
//! an answer of the branch that is gone, and `latest` goes back only then.
//!
//! What a hash names stays what it is, so calls with the hash of a block that is gone are not asked here.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use headroom_test_support::anvil::{Anvil, AnvilOptions, OTHER_ACCOUNT, topic};
use headroom_test_support::rpc_proxy::RpcFault;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::{Value, json};

use super::nodes::Gateway;
use super::socket::Socket;

/// The time of the first block of a chain that two nodes make alike.
const GENESIS: u64 = 1_700_000_000;
/// The blocks before the newest that are asked about.
const ASKED_BLOCKS: u64 = 8;

/// A contract and transactions whose fate depends on the branch.
struct Watched {
    contract: String,
    transactions: Vec<Value>,
}

impl Watched {
    async fn new(node: &Anvil) -> Self {
        Self {
            contract: node.deploy_counter().await,
            transactions: Vec::new(),
        }
    }

    /// Makes so many blocks, each with a log.
    async fn extend(&mut self, node: &Anvil, blocks: usize) {
        for _ in 0..blocks {
            let receipt = node.log(&self.contract, 1).await;
            self.transactions.push(receipt["transactionHash"].clone());
        }
    }

    /// Calls about the newest blocks, with all kinds of answers that are kept.
    fn calls(&self, head: u64) -> Vec<Value> {
        let mut calls = vec![
            ("eth_blockNumber", json!([])),
            ("eth_gasPrice", json!([])),
            ("eth_getLogs", json!([{ "fromBlock": "earliest" }])),
        ];
        let numbers = head.saturating_sub(ASKED_BLOCKS)..=head + 2;
        let mut blocks: Vec<_> = numbers.map(|number| format!("{number:#x}")).collect();
        blocks.push("latest".into());
        for block in &blocks {
            let (contract, account) = (&self.contract, OTHER_ACCOUNT);
            let call = json!({ "to": contract, "data": topic(2) });
            calls.extend([
                ("eth_getBlockByNumber", json!([block, true])),
                ("eth_getBlockByNumber", json!([block, false])),
                ("eth_getBlockReceipts", json!([block])),
                (
                    "eth_getTransactionByBlockNumberAndIndex",
                    json!([block, "0x0"]),
                ),
                ("eth_getBalance", json!([account, block])),
                ("eth_getStorageAt", json!([contract, "0x0", block])),
                ("eth_call", json!([call, block])),
            ]);
        }
        for transaction in &self.transactions {
            calls.extend([
                ("eth_getTransactionByHash", json!([transaction])),
                ("eth_getTransactionReceipt", json!([transaction])),
            ]);
        }
        let call = |(id, (method, params))| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        calls.into_iter().enumerate().map(call).collect()
    }

    /// Asserts that all answers of the gateway are those of this node.
    async fn assert_same(&self, gateway: &Gateway, node: &Anvil) {
        let calls = self.calls(node.block_number().await);
        let batch = Value::Array(calls.clone());
        let through = gateway.post(&gateway.url(), &batch).await;
        let direct = gateway.post(&node.url(), &batch).await;
        for (number, call) in calls.iter().enumerate() {
            assert_eq!(through[number], direct[number], "{call}");
        }
    }

    /// As [`Watched::assert_same`], until nothing is asked of providers that can be kept.
    async fn warm(&self, gateway: &Gateway) {
        let asked = || -> u64 {
            let proxies = gateway.proxies.iter();
            proxies.map(|it| it.calls("eth_getStorageAt")).sum()
        };
        wait_for_async(DEADLINE, || async {
            let before = asked();
            self.assert_same(gateway, &gateway.node).await;
            // The last two blocks are not there yet.
            let more = asked() - before;
            (more <= 2).then_some(()).ok_or(more)
        })
        .await;
    }
}

/// Notifications of a client that has subscribed to heads and logs.
struct Notified {
    socket: Socket,
    heads: Value,
    /// The hashes of the blocks of the branch that was told last.
    told: Vec<Value>,
    /// The transactions whose logs were told and not taken back.
    logs: HashSet<Value>,
}

impl Notified {
    /// Subscribes when the gateway has told the newest block of this node.
    async fn start(gateway: &Gateway, node: &Anvil) -> Self {
        gateway.wait_for_head_of(node).await;
        let mut socket = Socket::open(gateway).await;
        let heads = socket.subscribe(json!(["newHeads"])).await;
        socket.subscribe(json!(["logs", {}])).await;
        Self {
            socket,
            heads,
            told: vec![node.newest().await["hash"].take()],
            logs: HashSet::new(),
        }
    }

    /// Reads until the newest block of this node is told. Each block continues one of the branch that was told, and each log
    /// is told once, or again after it was taken back.
    async fn read_to_newest(&mut self, node: &Anvil) {
        let newest = node.newest().await["hash"].take();
        while self.told.last() != Some(&newest) {
            let (subscription, mut result) = self.socket.notification().await;
            if subscription == self.heads {
                let parent = &result["parentHash"];
                let mut told = self.told.iter();
                let place = told.position(|told| told == parent);
                let gone = self
                    .told
                    .split_off(place.expect("a block that was told") + 1);
                let hash = result["hash"].take();
                assert!(!gone.contains(&hash), "{hash} is told twice");
                self.told.push(hash);
                continue;
            }
            let transaction = result["transactionHash"].take();
            let is_new = match result["removed"] == true {
                true => self.logs.remove(&transaction),
                false => self.logs.insert(transaction),
            };
            assert!(is_new, "{result}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_a_subscriber_is_told_a_new_branch_no_answer_is_of_the_old_one() {
    let Some(gateway) = Gateway::start(3, "").await else {
        return;
    };
    let node = &gateway.node;
    let mut watched = Watched::new(node).await;
    let mut notified = Notified::start(&gateway, node).await;
    for depth in [1, 3, 6] {
        watched.extend(node, 6).await;
        notified.read_to_newest(node).await;
        watched.warm(&gateway).await;
        node.reorg(depth).await;
        notified.read_to_newest(node).await;
        watched.assert_same(&gateway, node).await;
        // The blocks that are gone had the last logs.
        let mut left = HashSet::new();
        for transaction in &watched.transactions {
            let receipt = node.call("eth_getTransactionReceipt", json!([transaction]));
            if !receipt.await.is_null() {
                left.insert(transaction.clone());
            }
        }
        assert_eq!(notified.logs, left);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_go_back_with_the_chain_and_are_those_of_the_blocks_that_come_then() {
    let Some(gateway) = Gateway::start(3, "").await else {
        return;
    };
    let node = &gateway.node;
    let mut watched = Watched::new(node).await;
    watched.extend(node, 6).await;
    let snapshot = node.call("evm_snapshot", json!([])).await;
    for is_rollback in [true, false] {
        watched.extend(node, 3).await;
        gateway.wait_for_head_of(node).await;
        watched.warm(&gateway).await;
        match is_rollback {
            true => node.rollback(2).await,
            false => drop(node.call("evm_revert", json!([snapshot])).await),
        }
        gateway.wait_for_head_of(node).await;
        watched.assert_same(&gateway, node).await;
        // Other blocks with the numbers of those that are gone.
        node.mine(2).await;
        gateway.wait_for_head_of(node).await;
        watched.assert_same(&gateway, node).await;
    }
}

/// A node whose blocks depend only on what is put into them.
fn start_twin() -> Option<Anvil> {
    let genesis = GENESIS.to_string();
    Anvil::start_with(&AnvilOptions::default().argument("--timestamp", &genesis))
}

/// Gives the next block the time of its number.
async fn set_next_time(node: &Anvil) {
    let time = GENESIS + node.block_number().await + 1;
    node.call("evm_setNextBlockTimestamp", json!([time])).await;
}

/// Makes a block with a transaction of so much on each of these nodes.
async fn mine_alike(nodes: &[&Anvil], value: u64) -> Value {
    let mut transaction = Value::Null;
    for node in nodes {
        set_next_time(node).await;
        let transfer = json!({ "to": OTHER_ACCOUNT, "value": format!("{value:#x}") });
        let mut receipt = node.transact(transfer).await;
        transaction = receipt["transactionHash"].take();
    }
    transaction
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_of_a_branch_that_most_providers_do_not_have() {
    let (Some(node), Some(other)) = (start_twin(), start_twin()) else {
        return;
    };
    let gateway = Gateway::start_before(node, 3, "").await.unwrap();
    let node = &gateway.node;
    let mut watched = Watched {
        contract: String::new(),
        transactions: Vec::new(),
    };
    for node in [node, &other] {
        set_next_time(node).await;
        watched.contract = node.deploy_counter().await;
    }
    for value in 1..4 {
        let transaction = mine_alike(&[node, &other], value).await;
        watched.transactions.push(transaction);
    }
    assert_eq!(node.newest().await, other.newest().await);
    let mut notified = Notified::start(&gateway, node).await;
    gateway.proxies[2].set_target(other.url());
    for value in 10..13 {
        for (node, value) in [(node, value), (&other, value + 10)] {
            let transaction = mine_alike(&[node], value).await;
            watched.transactions.push(transaction);
        }
    }
    // The provider that is alone would be asked first.
    for proxy in &gateway.proxies[..2] {
        proxy.set(RpcFault::Delay(Duration::from_millis(20)));
    }
    gateway.wait_for_head_of(node).await;
    for _ in 0..10 {
        watched.assert_same(&gateway, node).await;
    }
    notified.read_to_newest(node).await;
    // Now the others follow it.
    gateway.proxies[1].set_target(other.url());
    mine_alike(&[&other], 30).await;
    notified.read_to_newest(&other).await;
    for _ in 0..10 {
        watched.assert_same(&gateway, &other).await;
    }
    // Those of the branch that counts are gone: the one that is left counts.
    for proxy in &gateway.proxies[1..] {
        proxy.set(RpcFault::Reset);
    }
    gateway.wait_for_head_of(node).await;
    watched.assert_same(&gateway, node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latest_never_goes_back_while_providers_lead_in_turn() {
    let (Some(node), Some(other)) = (start_twin(), start_twin()) else {
        return;
    };
    // Nothing is kept: all answers come from providers.
    let gateway = Gateway::start_before(node, 3, "rpc.cache_max = '0B'")
        .await
        .unwrap();
    let node = &gateway.node;
    gateway.proxies[1].set_target(other.url());
    let gateway = &gateway;
    let (shown, answers) = (AtomicU64::new(0), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let client = async |method: &'static str, params: Value| {
        while !is_over.load(SeqCst) {
            let before = shown.load(SeqCst);
            let answer = gateway.answer(method, &params).await;
            let number = match &answer["result"] {
                Value::Object(block) => &block["number"],
                number => number,
            };
            let digits = number.as_str().unwrap_or_else(|| panic!("{answer}"));
            let number = u64::from_str_radix(digits.trim_start_matches("0x"), 16).unwrap();
            assert!(number >= before, "{method}: {number} after {before}");
            shown.fetch_max(number, SeqCst);
            answers.fetch_add(1, SeqCst);
        }
    };
    let mining = async {
        for round in 0..8 {
            let (first, leaders, second) = match round % 2 {
                0 => (node, [0, 2], &other),
                _ => (&other, [1, 1], node),
            };
            for value in 0..3 {
                mine_alike(&[first], value + 1).await;
            }
            let head = first.block_number().await;
            wait_for_async(DEADLINE, || async {
                let shown = shown.load(SeqCst);
                (shown == head).then_some(()).ok_or((shown, head))
            })
            .await;
            // While those that have it fail, those that do not are no substitute.
            for leader in leaders {
                gateway.proxies[leader].set_times(1, &[], RpcFault::Reset);
            }
            let enough = answers.load(SeqCst) + 20;
            wait_for_async(DEADLINE, || async {
                let answers = answers.load(SeqCst);
                (answers >= enough).then_some(()).ok_or(answers)
            })
            .await;
            for value in 0..3 {
                mine_alike(&[second], value + 1).await;
            }
        }
        is_over.store(true, SeqCst);
    };
    let latest = json!(["latest", false]);
    tokio::join!(
        client("eth_blockNumber", json!([])),
        client("eth_getBlockByNumber", latest.clone()),
        client("eth_getBlockByNumber", latest),
        mining
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_liar_among_three_is_not_followed_for_long() {
    let Some(gateway) = Gateway::start_mining(3, "").await else {
        return;
    };
    let node = &gateway.node;
    let lie = async |byte: u8| {
        let (mut block, number) = (node.newest().await, node.block_number().await + 3);
        block["number"] = format!("{number:#x}").into();
        block["hash"] = topic(byte).into();
        block["parentHash"] = topic(byte + 1).into();
        gateway.proxies[2].clear();
        gateway.proxies[2].set_for(&["eth_getBlockByNumber"], RpcFault::Result(block));
        number
    };
    let number = lie(0xe0).await;
    // Those that are right have passed it.
    wait_for_async(DEADLINE, || async {
        let (status, now) = (gateway.status().await, node.block_number().await);
        let is_right = status["head_hash"] != topic(0xe0) && status["head"].as_u64() > Some(number);
        is_right.then_some(()).ok_or((status, now))
    })
    .await;
    let end = node.block_number().await + 4;
    let mut lies = 0_u8;
    while node.block_number().await < end {
        lies = (lies + 2) % 100;
        let byte = 0x10 + lies;
        lie(byte).await;
        let status = gateway.status().await;
        let is_lie = |byte| status["head_hash"] == topic(byte);
        assert!(!(0x10..0x10 + 100).any(is_lie), "{status}");
        let params = json!([OTHER_ACCOUNT, "latest"]);
        let balance = gateway.answer("eth_getBalance", &params).await;
        assert_eq!(balance["result"], "0x21e19e0c9bab2400000");
    }
}
