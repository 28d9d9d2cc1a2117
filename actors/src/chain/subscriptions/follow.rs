//! The task that follows the blocks of a chain.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

use super::filter::LogHead;
use super::subscribers::{Event, Subscribers};
use super::trail::{BLOCKS_MAX, Joint, Told, Trail};
use super::{Hub, Round, Topic};
use crate::chain::block::Block;
use crate::chain::hex::BlockHash;
use crate::chain::rpc::{Call, Outcome};

/// How long one question may take.
const WITHIN: Duration = Duration::from_secs(10);
/// The bounds of the time between two looks at the newest block: a quarter of the time between blocks.
const LOOK_MIN: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// A chain that is no more than so many blocks behind a provider is at its newest block.
const START_LAG: u64 = 2;
/// How long it waits for that at least, before the first block is told: the providers are all asked in this time.
const START_WITHIN: Duration = Duration::from_secs(4);
/// How often the logs of a block are asked for, before subscribers are told that they are missing.
const LOGS_TRIES: u32 = 4;

/// What of a block its header does not have.
const NOT_IN_HEADER: &[&str] = &[
    "transactions",
    "uncles",
    "withdrawals",
    "size",
    "totalDifficulty",
];

/// A block that is to be told.
struct Fresh {
    block: Block,
    /// The text of its header.
    header: Vec<u8>,
    /// Whether its header says that it has logs.
    has_logs: bool,
}

/// Why the logs of a block are not known.
enum Missing {
    /// No provider gives them.
    Refused,
    /// There are none, which the header denies. A provider that lacks the block says the same.
    Denied,
}

/// Follows the blocks as long as somebody subscribes to them.
pub(super) async fn follow(hub: Weak<Hub>) {
    let mut trail = Trail::default();
    loop {
        let Some(hub) = hub.upgrade() else {
            return;
        };
        if !hub.has(Subscribers::want_blocks) {
            hub.blocks.end();
            return;
        }
        hub.look(&mut trail).await;
        let serving = Rc::clone(&hub.serving);
        drop(hub);
        let pause = (serving.block_time() / 4).clamp(LOOK_MIN, LOOK_MAX);
        tokio::select! {
            () = sleep(pause) => {}
            () = serving.new_head() => {}
        }
    }
}

impl Hub {
    /// Tells the blocks that are new.
    async fn look(&self, trail: &mut Trail) {
        // Nobody is told a block before the answers of all calls are of it.
        let newest = match self.serving.head() {
            _ if trail.is_empty() => self.first_head(trail).await,
            Some(head) if !trail.has(head.hash) => Some(head),
            _ => {
                self.serving.look_for_head().await;
                self.serving.head()
            }
        };
        let Some(newest) = newest else {
            return;
        };
        if trail.has(newest.hash) {
            return;
        }
        let Some(newest) = self.block(newest.hash).await else {
            return;
        };
        let mut blocks = vec![newest];
        let joint = loop {
            let Some(Fresh { block: first, .. }) = blocks.last() else {
                return;
            };
            match trail.joint(first.parent) {
                Joint::Unknown if blocks.len() < BLOCKS_MAX && first.number > 0 => {}
                joint => break joint,
            }
            // If no provider has the parent now, the next look tries again.
            let Some(block) = self.block(first.parent).await else {
                return;
            };
            blocks.push(block);
        };
        match joint {
            Joint::After(count) => {
                let mut round = self.round();
                for told in trail.cut(count) {
                    for log in &*told.logs {
                        take_back(&mut round, log).await;
                    }
                }
            }
            // Blocks are told from the next one on.
            Joint::Start => {
                for fresh in blocks.drain(..) {
                    trail.push(Told {
                        hash: fresh.block.hash,
                        logs: Rc::new([]),
                    });
                }
                self.blocks.is_ready.send_replace(true);
            }
            Joint::Unknown => {
                tracing::warn!(
                    chain = self.serving.name(),
                    "subscribers have missed blocks: more than {BLOCKS_MAX} are new at once"
                );
                self.tell_gap(|topic| matches!(topic, Topic::NewHeads | Topic::Logs(_)));
                // Who subscribes from now on is told what comes after the next start.
                self.blocks.is_ready.send_replace(false);
                *trail = Trail::default();
                return;
            }
        }
        while let Some(fresh) = blocks.pop() {
            let logs = match self.has(Subscribers::want_logs) {
                true => self.logs(&fresh).await,
                false => Ok(Vec::new()),
            };
            let logs = match logs {
                Ok(logs) => {
                    if !logs.is_empty() {
                        self.blooms.learn(true);
                    }
                    logs
                }
                // The next look tells this block.
                Err(_) if trail.may_try_again(fresh.block.hash, LOGS_TRIES) => return,
                Err(Missing::Denied) => {
                    self.blooms.learn(false);
                    Vec::new()
                }
                Err(Missing::Refused) => {
                    tracing::warn!(
                        chain = self.serving.name(),
                        block = fresh.block.number,
                        "no provider gives the logs of a block: subscribers to logs are disconnected"
                    );
                    self.tell_gap(|topic| matches!(topic, Topic::Logs(_)));
                    Vec::new()
                }
            };
            let mut round = self.round();
            round.tell(fresh.header, Event::Head).await;
            let logs = tell_logs(&mut round, &logs).await;
            trail.push(Told {
                hash: fresh.block.hash,
                logs,
            });
        }
    }

    /// The block after which blocks are told. What was known of the chain before somebody subscribed may be old.
    async fn first_head(&self, trail: &mut Trail) -> Option<Block> {
        let Some(told) = self.serving.look_for_head().await else {
            trail.stop_waiting();
            return None;
        };
        let head = self.serving.head()?;
        // Other providers have not told theirs yet. That of one which is far ahead may never be that of the chain.
        let is_old = head.number.saturating_add(START_LAG) < told;
        let within = START_WITHIN.max(self.serving.block_time());
        (!is_old || !trail.may_wait(within)).then_some(head)
    }

    async fn ask(&self, method: &str, params: String, head_min: Option<u64>) -> Option<Bytes> {
        let call = Arc::new(Call::new(method, params));
        let deadline = Instant::now() + WITHIN;
        let answer = self.serving.ask(&call, head_min, deadline).await;
        match answer {
            Ok(Outcome::Result(text)) => Some(text),
            Ok(Outcome::Error(_)) | Err(_) => None,
        }
    }

    /// The block with this hash.
    async fn block(&self, hash: BlockHash) -> Option<Fresh> {
        let params = format!("[\"{hash}\",false]");
        let text = self.ask("eth_getBlockByHash", params, None).await?;
        Fresh::read(&text)
    }

    /// The logs of a block: from its receipts, if they are too many for a search.
    async fn logs(&self, fresh: &Fresh) -> Result<Vec<Bytes>, Missing> {
        let Block { hash, number, .. } = fresh.block;
        let searched = format!("[{{\"blockHash\":\"{hash}\"}}]");
        let searched = self.ask("eth_getLogs", searched, Some(number)).await;
        let searched = searched.and_then(|text| members(&text));
        let has_logs = fresh.has_logs && self.blooms.are_believed();
        let is_believed = |logs: &Vec<Bytes>| !logs.is_empty() || !has_logs;
        if let Some(logs) = searched.filter(is_believed) {
            return Ok(logs);
        }
        let receipts = format!("[\"{hash}\"]");
        let receipts = self.ask("eth_getBlockReceipts", receipts, Some(number));
        match receipts.await.and_then(|text| logs_of_receipts(&text)) {
            Some(logs) if is_believed(&logs) => Ok(logs),
            Some(_) => Err(Missing::Denied),
            None => Err(Missing::Refused),
        }
    }
}

/// The texts of the members of a list.
fn members(list: &Bytes) -> Option<Vec<Bytes>> {
    let members: Vec<&RawValue> = serde_json::from_slice(list).ok()?;
    let member = |member: &&RawValue| list.slice_ref(member.get().as_bytes());
    Some(members.iter().map(member).collect())
}

/// The texts of the logs of a list of receipts.
fn logs_of_receipts(list: &Bytes) -> Option<Vec<Bytes>> {
    #[derive(Deserialize)]
    struct Receipt<'a> {
        #[serde(borrow)]
        logs: Vec<&'a RawValue>,
    }
    let receipts: Vec<Receipt<'_>> = serde_json::from_slice(list).ok()?;
    let logs = receipts.iter().flat_map(|receipt| &receipt.logs);
    let log = |log: &&RawValue| list.slice_ref(log.get().as_bytes());
    Some(logs.map(log).collect())
}

/// Tells the logs of a block. Returns the texts of those that somebody was told: only they can be taken back later.
async fn tell_logs(round: &mut Round<'_>, logs: &[Bytes]) -> Rc<[Bytes]> {
    let mut told = Vec::new();
    for log in logs {
        if let Some(head) = LogHead::read(log)
            && round.concerns(Event::Log(&head)).await
        {
            // A copy: a log that waits in a queue must not hold the logs of its whole block.
            told.extend(round.tell(log.to_vec(), Event::Log(&head)).await);
        }
    }
    told.into()
}

/// Tells that a log no longer holds.
async fn take_back(round: &mut Round<'_>, log: &Bytes) {
    if let Some(head) = LogHead::read(log) {
        round.tell(removed(log), Event::Log(&head)).await;
    }
}

impl Fresh {
    fn read(text: &[u8]) -> Option<Self> {
        let block = Block::read(text)?;
        let mut members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(text).ok()?;
        let bloom = members.get("logsBloom").map_or("", |bloom| bloom.get());
        let digits = bloom.strip_prefix("\"0x").unwrap_or_default();
        let has_logs = digits
            .trim_end_matches('"')
            .bytes()
            .any(|digit| digit != b'0');
        members.retain(|name, _| !NOT_IN_HEADER.contains(&&**name));
        let header = serde_json::to_vec(&members).ok()?;
        Some(Self {
            block,
            header,
            has_logs,
        })
    }
}

/// A log that no longer holds.
fn removed(log: &[u8]) -> Vec<u8> {
    let Ok(mut members) = serde_json::from_slice::<BTreeMap<Cow<'_, str>, &RawValue>>(log) else {
        return log.to_vec();
    };
    let Ok(is_removed) = serde_json::from_str::<&RawValue>("true") else {
        return log.to_vec();
    };
    members.insert("removed".into(), is_removed);
    serde_json::to_vec(&members).unwrap_or_else(|_| log.to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_header_is_a_block_without_what_is_in_it() {
        let [hash, parent] = ["ab", "aa"].map(|byte| format!("\"0x{}\"", byte.repeat(32)));
        let places =
            format!(r#""hash":{hash},"number":"0x1f","parentHash":{parent},"timestamp":"0x5""#);
        let rest = r#""size":"0x1","transactions":["0x1"],"uncles":[], "withdrawals": [{"a": 1}]"#;
        let read = Fresh::read(format!("{{{rest},{places}}}").as_bytes()).unwrap();
        assert_eq!(read.header, format!("{{{places}}}").into_bytes());
        assert_eq!(read.block.number, 31);
        assert!(!read.has_logs);
        for (bloom, expected) in [
            ("null", false),
            ("\"0x\"", false),
            ("\"0x00\"", false),
            ("\"0x020\"", true),
        ] {
            let text = format!("{{\"logsBloom\":{bloom},{places}}}");
            let read = Fresh::read(text.as_bytes()).unwrap();
            assert_eq!(read.has_logs, expected, "{bloom}");
        }
        assert!(Fresh::read(b"null").is_none());
    }

    #[test]
    fn logs_are_found_in_receipts() {
        let receipts = br#"[{"a":1,"logs":[{"b":1},{"b":2}]},{"logs":[]},{"logs":[{"b":3}]}]"#;
        let logs = logs_of_receipts(&Bytes::from_static(receipts));
        let expected = [r#"{"b":1}"#, r#"{"b":2}"#, r#"{"b":3}"#].map(Bytes::from);
        assert_eq!(logs.unwrap(), expected);
        assert_eq!(logs_of_receipts(&Bytes::from_static(b"null")), None);
    }

    #[test]
    fn a_log_that_no_longer_holds_says_so() {
        assert_eq!(
            removed(br#"{"address":"0x1","removed":false,"data":"0x"}"#),
            br#"{"address":"0x1","data":"0x","removed":true}"#
        );
    }
}
