//! Which answers are kept, and how long.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::chain::block_param::{BlockParam, Height, Tag};
use crate::chain::heads::Heads;
use crate::chain::hex::{BlockHash, quantity};
use crate::chain::log_range::{LogBlocks, LogFilter};
use crate::chain::methods::{Depends, Effect, Method};

/// How many bytes of a result are searched for its block.
const SEARCHED_MAX: usize = 64 * 1024;

/// How long an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// For ever: it is about a final block, or about nothing that changes.
    Ever,
    /// As long as its block is of the chain.
    Block,
    /// Until the next head.
    Head,
    /// For this time.
    For(Duration),
}

/// What is known of an answer that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How long it holds.
    pub hold: Hold,
    /// The newest block that it is about, if it is about blocks. A reorganisation that replaces this block ends it, also if
    /// the block was called final.
    pub block: Option<u64>,
}

impl Keep {
    const EVER: Self = Self {
        hold: Hold::Ever,
        block: None,
    };
    const HEAD: Self = Self {
        hold: Hold::Head,
        block: None,
    };
}

/// Decides whether the `result` of a call, which `provider` has given, is kept. `heads` are those after the answer has come.
///
/// An answer about a block is kept only if the provider has this block, on the branch that counts: a provider that is behind
/// has an empty list of logs for what it has not seen. An answer about `latest` is kept until the next head; the caller should
/// name the number instead ([`with_number`](crate::chain::block_param::with_number)), so that it holds longer.
pub fn keep(
    method: &str,
    params: &[u8],
    result: &[u8],
    provider: &str,
    heads: &Heads,
) -> Option<Keep> {
    let Effect::Reads(depends) = Method::of(method).effect else {
        return None;
    };
    let result = result.trim_ascii();
    // A provider that lacks something says the same as one that knows that it does not exist.
    if result.is_empty() || result == b"null" {
        return None;
    }
    let is_empty = is_empty_list(result);
    let source = Source { provider, heads };
    match depends {
        Depends::Nothing => Some(Keep::EVER),
        Depends::Provider => None,
        Depends::Head => source.newest(),
        Depends::Hash => of_hash(method, result, is_empty, source),
        Depends::Range => match LogFilter::read(params).ok()?.blocks() {
            LogBlocks::Hash(_) => (!is_empty).then_some(Keep::EVER),
            LogBlocks::Range { from, to } => {
                let (from, to) = (fixed(from)?, fixed(to)?);
                let kept = source.block(to, None).filter(|_| from <= to)?;
                // A node that lacks the last blocks has fewer logs and says nothing of it.
                (kept.hold == Hold::Ever).then_some(kept)
            }
        },
        Depends::Block(index) => match BlockParam::read(params, index).ok()? {
            None => source.newest(),
            Some(BlockParam::At(Height::Tag(Tag::Pending))) => None,
            // These move with the head.
            Some(BlockParam::At(Height::Tag(Tag::Latest | Tag::Safe | Tag::Finalized))) => {
                source.newest()
            }
            Some(BlockParam::Hash {
                require_canonical, ..
            }) => match require_canonical {
                true => source.newest(),
                false => (!is_empty).then_some(Keep::EVER),
            },
            Some(BlockParam::At(height)) => {
                let number = fixed(height)?;
                let hash = match names_of_block(method) {
                    Some(names) => {
                        let told = told_block(result, names)?;
                        (told.0 == number).then_some(told.1)?
                    }
                    None => None,
                };
                let kept = source.block(number, hash)?;
                (!is_empty || kept.hold == Hold::Ever).then_some(kept)
            }
        },
    }
}

/// The answer to a call that names a transaction or a block by its hash.
fn of_hash(method: &str, result: &[u8], is_empty: bool, source: Source<'_>) -> Option<Keep> {
    match method {
        "eth_getTransactionByHash" | "eth_getTransactionReceipt" => {
            // One that is in no block has no number.
            let (number, hash) = told_block(result, ("blockNumber", "blockHash"))?;
            source.block(number, Some(hash?))
        }
        // The transaction may move to another block, and the result does not say which one it was in.
        "debug_traceTransaction" | "trace_transaction" | "trace_replayTransaction" => {
            source.newest().filter(|_| !is_empty)
        }
        // The same hash, the same content. A transaction that is not known is "0x".
        _ => (!is_empty && result != b"\"0x\"").then_some(Keep::EVER),
    }
}

/// The names of the fields with the number and the hash of the block, if results of `method` have them.
fn names_of_block(method: &str) -> Option<(&'static str, &'static str)> {
    match method {
        "eth_getBlockByNumber" => Some(("number", "hash")),
        "eth_getTransactionByBlockNumberAndIndex" => Some(("blockNumber", "blockHash")),
        _ => None,
    }
}

/// The number that `height` always means.
fn fixed(height: Height) -> Option<u64> {
    match height {
        Height::Number(number) => Some(number),
        Height::Tag(Tag::Earliest) => Some(0),
        Height::Tag(_) => None,
    }
}

/// Who has given an answer, and what is known of the chain.
#[derive(Clone, Copy)]
struct Source<'a> {
    provider: &'a str,
    heads: &'a Heads,
}

impl Source<'_> {
    /// For an answer about the newest block.
    fn newest(self) -> Option<Keep> {
        let head = self.heads.head()?;
        let has_it = self.heads.vouches(self.provider, head.number);
        has_it.then_some(Keep::HEAD)
    }

    /// For an answer about the block `number`, with this hash if it tells it.
    fn block(self, number: u64, hash: Option<BlockHash>) -> Option<Keep> {
        if !self.heads.vouches(self.provider, number) || number > self.heads.head()?.number {
            return None;
        }
        let known = self.heads.hash_at(number);
        if known.is_some() && hash.is_some() && known != hash {
            return None;
        }
        let hold = match (self.heads.is_final(number), known) {
            (true, _) => Hold::Ever,
            (false, Some(_)) => Hold::Block,
            // Whether the block is replaced would not be noticed.
            (false, None) => Hold::Head,
        };
        Some(Keep {
            hold,
            block: Some(number),
        })
    }
}

/// Whether `result` is a list without elements.
fn is_empty_list(result: &[u8]) -> bool {
    let inner = result
        .strip_prefix(b"[")
        .and_then(|rest| rest.strip_suffix(b"]"));
    inner.is_some_and(|inner| inner.trim_ascii().is_empty())
}

/// The number and the hash of the block in the object `result`, under these names. Reads no further than to the later one. A
/// block that is being made has no hash.
fn told_block(result: &[u8], names: (&str, &str)) -> Option<(u64, Option<BlockHash>)> {
    let searched = result.get(..SEARCHED_MAX).unwrap_or(result);
    let mut found = Found {
        names,
        number: None,
        hash: None,
    };
    let mut parser = serde_json::Deserializer::from_slice(searched);
    // It ends with an error once both are found, so that the rest is not read.
    drop(parser.deserialize_map(&mut found));
    let number = quantity(&found.number??)?;
    match found.hash? {
        Some(hash) => Some((number, Some(BlockHash::parse(&hash)?))),
        None => Some((number, None)),
    }
}

/// Collects two fields of an object.
struct Found<'a> {
    names: (&'a str, &'a str),
    number: Option<Option<String>>,
    hash: Option<Option<String>>,
}

impl<'de> Visitor<'de> for &mut Found<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = object.next_key()? {
            if name == self.names.0 && self.number.is_none() {
                self.number = Some(object.next_value()?);
            } else if name == self.names.1 && self.hash.is_none() {
                self.hash = Some(object.next_value()?);
            } else {
                object.next_value::<IgnoredAny>()?;
            }
            if self.number.is_some() && self.hash.is_some() {
                return Err(A::Error::custom("both are found"));
            }
        }
        Ok(())
    }
}

/// The name of a field, which is copied only if it has escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
