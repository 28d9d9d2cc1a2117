//! Which block a call reads, so that a client never sees an older one after a newer one.
//!
//! `latest` is the newest block that the gateway has shown to anybody: the head that its providers agree on, or a later one
//! that an answer has revealed, such as the receipt of a transaction. Calls about `latest` are sent with its number, to
//! providers that have it. So the calls of a batch read the same block, and an answer is kept for as long as its block is of
//! the chain.
//!
//! After a time without calls, nobody knows what is newest. Calls then wait a little for a provider to tell its head. If none
//! does, they are sent as they are, but to no provider that lacks a block that was shown.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use memchr::memmem;
use tokio::time::{Instant, timeout_at};

use super::{Needs, Serving, Upstream};
use crate::chain::block_param::{BlockParam, Height, Tag, with_number};
use crate::chain::cache::Key;
use crate::chain::hex::quantity;
use crate::chain::methods::{Depends, Effect, Method};
use crate::chain::rpc::{Call, Outcome};

/// A head counts for the time between so many blocks, and for this time at least, after a provider has told it.
const FRESH_BLOCKS: u32 = 4;
const FRESH_MIN: Duration = Duration::from_secs(5);
/// How long calls wait for a head after a time in which none was told, all together: if that is in vain, later ones do not wait.
const HEAD_AWAITED: Duration = Duration::from_secs(2);
/// How many bytes of an answer are searched for its block.
const SEARCHED_MAX: usize = 16 * 1024;

/// The newest block that was shown to anybody.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Newest {
    /// Its number. Nobody may see an older block as the newest one.
    pub(super) shown: Option<u64>,
    /// Whether a provider has told its head of late.
    is_current: bool,
}

impl Newest {
    /// The block that `latest` is. `None` if only a provider knows.
    pub(super) fn latest(self) -> Option<u64> {
        self.shown.filter(|_| self.is_current)
    }
}

/// How a call that reads is sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    /// Under what its answer is kept.
    pub(super) key: Option<Key>,
    /// The newest block that its caller may have seen: only callers with the same one share an answer that is on its way.
    pub(super) seen: Option<u64>,
    /// What a provider must have for it.
    pub(super) needs: Needs,
}

impl Serving {
    /// The newest block that was shown to anybody.
    pub(super) fn newest(&self) -> Newest {
        Newest {
            shown: self.shown(),
            is_current: self.is_current(*self.head_told_at.borrow()),
        }
    }

    /// Its number.
    pub(super) fn shown(&self) -> Option<u64> {
        let revealed = self.upstreams.iter().map(|it| self.revealed(it));
        self.agreed().max(revealed.max())
    }

    fn is_current(&self, told_at: Option<Instant>) -> bool {
        let block_time = self.config.block_time;
        told_at.is_some_and(|told_at| is_fresh(told_at, Instant::now(), block_time))
    }

    /// The newest block for the calls of one request. If no provider has told its head of late, and one of them depends on that,
    /// this waits a little.
    pub(super) async fn newest_for(&self, calls: &[Arc<Call>], deadline: Instant) -> Newest {
        let newest = self.newest();
        if newest.is_current || !calls.iter().any(|call| depends_on_head(call)) {
            return newest;
        }
        self.look_after_providers();
        let now = Instant::now();
        let until = self.head_awaited_until.get().unwrap_or(now + HEAD_AWAITED);
        self.head_awaited_until.set(Some(until));
        let half = now + deadline.saturating_duration_since(now) / 2;
        let mut told_at = self.head_told_at.subscribe();
        let told = told_at.wait_for(|told_at| self.is_current(*told_at));
        drop(timeout_at(until.min(half), told).await);
        self.newest()
    }

    /// Has providers that rest looked after from now on.
    pub(super) fn look_after_providers(&self) {
        let now = Instant::now();
        self.upstreams.iter().for_each(|it| it.view.touch(now));
    }

    /// The newest block that an answer of a provider has revealed, if it is believed.
    pub(super) fn revealed(&self, upstream: &Upstream) -> u64 {
        let revealed = upstream.revealed.get();
        match self.is_believed(revealed) {
            true => revealed,
            false => 0,
        }
    }

    /// Whether a provider is believed that there is a block with this number: if there is no other one, or if it is not far
    /// ahead of the agreed head.
    fn is_believed(&self, number: u64) -> bool {
        let agreed = self.agreed().unwrap_or_default();
        self.upstreams.len() == 1 || number <= agreed.saturating_add(self.revealed_max)
    }

    /// How a call is sent when the newest block is `newest`. The call may be another one than before.
    pub(super) fn reading(
        &self,
        call: &Arc<Call>,
        method: Method,
        newest: Newest,
    ) -> (Arc<Call>, Reading) {
        let mut call = Arc::clone(call);
        let mut needs = Needs {
            head_min: newest.shown,
            ..Needs::default()
        };
        let mut moves_with_head = false;
        match method.effect {
            Effect::Reads(Depends::Block(index)) => match BlockParam::read(&call.params, index) {
                Ok(None | Some(BlockParam::At(Height::Tag(Tag::Latest)))) => {
                    let latest = newest.latest();
                    let pinned = latest.and_then(|it| with_number(&call.params, index, it));
                    match pinned {
                        Some(params) => {
                            needs.must_exist = is_of_block(&call.method);
                            needs.names_known_block = true;
                            call = Arc::new(Call::new(Arc::clone(&call.method), params));
                        }
                        None => moves_with_head = true,
                    }
                }
                Ok(Some(BlockParam::At(Height::Number(number)))) => {
                    let is_there = newest.shown.is_some_and(|shown| number <= shown);
                    needs.head_min = is_there.then_some(number);
                    needs.state_of = reads_state(&call.method).then_some(number);
                    needs.must_exist = is_there && is_of_block(&call.method);
                    needs.names_known_block = is_there;
                }
                // Each caller sees what has become of its own transactions.
                Ok(Some(BlockParam::At(Height::Tag(Tag::Pending)))) | Err(_) => {
                    return (
                        call,
                        Reading {
                            needs,
                            ..Reading::default()
                        },
                    );
                }
                Ok(Some(_)) => moves_with_head = true,
            },
            Effect::Reads(Depends::Head) => moves_with_head = true,
            Effect::Reads(Depends::Nothing) => {
                needs.head_min = None;
                needs.any_branch = true;
            }
            Effect::Reads(Depends::Hash) => needs.may_be_elsewhere = true,
            Effect::Reads(_) => {}
            _ => return (call, Reading::default()),
        }
        let key = match (moves_with_head, newest.latest()) {
            // What moves with the head is shared by those who see the same one.
            (true, Some(latest)) => Key::of(&format!("{}@{latest}", call.method), &call.params),
            (true, None) => None,
            (false, _) => Key::of(&call.method, &call.params),
        };
        let seen = newest.shown;
        (call, Reading { key, seen, needs })
    }

    /// The answer to `eth_blockNumber`, which is never less than what was shown before, nor a block that is not believed.
    pub(super) fn block_number(&self, newest: Newest, answer: Outcome) -> Outcome {
        let Outcome::Result(result) = &answer else {
            return answer;
        };
        let Some((number, shown)) = text(result).and_then(quantity).zip(newest.shown) else {
            return answer;
        };
        // After a silence the chain may be at any block.
        match number < shown || (newest.is_current && !self.is_believed(number)) {
            true => Outcome::Result(format!("\"{shown:#x}\"").into()),
            false => answer,
        }
    }

    /// Takes the block that an answer of a provider reveals.
    pub(super) fn reveal(&self, provider: usize, method: &str, result: &Bytes) {
        let number = match method {
            "eth_blockNumber" => text(result).and_then(quantity),
            "eth_getTransactionReceipt" | "eth_getTransactionByHash" => block_number(result),
            _ => None,
        };
        let revealed = &self.upstreams[provider].revealed;
        revealed.set(revealed.get().max(number.unwrap_or_default()));
    }
}

/// Whether the answer to a call may depend on the newest block.
fn depends_on_head(call: &Call) -> bool {
    match Method::of(&call.method).effect {
        Effect::Reads(depends) => {
            matches!(depends, Depends::Head | Depends::Block(_) | Depends::Range)
        }
        Effect::Filters => true,
        _ => false,
    }
}

/// Whether a head that was told at `told_at` may still be the newest.
fn is_fresh(told_at: Instant, now: Instant, block_time: Duration) -> bool {
    now.saturating_duration_since(told_at) <= (block_time * FRESH_BLOCKS).max(FRESH_MIN)
}

/// Whether a method reads the state of a block, which nodes forget.
fn reads_state(method: &str) -> bool {
    matches!(
        method,
        "eth_getBalance"
            | "eth_getCode"
            | "eth_getTransactionCount"
            | "eth_getStorageAt"
            | "eth_getProof"
            | "eth_call"
            | "eth_estimateGas"
            | "eth_createAccessList"
    )
}

/// Whether a method returns the block itself, or what every block has.
fn is_of_block(method: &str) -> bool {
    matches!(
        method,
        "eth_getBlockByNumber" | "eth_getBlockReceipts" | "eth_getBlockTransactionCountByNumber"
    )
}

/// What is between the quotation marks.
fn text(result: &[u8]) -> Option<&str> {
    let text = str::from_utf8(result.trim_ascii()).ok()?;
    text.strip_prefix('"')?.strip_suffix('"')
}

/// The block of a transaction or receipt.
fn block_number(result: &[u8]) -> Option<u64> {
    let searched = &result[..result.len().min(SEARCHED_MAX)];
    let name = b"\"blockNumber\"";
    let after = &searched[memmem::find(searched, name)? + name.len()..];
    let after = after.trim_ascii_start().strip_prefix(b":")?;
    let value = after.trim_ascii_start().strip_prefix(b"\"")?;
    let end = memchr::memchr(b'"', value)?;
    quantity(str::from_utf8(&value[..end]).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_nobody_tells_any_longer_is_not_the_newest() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        for (age, block_time, expected) in
            [(4, 0, true), (6, 0, false), (47, 12, true), (49, 12, false)]
        {
            let told_at = now - second * age;
            assert_eq!(
                is_fresh(told_at, now, second * block_time),
                expected,
                "{age}"
            );
        }
    }

    #[test]
    fn the_block_of_a_receipt_is_found() {
        for (result, expected) in [
            (
                r#"{"transactionHash":"0x1","blockNumber":"0x1f","logs":[]}"#,
                Some(31),
            ),
            (r#"{ "blockNumber" : "0x0" }"#, Some(0)),
            (r#"{"blockNumber":null}"#, None),
            ("null", None),
            (r#"{"blockNumber":"0x"#, None),
        ] {
            assert_eq!(block_number(result.as_bytes()), expected, "{result}");
        }
        assert_eq!(text(b" \"0x1\" "), Some("0x1"));
        assert_eq!(text(b"null"), None);
    }
}
