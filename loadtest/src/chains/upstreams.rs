//! The nodes behind the gateways: a server with fixed answers, which takes as little time as a server can, the same server with
//! a delay, as one that is elsewhere, and anvil.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use headroom_test_support::anvil::{Anvil, CHAIN_ID};
use headroom_test_support::child;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::calls::{Calls, FINAL_BLOCK, Load};
use crate::Result;
use crate::client::{Connection, post};
use crate::running::{Running, serve};

/// The newest block of the server with fixed answers.
const HEAD: u64 = 1_000_000;

/// How many blocks before the head the newest final one is, as at the nodes of Ethereum.
const FINALITY_DEPTH: u64 = 64;

/// Transactions of a block: with their hashes, it has about 4 KiB.
const TRANSACTIONS: u64 = 40;

/// How long a node that is elsewhere takes to answer.
const FAR: Duration = Duration::from_millis(10);

/// The delay of the server with fixed answers, in milliseconds.
const DELAY_VARIABLE: &str = "HEADROOM_LOADTEST_DELAY_MS";

/// A node that runs.
pub(super) struct Upstream {
    pub(super) label: &'static str,
    pub(super) address: SocketAddr,
    _process: Process,
}

enum Process {
    Fixed(#[expect(dead_code, reason = "its drop ends it")] Running),
    Anvil(#[expect(dead_code, reason = "its drop ends it")] Anvil),
}

impl Upstream {
    /// Starts the server with fixed answers, in a process of its own.
    pub(super) fn fixed() -> Result<Self> {
        Self::fixed_after("fixed answers", Duration::ZERO)
    }

    /// As [`Upstream::fixed`], and each answer takes as long as from a node that is elsewhere.
    pub(super) fn far() -> Result<Self> {
        Self::fixed_after("fixed answers after 10 ms", FAR)
    }

    fn fixed_after(label: &'static str, delay: Duration) -> Result<Self> {
        let mut own = child::command(std::env::current_exe()?);
        own.args(["chains", "--peer", label]);
        own.env(DELAY_VARIABLE, delay.as_millis().to_string());
        let running = Running::start(own)?;
        Ok(Self {
            label,
            address: running.address,
            _process: Process::Fixed(running),
        })
    }

    /// Starts anvil with so many blocks that [`FINAL_BLOCK`] is final. `None` where it is not installed.
    pub(super) fn anvil() -> Result<Option<Self>> {
        let Some(anvil) = Anvil::start() else {
            return Ok(None);
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            anvil.mine(FINAL_BLOCK + 4 * FINALITY_DEPTH).await;
            // It would write a line for each call.
            let off = json!([false]);
            anvil.call("anvil_setLoggingEnabled", off).await;
        });
        Ok(Some(Self {
            label: "anvil",
            address: ([127, 0, 0, 1], anvil.port()).into(),
            _process: Process::Anvil(anvil),
        }))
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The result of a call of `load`, without a gateway.
    pub(super) fn result(&self, load: Load, calls: &Calls) -> Result<Value> {
        let mut connection = Connection::open(self.address)?;
        let answer = connection.ask(&post("/", &calls.next(load)))?;
        let mut answer: Value = serde_json::from_slice(answer)?;
        match answer["result"].take() {
            Value::Null => Err(format!("the node answered {answer}").into()),
            result => Ok(result),
        }
    }
}

/// Runs the server with fixed answers in this process.
pub(super) fn run_fixed() -> Result<()> {
    let delay = Duration::from_millis(std::env::var(DELAY_VARIABLE)?.parse()?);
    serve(move |config| {
        config.route(
            "/",
            web::post().to(move |body: web::Bytes| respond(body, delay)),
        );
    })
}

async fn respond(body: web::Bytes, delay: Duration) -> HttpResponse {
    if !delay.is_zero() {
        sleep(delay).await;
    }
    match answer(&body) {
        Ok(text) => HttpResponse::Ok()
            .content_type("application/json")
            .body(text),
        Err(error) => HttpResponse::BadRequest().body(error.to_string()),
    }
}

/// A call, of which only the method and the block are read.
#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// The answer to a call.
fn answer(body: &[u8]) -> Result<String, serde_json::Error> {
    let Call { id, method, params } = serde_json::from_slice(body)?;
    let result = match &*method {
        "eth_chainId" => format!(r#""{CHAIN_ID:#x}""#),
        "eth_blockNumber" => format!(r#""{HEAD:#x}""#),
        "eth_getBalance" => r#""0xde0b6b3a7640000""#.into(),
        "eth_syncing" => "false".into(),
        "eth_getBlockByNumber" => {
            let params = params.map_or("[]", RawValue::get);
            let (tag, _full): (Cow<'_, str>, bool) = serde_json::from_str(params)?;
            number(&tag).map_or_else(|| "null".into(), block)
        }
        _ => {
            let error = r#"{"code":-32601,"message":"the method is not known"}"#;
            return Ok(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#));
        }
    };
    Ok(format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#
    ))
}

/// The number of the block that `tag` names, if there is one.
fn number(tag: &str) -> Option<u64> {
    match tag {
        "latest" | "pending" => Some(HEAD),
        "finalized" | "safe" => Some(HEAD - FINALITY_DEPTH),
        "earliest" => Some(0),
        number => {
            let number = u64::from_str_radix(number.strip_prefix("0x")?, 16).ok()?;
            (number <= HEAD).then_some(number)
        }
    }
}

/// A block, as JSON.
fn block(number: u64) -> String {
    /// What all blocks have in common.
    static REST: LazyLock<String> = LazyLock::new(|| {
        let transactions: Vec<_> = (1..=TRANSACTIONS).map(hash).collect();
        let rest = json!({
            "nonce": "0x0000000000000000",
            "sha3Uncles": hash(1),
            "logsBloom": format!("0x{:0512x}", 1),
            "transactionsRoot": hash(2),
            "stateRoot": hash(3),
            "receiptsRoot": hash(4),
            "miner": format!("0x{:040x}", 1),
            "difficulty": "0x0",
            "extraData": "0x",
            "size": "0x1000",
            "gasLimit": "0x1c9c380",
            "gasUsed": "0xe4e1c0",
            "baseFeePerGas": "0x7",
            "timestamp": "0x68000000",
            "mixHash": hash(5),
            "uncles": [],
            "transactions": transactions,
        });
        // Without the brace that begins it.
        rest.to_string().split_off(1)
    });
    let (hash, parent) = (hash(number + 1), hash(number));
    let rest = &*REST;
    format!(r#"{{"number":"{number:#x}","hash":"{hash}","parentHash":"{parent}",{rest}"#)
}

/// A hash that has this number in it.
fn hash(number: u64) -> String {
    format!("0x{number:064x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(id: &str, method: &str, params: &str) -> String {
        let body = format!(r#"{{"id":{id},"method":"{method}","params":{params}}}"#);
        answer(body.as_bytes()).unwrap()
    }

    #[test]
    fn ids_come_back_as_they_were_sent() {
        for id in ["1", r#""a\u0062""#, "1e5", "null"] {
            let answer = ask(id, "eth_chainId", "[]");
            let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"0x7a69"}}"#);
            assert_eq!(answer, expected);
        }
    }

    #[test]
    fn blocks_are_those_that_were_asked_for_and_linked_by_their_hashes() {
        let block = |tag: &str| -> Value {
            let answer = ask("1", "eth_getBlockByNumber", &format!(r#"["{tag}",false]"#));
            serde_json::from_str::<Value>(&answer).unwrap()["result"].take()
        };
        assert_eq!(block("0x10")["number"], "0x10");
        assert_eq!(block("latest")["number"], format!("{HEAD:#x}"));
        assert_eq!(block("0x11")["parentHash"], block("0x10")["hash"]);
        assert_eq!(block(&format!("{:#x}", HEAD + 1)), Value::Null);
        assert_eq!(
            block("0x10").to_string().len(),
            block("0x11").to_string().len()
        );
    }

    #[test]
    fn other_methods_are_not_known() {
        assert!(ask("1", "eth_getLogs", "[{}]").contains("-32601"));
        assert!(answer(b"[]").is_err());
    }
}
