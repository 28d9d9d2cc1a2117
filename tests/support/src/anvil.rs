//! A real node of an Ethereum-like chain: anvil, with a chain of its own.

#![expect(clippy::unwrap_used, reason = "how a test fails")]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::capability::skip;
use crate::child::{self, Child};
use crate::models::cache;
use crate::wait::{DEADLINE, wait_for, wait_for_async};

/// The chain's id, unless [`AnvilOptions::chain_id`] gives another one.
pub const CHAIN_ID: u64 = 31337;

/// The first of the accounts that have funds. The node signs for it.
pub const ACCOUNT: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";
/// The second one.
pub const OTHER_ACCOUNT: &str = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8";

/// The code of a contract that counts its calls in the slot 0, and logs each count with the first word of the call's data as
/// the topic. Without data it reverts with 0xdeadbeef and 32 zeros.
const COUNTER: &str = "0x6030600c60003960306000f33615601f576000546001018060005560005260003560206000a160206000f35b\
    63deadbeef60e01b60005260246000fd";

/// How to start a node.
#[derive(Debug, Clone, Default)]
pub struct AnvilOptions {
    arguments: Vec<String>,
    port: u16,
}

impl AnvilOptions {
    /// Gives the chain another id.
    #[must_use]
    pub fn chain_id(self, id: u64) -> Self {
        self.argument("--chain-id", &id.to_string())
    }

    /// Mines a block at these intervals, in whole seconds. Without it, each transaction gets a block.
    #[must_use]
    pub fn block_time(self, seconds: u64) -> Self {
        self.argument("--block-time", &seconds.to_string())
    }

    /// Adds a command line argument with its value, for example `--prune-history` and `2`.
    #[must_use]
    pub fn argument(mut self, name: &str, value: &str) -> Self {
        self.arguments.push(name.into());
        self.arguments.push(value.into());
        self
    }

    /// Listens on this port, for a node that takes the place of another one. The default is a free port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }
}

/// A node that ends with the test.
#[derive(Debug)]
pub struct Anvil {
    process: Child,
    port: u16,
    client: reqwest::Client,
    _dir: TempDir,
}

impl Anvil {
    /// Starts one whose blocks come with transactions. `None` where it is not installed: the test is skipped.
    ///
    /// # Panics
    /// It does not start.
    #[track_caller]
    pub fn start() -> Option<Self> {
        Self::start_with(&AnvilOptions::default())
    }

    /// Starts one. `None` where it is not installed: the test is skipped.
    ///
    /// # Panics
    /// It does not start.
    #[track_caller]
    pub fn start_with(options: &AnvilOptions) -> Option<Self> {
        let Some(program) = program() else {
            skip("anvil is missing (scripts/setup.sh anvil)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = child::command(program);
        command
            .args(["--host", "127.0.0.1", "--color", "never", "--threads", "2"])
            .args(["--port", &options.port.to_string()])
            .args(&options.arguments)
            // It keeps a folder of its own there.
            .env("HOME", dir.path());
        let mut process = child::start_with_log(&mut command, &log).unwrap();
        let port = wait_for(DEADLINE, || {
            let log = fs::read_to_string(&log).unwrap();
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "anvil has ended: {log}");
            listening(&log).ok_or(log)
        });
        let client = reqwest::Client::builder()
            .timeout(DEADLINE)
            .build()
            .unwrap();
        Some(Self {
            process,
            port,
            client,
            _dir: dir,
        })
    }

    /// The port of the loopback that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of its JSON-RPC.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The URL of its WebSocket.
    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// Kills it.
    ///
    /// # Panics
    /// It does not end.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Answers a call directly: the whole answer.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn answer(&self, method: &str, params: Value) -> Value {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = self.client.post(self.url()).json(&body).send().await;
        answer.unwrap().json().await.unwrap()
    }

    /// The result of a call.
    ///
    /// # Panics
    /// The answer is an error.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        let mut answer = self.answer(method, params).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    /// Sends a transaction of the first account, with much gas unless it says otherwise. Returns its receipt.
    ///
    /// # Panics
    /// It is refused, or not mined.
    pub async fn transact(&self, transaction: Value) -> Value {
        let mut whole = json!({ "from": ACCOUNT, "gas": "0x100000" });
        for (name, value) in transaction.as_object().unwrap() {
            whole[name] = value.clone();
        }
        let hash = self.call("eth_sendTransaction", json!([whole])).await;
        wait_for_async(DEADLINE, async || {
            let receipt = self.call("eth_getTransactionReceipt", json!([hash])).await;
            match receipt {
                Value::Null => Err("no receipt"),
                receipt => Ok(receipt),
            }
        })
        .await
    }

    /// Deploys a contract that counts its calls, and logs each. Without data it reverts. Returns its address.
    ///
    /// # Panics
    /// It is not mined.
    pub async fn deploy_counter(&self) -> String {
        let receipt = self.transact(json!({ "data": COUNTER })).await;
        receipt["contractAddress"].as_str().unwrap().to_owned()
    }

    /// Has this contract log once, with 32 such bytes as the topic. Returns the receipt.
    ///
    /// # Panics
    /// There is no log.
    pub async fn log(&self, contract: &str, byte: u8) -> Value {
        let topic = topic(byte);
        let receipt = self
            .transact(json!({ "to": contract, "data": topic }))
            .await;
        assert_eq!(receipt["logs"][0]["topics"], json!([topic]), "{receipt}");
        receipt
    }

    /// Makes so many logs of so many zeros, one in a block, after a block with their contract. In JSON they have twice as
    /// many bytes.
    ///
    /// # Panics
    /// They are not mined.
    pub async fn log_zeros(&self, logs: usize, bytes: u32) {
        // PUSH4 bytes, PUSH1 0, LOG0, STOP, and before it what returns these 9 bytes as the contract.
        let code = format!("0x6863{bytes:08x}6000a00060005260096017f3");
        let deployed = self.transact(json!({ "data": code })).await;
        let contract = &deployed["contractAddress"];
        for _ in 0..logs {
            let call = json!({ "to": contract, "gas": "0x800000" });
            let receipt = self.transact(call).await;
            assert_eq!(receipt["status"], "0x1", "{receipt}");
        }
    }

    /// Mines so many blocks at once.
    ///
    /// # Panics
    /// It does not.
    pub async fn mine(&self, blocks: u64) {
        self.call("anvil_mine", json!([format!("{blocks:#x}")]))
            .await;
    }

    /// Replaces the newest `depth` blocks by empty ones with other hashes.
    ///
    /// # Panics
    /// It does not.
    pub async fn reorg(&self, depth: u64) {
        self.call("anvil_reorg", json!([depth, []])).await;
    }

    /// The number of the newest block.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn block_number(&self) -> u64 {
        let number = self.call("eth_blockNumber", json!([])).await;
        let digits = number.as_str().unwrap().trim_start_matches("0x").to_owned();
        u64::from_str_radix(&digits, 16).unwrap()
    }

    /// The newest block, without its transactions.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn newest(&self) -> Value {
        self.call("eth_getBlockByNumber", json!(["latest", false]))
            .await
    }

    /// Ends its chain `blocks` earlier.
    ///
    /// # Panics
    /// It does not.
    pub async fn rollback(&self, blocks: u64) {
        self.call("anvil_rollback", json!([blocks])).await;
    }
}

/// A topic of 32 such bytes.
pub fn topic(byte: u8) -> String {
    format!("0x{}", format!("{byte:02x}").repeat(32))
}

/// Where the setup puts it, or the one in `PATH`.
fn program() -> Option<PathBuf> {
    let cached = cache().join("anvil/anvil");
    if cached.is_file() {
        return Some(cached);
    }
    child::find("anvil")
}

/// The port that it reports.
fn listening(log: &str) -> Option<u16> {
    let (_, address) = log.rsplit_once("Listening on ")?;
    let (address, _) = address.split_once('\n')?;
    address.rsplit_once(':')?.1.trim().parse().ok()
}
