//! What an error of JSON-RPC means: whether it concerns the caller, or only this provider.
//!
//! Providers agree neither on codes nor on words, and most errors have the code -32000. So the words decide, then the
//! code. An error that nothing is known of counts as the provider's: then another one is asked, and if that fails too, the
//! caller gets the error.
//!
//! Nodes quote what a caller has sent. Words that the call itself contains say nothing of the provider: otherwise a caller could
//! have all providers of a chain taken for throttling or pruned.

#[cfg(test)]
mod tests;
mod words;

use std::borrow::Cow;
use std::time::Duration;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use self::words::{
    ACCESS, BEHIND, CALLER, EXECUTION, NOT, OFFERS, PLANS, PRUNED, RANGE, THROTTLED, TRANSACTION,
    WRONG_SEARCH,
};
use super::fault::ErrorKind;
use crate::chain::rpc::Call;

/// How much of a message and of its data is read.
const TEXT_MAX: usize = 1024;

/// The longest wait that an error may ask for.
const WAIT_MAX: u64 = 3600;

/// Whom an error concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The caller: every provider would say the same.
    Caller,
    /// Only this provider.
    Provider(ErrorKind),
    /// The provider has had too many calls.
    Throttled {
        /// When it takes calls again, if the error says so.
        retry_after: Option<Duration>,
    },
}

/// What an error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Classified {
    pub(super) meaning: Meaning,
    /// The most blocks of one search, if it names them.
    pub(super) logs_range_max: Option<u64>,
}

impl Classified {
    fn new(meaning: Meaning) -> Self {
        Self {
            meaning,
            logs_range_max: None,
        }
    }
}

#[derive(Deserialize)]
struct ErrorObject<'a> {
    #[serde(default, borrow)]
    code: Option<&'a RawValue>,
    #[serde(default, borrow)]
    message: Option<&'a RawValue>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
}

impl ErrorObject<'_> {
    /// Some providers write it as a text.
    fn code(&self) -> i64 {
        let digits = self.code.map_or("", |code| code.get().trim_matches('"'));
        digits.parse().unwrap_or_default()
    }

    /// The message and the beginning of its data, in lower case.
    fn text(&self) -> String {
        let message = self.message.map_or("", RawValue::get);
        let message = serde_json::from_str::<Cow<'_, str>>(message)
            .unwrap_or(Cow::Borrowed(message))
            .to_ascii_lowercase();
        let mut text = begin(&message).to_owned();
        if let Some(data) = self.data {
            text.push(' ');
            text.push_str(&begin(data.get()).to_ascii_lowercase());
        }
        text
    }
}

fn begin(text: &str) -> &str {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn has(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

/// Whether a call has a tracer that is a program, and not the name of one.
fn has_program(params: &[u8]) -> bool {
    const TRACER: &[u8] = b"\"tracer\"";
    let mut tracers = memmem::find_iter(params, TRACER);
    tracers.any(|at| {
        let value = params[at + TRACER.len()..].trim_ascii_start();
        let value = value.strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        let text = value.and_then(|value| value.strip_prefix(b"\""));
        let end = text.and_then(|text| text.iter().find(|it| !is_of_name(**it)));
        end != Some(&b'"')
    })
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether a node that quotes the call may say this word. What is escaped is not read, and may be any word, as may what a
/// tracer throws, which is a program.
fn says(call: &Call, word: &str) -> bool {
    let has = |text: &[u8]| {
        let mut parts = text.windows(word.len());
        parts.any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
    };
    call.params.contains(&b'\\')
        || has_program(&call.params)
        || has(call.method.as_bytes())
        || has(&call.params)
}

/// Whether calls of this method search a range of blocks.
fn searches(method: &str) -> bool {
    matches!(
        method,
        "eth_getLogs" | "eth_getFilterLogs" | "eth_newFilter" | "trace_filter"
    )
}

/// What `error`, the text of an error object, means for a call.
pub(super) fn classify(call: &Call, error: &str) -> Classified {
    use ErrorKind::{Behind, Internal, Pruned, Range, Unsupported};
    let Ok(object) = serde_json::from_str::<ErrorObject<'_>>(error) else {
        return Classified::new(Meaning::Provider(Internal));
    };
    let (code, text) = (object.code(), object.text());
    let text = text.as_str();
    let is_told = |words: &[&str]| {
        let mut found = words.iter().filter(|word| text.contains(**word));
        found.any(|word| !says(call, word))
    };
    let is_of_range = || {
        let both = ["block", "range"];
        is_told(RANGE) || (both.iter().all(|word| is_told(&[word]))) || text == "limit exceeded"
    };
    if searches(&call.method)
        && is_of_range()
        && !is_told(THROTTLED)
        && !has(text, WRONG_SEARCH)
        && !has(text, BEHIND)
        && code != 3
    {
        return Classified {
            meaning: Meaning::Provider(Range),
            logs_range_max: range_max(text),
        };
    }
    let throttled = || Meaning::Throttled {
        retry_after: retry_after(text),
    };
    let is_not_offered = is_told(OFFERS) && has(text, NOT);
    let meaning = match code {
        3 | -32015 if !is_told(PRUNED) => Meaning::Caller,
        _ if has(text, EXECUTION) || has(text, TRANSACTION) => Meaning::Caller,
        429 | -32005 | -32016 | -32029 => throttled(),
        _ if is_told(THROTTLED) => throttled(),
        4444 => Meaning::Provider(Pruned),
        _ if is_told(PRUNED) => Meaning::Provider(Pruned),
        // Of a transaction, if nothing else is said.
        -32003 | -32010 => Meaning::Caller,
        -32601 | 4200 => Meaning::Provider(Unsupported),
        _ if is_told(ACCESS) => Meaning::Provider(Internal),
        _ if is_not_offered || is_told(PLANS) => Meaning::Provider(Unsupported),
        -32001 => Meaning::Provider(Behind),
        _ if is_told(BEHIND) => Meaning::Provider(Behind),
        -32602 | -32600 => Meaning::Caller,
        // The request was written here, and is valid JSON.
        -32603 | -32700 | -32002 => Meaning::Provider(Internal),
        _ if has(text, CALLER) => Meaning::Caller,
        _ => Meaning::Provider(Internal),
    };
    Classified::new(meaning)
}

/// Whether the provider says that it takes no batches, or none as long as this one.
pub(super) fn refuses_batches(error: &str) -> bool {
    let Ok(object) = serde_json::from_str::<ErrorObject<'_>>(error) else {
        return false;
    };
    object.text().contains("batch") || matches!(object.code(), -32600 | -32700)
}

/// How long to wait, as Infura writes it.
fn retry_after(text: &str) -> Option<Duration> {
    let (_, after) = text.split_once("backoff_seconds")?;
    let digits = after.trim_start_matches(['"', ':', ' ']);
    let end = digits
        .find(|it: char| !it.is_ascii_digit())
        .unwrap_or(digits.len());
    let seconds = digits[..end].parse::<u64>().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds.min(WAIT_MAX)))
}

/// The smallest number of blocks that the text names, such as in "limited to a 10,000 range" and "up to a 2K block range".
fn range_max(text: &str) -> Option<u64> {
    if !text.contains("range") && !text.contains("blocks") {
        return None;
    }
    let mut smallest = None;
    let mut rest = text;
    while let Some(begin) = rest.find(|it: char| it.is_ascii_digit()) {
        let before = &rest[..begin];
        let number = &rest[begin..];
        let end = number
            .find(|it: char| !it.is_ascii_digit() && it != ',')
            .unwrap_or(number.len());
        let (digits, after) = number.split_at(end);
        // A hexadecimal number is a block, and what is in a word is a part of it.
        let is_word = before.ends_with(|it: char| it.is_ascii_alphanumeric() || it == '_');
        if is_word || after.starts_with('x') {
            let end = after
                .find(|it: char| !it.is_ascii_alphanumeric())
                .unwrap_or(after.len());
            rest = &after[end..];
            continue;
        }
        let (factor, after) = match after.strip_prefix('k') {
            Some(after) => (1_000, after),
            None => (1, after),
        };
        let unit = after.trim_start_matches([' ', '-']);
        let counts_logs = ["result", "log", "s", "mb", "second", "address", "topic"]
            .iter()
            .any(|word| unit.starts_with(word) && !unit.starts_with("size"));
        let number = digits.trim_end_matches(',').replace(',', "").parse::<u64>();
        if let Ok(number) = number
            && number > 0
            && !counts_logs
        {
            let number = number.saturating_mul(factor);
            smallest = Some(smallest.map_or(number, |it: u64| it.min(number)));
        }
        rest = after;
    }
    smallest
}
