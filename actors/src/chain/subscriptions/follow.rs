//! The task that follows the blocks of a chain.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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
            Some(head) if !trail.has(head.hash) => Some(head),
            _ => self.serving.look_for_head().await,
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
                trail.cut(0).for_each(drop);
            }
        }
        while let Some(fresh) = blocks.pop() {
            let logs = match self.has(Subscribers::want_logs) {
                true => match self.logs(&fresh.block).await {
                    Some(logs) => logs,
                    // The next look tells this block.
                    None => return,
                },
                false => Bytes::from_static(b"[]"),
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

    async fn ask(&self, method: &str, params: String) -> Option<Bytes> {
        let call = Arc::new(Call::new(method, params));
        let answer = self.serving.ask(&call, Instant::now() + WITHIN).await;
        match answer {
            Ok(Outcome::Result(text)) => Some(text),
            Ok(Outcome::Error(_)) | Err(_) => None,
        }
    }

    /// The block with this hash.
    async fn block(&self, hash: BlockHash) -> Option<Fresh> {
        let params = format!("[\"{hash}\",false]");
        let text = self.ask("eth_getBlockByHash", params).await?;
        Fresh::read(&text)
    }

    /// The logs of a block.
    async fn logs(&self, block: &Block) -> Option<Bytes> {
        let params = format!("[{{\"blockHash\":\"{}\"}}]", block.hash);
        let text = self.ask("eth_getLogs", params).await?;
        let is_list = serde_json::from_slice::<Vec<&RawValue>>(&text).is_ok();
        is_list.then_some(text)
    }
}

/// Tells the logs of a block. Returns the texts of those that somebody was told: only they can be taken back later.
async fn tell_logs(round: &mut Round<'_>, logs: &[u8]) -> Rc<[Bytes]> {
    let logs: Vec<&RawValue> = serde_json::from_slice(logs).unwrap_or_default();
    let mut told = Vec::new();
    for log in logs {
        let log = log.get().as_bytes();
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
        members.retain(|name, _| !NOT_IN_HEADER.contains(&&**name));
        let header = serde_json::to_vec(&members).ok()?;
        Some(Self { block, header })
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
        assert!(Fresh::read(b"null").is_none());
    }

    #[test]
    fn a_log_that_no_longer_holds_says_so() {
        assert_eq!(
            removed(br#"{"address":"0x1","removed":false,"data":"0x"}"#),
            br#"{"address":"0x1","data":"0x","removed":true}"#
        );
    }
}
