//! The gateway answers as the node does: random calls to both, alone and in batches, while the chain stands still.
//!
//! `CALLS=10000` is the number that the project promises; fewer by default. `SEED=…` makes other calls.
//!
//! Where the gateway differs on purpose:
//! - It writes the newest block into a call that names none, and an empty list in place of no parameters. Some nodes demand
//!   them, so the same is done for the node here.
//! - Once it knows that no provider offers a method, it says so itself. The code is the node's.
//! - Filters and subscriptions are its own, and what needs a key of the node or changes it is refused. These are left out, as
//!   are requests that are no JSON-RPC (`requests.rs`).
//!
//! The pending block and simulated ones are left out as well: they have the time of the call.

mod calls;

use futures_util::{StreamExt, stream};
use headroom_test_support::anvil::{Anvil, OTHER_ACCOUNT};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use self::calls::{Call, Chain, call};
use super::nodes::Gateway;
use super::number;

/// Requests at the same time.
const AT_ONCE: usize = 8;
/// The most calls of a batch.
const BATCH_MAX: u64 = 30;
/// Differences that are shown.
const SHOWN: usize = 20;

/// A request of one call, or of several.
struct Request {
    calls: Vec<Call>,
    is_batch: bool,
}

/// What both have said.
#[derive(Default)]
struct Compared {
    results: u64,
    errors: u64,
    differences: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_calls_are_answered_as_the_node_answers_them() {
    let (calls, seed) = (number("CALLS", 1000), number("SEED", 1));
    let Some(gateway) = Gateway::start(3, "").await else {
        return;
    };
    let chain = make_history(&gateway.node).await;
    gateway.wait_for_head_of(&gateway.node).await;
    let compared = stream::iter(requests(seed, calls, &chain))
        .map(|request| compare(&gateway, request))
        .buffer_unordered(AT_ONCE);
    let all = compared.collect::<Vec<_>>().await;
    let mut sum = Compared::default();
    for one in all {
        sum.results += one.results;
        sum.errors += one.errors;
        sum.differences.extend(one.differences);
    }
    println!(
        "SEED={seed}: {} results, {} errors",
        sum.results, sum.errors
    );
    let count = sum.differences.len();
    sum.differences.truncate(SHOWN);
    assert!(
        count == 0,
        "SEED={seed}: {count} of {calls} answers differ:\n{}",
        sum.differences.join("\n")
    );
    assert_eq!(sum.results + sum.errors, calls);
    assert!(sum.results > calls / 2 && sum.errors > calls / 10);
}

/// Makes blocks with transactions of several types, logs of two contracts, and blocks with nothing.
async fn make_history(node: &Anvil) -> Chain {
    let contracts = vec![node.deploy_counter().await, node.deploy_counter().await];
    let mut transactions = Vec::new();
    for round in 0..4 {
        for topic in 0..3 {
            let receipt = node.log(&contracts[topic % 2], topic as u8).await;
            transactions.push(receipt["transactionHash"].clone());
        }
        for more in [
            json!({ "to": OTHER_ACCOUNT, "value": "0x5", "gasPrice": "0xba43b7400" }),
            json!({ "to": OTHER_ACCOUNT, "value": "0x6", "accessList": [] }),
            // Reverts.
            json!({ "to": contracts[0] }),
        ] {
            let receipt = node.transact(more).await;
            transactions.push(receipt["transactionHash"].clone());
        }
        // Enough that some blocks are final.
        node.mine(10 * round + 1).await;
    }
    let head = node.block_number().await;
    let mut hashes = Vec::new();
    for number in 0..=head {
        let params = json!([format!("{number:#x}"), false]);
        hashes.push(node.call("eth_getBlockByNumber", params).await["hash"].take());
    }
    Chain {
        head,
        hashes,
        transactions,
        contracts,
    }
}

/// Requests with so many calls in all.
fn requests(seed: u64, calls: u64, chain: &Chain) -> Vec<Request> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut requests = Vec::new();
    let mut left = calls;
    while left > 0 {
        let is_batch = random.random_bool(0.2);
        let count = match is_batch {
            true => random.random_range(1..=BATCH_MAX).min(left),
            false => 1,
        };
        left -= count;
        let calls = (0..count).map(|_| call(&mut random, chain)).collect();
        requests.push(Request { calls, is_batch });
    }
    requests
}

/// The answers to a request.
async fn answers(
    gateway: &Gateway,
    url: &str,
    mut calls: Vec<Value>,
    is_batch: bool,
) -> Vec<Value> {
    let body = match is_batch {
        true => Value::Array(calls),
        false => calls.remove(0),
    };
    match gateway.post(url, &body).await {
        Value::Array(answers) if is_batch => answers,
        answer => vec![answer],
    }
}

/// Asks both.
async fn compare(gateway: &Gateway, request: Request) -> Compared {
    let Request { calls, is_batch } = request;
    let (own, node) = (gateway.url(), gateway.node.url());
    let sent = calls.iter().map(Call::request).collect();
    let completed = calls.iter().map(Call::completed).collect();
    let (through, direct) = tokio::join!(
        answers(gateway, &own, sent, is_batch),
        answers(gateway, &node, completed, is_batch)
    );
    let mut compared = Compared::default();
    if through.len() != calls.len() || direct.len() != calls.len() {
        let (own, node) = (through.len(), direct.len());
        let count = calls.len();
        let difference = format!("{own} answers, and {node} of the node, to {count} calls");
        compared.differences.push(difference);
        return compared;
    }
    for ((call, through), direct) in calls.iter().zip(through).zip(direct) {
        match direct.get("error") {
            None => compared.results += 1,
            Some(_) => compared.errors += 1,
        }
        if !is_equal(&through, &direct) {
            let difference = format!("{}\n  {through}\n  the node: {direct}", call.request());
            compared.differences.push(difference);
        }
    }
    compared
}

fn is_equal(through: &Value, direct: &Value) -> bool {
    let no_method = json!(-32601);
    if direct["error"]["code"] == no_method {
        return through["id"] == direct["id"] && through["error"]["code"] == no_method;
    }
    through == direct
}
