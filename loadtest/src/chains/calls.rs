//! The calls that are sent, and what a right answer is.

use std::cell::Cell;

use serde_json::Value;

use crate::Result;

/// The final block that is asked for. Every upstream has it.
pub(super) const FINAL_BLOCK: u64 = 16;

/// What a gateway is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// The balance of another account each time: no answer can be kept from before.
    Uncached,
    /// The same final block each time.
    Cached,
}

impl Load {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Uncached => "uncached",
            Self::Cached => "cached",
        }
    }

    /// Whether `answer` is right, if the upstream itself gives the result `direct`. A gateway may leave out some fields of a
    /// block.
    pub(super) fn check(self, answer: &[u8], direct: &Value) -> Result<()> {
        let answer: Value = serde_json::from_slice(answer)?;
        let result = &answer["result"];
        let is_right = match (self, result.as_object()) {
            (Self::Uncached, _) => result == direct,
            (Self::Cached, Some(block)) => {
                let needed = ["number", "hash", "transactions"];
                needed.iter().all(|name| block.contains_key(*name))
                    && block.iter().all(|(name, value)| *value == direct[name])
            }
            (Self::Cached, None) => false,
        };
        match is_right && answer["id"] == ID {
            true => Ok(()),
            false => Err(format!("wrong answer: {answer}, but the node gives {direct}").into()),
        }
    }
}

/// The id of all calls, so that right answers to one load are all the same.
const ID: u64 = 1;

/// Numbers calls, all of this process, so that each is about another account.
#[derive(Default)]
pub(super) struct Calls(Cell<u64>);

impl Calls {
    /// The next call of `load`, as JSON.
    pub(super) fn next(&self, load: Load) -> String {
        let number = self.0.get();
        self.0.set(number + 1);
        let (method, params) = match load {
            // Accounts with small numbers are contracts of the node.
            Load::Uncached => (
                "eth_getBalance",
                format!(r#"["0xb{number:039x}","latest"]"#),
            ),
            Load::Cached => (
                "eth_getBlockByNumber",
                format!(r#"["{FINAL_BLOCK:#x}",false]"#),
            ),
        };
        format!(r#"{{"jsonrpc":"2.0","id":{ID},"method":"{method}","params":{params}}}"#)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn uncached_calls_differ_and_cached_ones_do_not() {
        let calls = Calls::default();
        let [first, second] = [(); 2].map(|()| calls.next(Load::Uncached));
        assert_ne!(first, second);
        assert_eq!(first.len(), second.len());
        let address = serde_json::from_str::<Value>(&first).unwrap()["params"][0].take();
        assert_eq!(address.as_str().map(str::len), Some(42));
        assert_eq!(calls.next(Load::Cached), calls.next(Load::Cached));
    }

    #[test]
    fn a_block_with_fewer_fields_is_right_and_one_with_others_is_not() {
        let direct = json!({ "number": "0x10", "hash": "0xa", "transactions": [], "size": "0x1" });
        let check = |result: Value| {
            let answer = json!({ "jsonrpc": "2.0", "id": ID, "result": result }).to_string();
            Load::Cached.check(answer.as_bytes(), &direct).is_ok()
        };
        assert!(check(direct.clone()));
        let mut block = json!({ "number": "0x10", "hash": "0xa", "transactions": [] });
        assert!(check(block.clone()));
        block["hash"] = "0xb".into();
        assert!(!check(block));
        assert!(!check(json!({ "number": "0x10", "hash": "0xa" })));
        assert!(!check(Value::Null));
    }

    #[test]
    fn an_answer_to_another_call_is_wrong() {
        let check = |answer: &str| {
            Load::Uncached
                .check(answer.as_bytes(), &json!("0x0"))
                .is_ok()
        };
        assert!(check(r#"{"jsonrpc":"2.0","id":1,"result":"0x0"}"#));
        assert!(!check(r#"{"jsonrpc":"2.0","id":2,"result":"0x0"}"#));
        assert!(!check(r#"{"jsonrpc":"2.0","id":1,"result":"0x1"}"#));
        assert!(!check(
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32002}}"#
        ));
    }
}
