//! Random calls about a chain. The same seed makes the same calls.

use headroom_test_support::anvil::{ACCOUNT, OTHER_ACCOUNT, topic};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

/// What there is to ask about.
pub(super) struct Chain {
    pub(super) head: u64,
    /// Of the blocks.
    pub(super) hashes: Vec<Value>,
    pub(super) transactions: Vec<Value>,
    pub(super) contracts: Vec<String>,
}

/// A call, as a client writes it.
pub(super) struct Call {
    id: Value,
    method: &'static str,
    /// `None`: they are left out.
    params: Option<Value>,
    /// Which parameter is a block, if one is.
    block: Option<usize>,
}

impl Call {
    /// The text of a client.
    pub(super) fn request(&self) -> Value {
        let mut request = json!({ "jsonrpc": "2.0", "id": self.id, "method": self.method });
        if let Some(params) = &self.params {
            request["params"] = params.clone();
        }
        request
    }

    /// The same with what the gateway adds: an empty list in place of no parameters, and the newest block in place of none.
    pub(super) fn completed(&self) -> Value {
        let mut request = self.request();
        let params = self.params.clone().unwrap_or_else(|| json!([]));
        request["params"] = params;
        if let Value::Array(params) = &mut request["params"]
            && self.block == Some(params.len())
        {
            params.push("latest".into());
        }
        request
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Param {
    /// A number or a tag, but not `pending`.
    Block,
    /// A block whose state is read: also by its hash, in an object, or `pending`.
    State,
    BlockHash,
    Transaction,
    Address,
    Slot,
    Slots,
    Index,
    Flag,
    Count,
    Percentiles,
    /// What `eth_call` takes.
    Execution,
    Filter,
    Bytes,
    Object,
}

use Param::{
    Address, Block, BlockHash, Bytes, Count, Execution, Filter, Flag, Index, Object, Percentiles,
    Slot, Slots, State, Transaction,
};

const METHODS: &[(&str, &[Param])] = &[
    ("eth_chainId", &[]),
    ("net_version", &[]),
    ("web3_sha3", &[Bytes]),
    ("web3_clientVersion", &[]),
    ("net_listening", &[]),
    ("eth_syncing", &[]),
    ("eth_accounts", &[]),
    ("eth_coinbase", &[]),
    ("txpool_status", &[]),
    ("txpool_content", &[]),
    ("eth_blockNumber", &[]),
    ("eth_gasPrice", &[]),
    ("eth_maxPriorityFeePerGas", &[]),
    ("eth_blobBaseFee", &[]),
    ("eth_getBlockByNumber", &[Block, Flag]),
    ("eth_getBlockByHash", &[BlockHash, Flag]),
    ("eth_getBlockReceipts", &[Block]),
    ("eth_getBlockTransactionCountByNumber", &[Block]),
    ("eth_getBlockTransactionCountByHash", &[BlockHash]),
    ("eth_getUncleCountByBlockNumber", &[Block]),
    ("eth_getUncleCountByBlockHash", &[BlockHash]),
    ("eth_getUncleByBlockNumberAndIndex", &[Block, Index]),
    ("eth_getUncleByBlockHashAndIndex", &[BlockHash, Index]),
    ("eth_getTransactionByHash", &[Transaction]),
    ("eth_getRawTransactionByHash", &[Transaction]),
    ("eth_getTransactionReceipt", &[Transaction]),
    ("eth_getTransactionByBlockHashAndIndex", &[BlockHash, Index]),
    ("eth_getTransactionByBlockNumberAndIndex", &[Block, Index]),
    ("eth_getBalance", &[Address, State]),
    ("eth_getTransactionCount", &[Address, State]),
    ("eth_getCode", &[Address, State]),
    ("eth_getStorageAt", &[Address, Slot, State]),
    ("eth_getProof", &[Address, Slots, State]),
    ("eth_call", &[Execution, State]),
    ("eth_call", &[Execution, State]),
    ("eth_estimateGas", &[Execution, State]),
    ("eth_createAccessList", &[Execution, State]),
    ("eth_feeHistory", &[Count, Block, Percentiles]),
    ("eth_getLogs", &[Filter]),
    ("eth_getLogs", &[Filter]),
    ("eth_getLogs", &[Filter]),
    ("debug_traceTransaction", &[Transaction]),
    ("debug_traceTransaction", &[Transaction, Object]),
    ("trace_transaction", &[Transaction]),
    ("trace_block", &[Block]),
    // A wrong one each: a right one changes the chain.
    ("eth_sendRawTransaction", &[Bytes]),
    // Known to the node and not to the gateway.
    ("erigon_getHeaderByNumber", &[Index]),
    ("ots_getApiLevel", &[]),
    // Not known to the node.
    ("eth_mining", &[]),
    ("rpc_modules", &[]),
    ("trace_replayTransaction", &[Transaction, Slots]),
    ("eth_nonsense", &[Address, Index]),
    ("nonsense", &[]),
];

/// One of `chain`'s, or one that a client should not send.
pub(super) fn call(random: &mut StdRng, chain: &Chain) -> Call {
    let (method, kinds) = METHODS.choose(random).unwrap();
    let values = kinds.iter().map(|kind| value(random, chain, *kind));
    let mut params = Some(Value::Array(values.collect()));
    if random.random_bool(0.15) {
        spoil(random, &mut params);
    }
    let mut ids = [json!(random.random::<u32>()), json!("a"), json!("")];
    Call {
        id: ids[random.random_range(0..3)].take(),
        method,
        params,
        block: kinds.iter().position(|kind| matches!(kind, Block | State)),
    }
}

/// Changes parameters as nobody should write them.
fn spoil(random: &mut StdRng, params: &mut Option<Value>) {
    let odd = odd(random);
    let Some(Value::Array(list)) = params else {
        return;
    };
    match random.random_range(0..6) {
        0 => *params = None,
        1 => *params = Some(json!({})),
        2 => drop(list.pop()),
        3 => list.push(odd),
        _ if list.is_empty() => list.push(odd),
        _ => {
            let place = random.random_range(0..list.len());
            list[place] = odd;
        }
    }
}

/// What is hardly ever a right value.
fn odd(random: &mut StdRng) -> Value {
    [
        json!(null),
        json!(true),
        json!(7),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("0x"),
        json!("0xzz"),
        json!("0x0g"),
        json!("0x05"),
        json!("0x+5"),
        json!("5"),
        json!("0X5"),
        json!(" latest"),
        json!("LATEST"),
        json!("latest"),
        json!(format!("0x{}", "f".repeat(70))),
        json!("x".repeat(300)),
        json!([]),
        json!({}),
        json!([[[{}]]]),
        json!({ "blockNumber": "0x1", "blockHash": topic(1) }),
        json!({ "x": "y" }),
    ]
    .choose(random)
    .unwrap()
    .clone()
}

fn value(random: &mut StdRng, chain: &Chain, kind: Param) -> Value {
    match kind {
        BlockHash => known_or_not(random, &chain.hashes),
        Transaction => known_or_not(random, &chain.transactions),
        Block => block(random, chain),
        State => match random.random_range(0..8) {
            0 => "pending".into(),
            1 => known_or_not(random, &chain.hashes),
            2 => json!({ "blockHash": known_or_not(random, &chain.hashes) }),
            3 => {
                json!({ "blockHash": known_or_not(random, &chain.hashes), "requireCanonical": random.random::<bool>() })
            }
            4 => json!({ "blockNumber": block(random, chain) }),
            _ => block(random, chain),
        },
        Address => address(random, chain).into(),
        Slot => quantity(random.random_range(0..3)),
        Slots => json!(
            (0..random.random_range(0..3))
                .map(topic)
                .collect::<Vec<_>>()
        ),
        Index => quantity(random.random_range(0..3)),
        Flag => random.random::<bool>().into(),
        Count => quantity(random.random_range(0..20)),
        Percentiles => [json!([]), json!([25, 75]), json!([0.5]), json!([90, 10])]
            .choose(random)
            .unwrap()
            .clone(),
        Execution => execution(random, chain),
        Filter => filter(random, chain),
        Bytes => ["0x", "0x00", "0x1234", "0xABcd", "0x123", "hello"]
            .choose(random)
            .copied()
            .unwrap()
            .into(),
        Object => [
            json!({}),
            json!({ "tracer": "callTracer" }),
            json!({ "disableStorage": true }),
        ]
        .choose(random)
        .unwrap()
        .clone(),
    }
}

fn known_or_not(random: &mut StdRng, known: &[Value]) -> Value {
    match random.random_bool(0.9) {
        true => known.choose(random).unwrap().clone(),
        false => topic(0xab).into(),
    }
}

fn quantity(number: u64) -> Value {
    format!("{number:#x}").into()
}

fn block(random: &mut StdRng, chain: &Chain) -> Value {
    match random.random_range(0..10) {
        0..3 => "latest".into(),
        3 => "earliest".into(),
        4 => ["safe", "finalized"]
            .choose(random)
            .copied()
            .unwrap()
            .into(),
        5 => quantity(chain.head + random.random_range(1..1000)),
        _ => quantity(random.random_range(0..=chain.head)),
    }
}

fn address(random: &mut StdRng, chain: &Chain) -> String {
    let mut known: Vec<&str> = chain.contracts.iter().map(String::as_str).collect();
    known.extend([
        ACCOUNT,
        OTHER_ACCOUNT,
        "0x00000000000000000000000000000000000000AA",
    ]);
    known.choose(random).copied().unwrap().to_owned()
}

/// Executions that return, revert, run out of gas, and more.
fn execution(random: &mut StdRng, chain: &Chain) -> Value {
    let contract = chain.contracts.choose(random).unwrap();
    let data = topic(random.random_range(0..4));
    let mut execution = match random.random_range(0..10) {
        0 => json!({}),
        1 => json!({ "to": address(random, chain), "value": "0x1" }),
        2 => json!({ "to": OTHER_ACCOUNT, "value": format!("0x{}", "f".repeat(30)) }),
        3 => json!({ "data": "0xfe" }),
        4 => json!({ "to": contract, "data": data, "gas": "0x5300" }),
        5 | 6 => json!({ "to": contract }),
        7 => json!({ "to": contract, "input": data, "value": "0x5" }),
        _ => json!({ "to": contract, "data": data }),
    };
    if random.random() {
        execution["from"] = address(random, chain).into();
    }
    if random.random_bool(0.05) {
        execution["to"] = odd(random);
    }
    execution
}

/// Filters of ranges and of blocks, for addresses and topics.
fn filter(random: &mut StdRng, chain: &Chain) -> Value {
    let mut filter = Map::new();
    let mut set = |name: &str, value: Value| filter.insert(name.to_owned(), value);
    match random.random_range(0..8) {
        0 => drop(set("blockHash", value(random, chain, BlockHash))),
        1 => drop(set("fromBlock", block(random, chain))),
        2 => drop(set("toBlock", block(random, chain))),
        3 => {}
        _ => {
            set("fromBlock", quantity(random.random_range(0..=chain.head)));
            set("toBlock", block(random, chain));
        }
    }
    match random.random_range(0..6) {
        0 => drop(set("address", address(random, chain).into())),
        1 => drop(set("address", json!(chain.contracts))),
        2 => drop(set("address", json!([]))),
        3 => drop(set("address", Value::Null)),
        _ => {}
    }
    let [one, other] = [0, 1].map(|_| topic(random.random_range(0..4)));
    match random.random_range(0..7) {
        0 => drop(set("topics", json!([one]))),
        1 => drop(set("topics", json!([[one, other]]))),
        2 => drop(set("topics", json!([null, other]))),
        3 => drop(set("topics", json!([null]))),
        4 => drop(set("topics", json!([[], null]))),
        _ => {}
    }
    if random.random_bool(0.05) {
        let names = [
            "fromBlock",
            "toBlock",
            "address",
            "topics",
            "FromBlock",
            "other",
        ];
        set(names.choose(random).unwrap(), odd(random));
    }
    Value::Object(filter)
}
