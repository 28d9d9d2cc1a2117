//! What a filter has given out and may have to take back.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::fmt;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::chain::hex::{BlockHash, quantity};

/// The most bytes that an item has in an answer beside its own: that it is removed, the digits of a hash, and what separates it
/// from others.
const AROUND: u64 = 128;

/// A log or a block that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) number: u64,
    pub(super) hash: BlockHash,
    /// The place of a log in its block, and its text. `None` for a block.
    log: Option<(u64, Box<str>)>,
}

impl Item {
    pub(super) fn block(number: u64, hash: BlockHash) -> Self {
        Self {
            number,
            hash,
            log: None,
        }
    }

    /// What tells it from others.
    fn key(&self) -> (BlockHash, Option<u64>) {
        (self.hash, self.log.as_ref().map(|(index, _)| *index))
    }

    fn bytes(&self) -> u64 {
        let text = self.log.as_ref().map_or(0, |(_, text)| text.len());
        (size_of::<Self>() + text) as u64
    }

    /// Its text in an answer.
    fn text(&self) -> Cow<'_, str> {
        match &self.log {
            Some((_, text)) => Cow::Borrowed(text),
            None => Cow::Owned(format!("\"{}\"", self.hash)),
        }
    }
}

/// What a filter has given out, in the order of the chain.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    items: VecDeque<Item>,
    bytes: u64,
}

impl Delivered {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of the first block.
    pub(super) fn first(&self) -> Option<u64> {
        self.items.front().map(|item| item.number)
    }

    /// The place of the first item from the block `from` on.
    fn first_from(&self, from: u64) -> usize {
        self.items.partition_point(|item| item.number < from)
    }

    /// The most bytes of the answer of [`Self::replace`].
    pub(super) fn answer_max(&self, from: u64, items: &[Item]) -> u64 {
        let old = self.items.range(self.first_from(from)..);
        let lengths = old.chain(items).map(|item| item.bytes() + AROUND);
        lengths.sum::<u64>() + AROUND
    }

    /// Puts `items` in the place of all from the block `from` on. Returns the answer that tells the difference.
    pub(super) fn replace(&mut self, from: u64, items: Vec<Item>) -> Vec<u8> {
        let first = self.first_from(from);
        let old = self.items.split_off(first);
        let (old_keys, new_keys): (HashSet<_>, HashSet<_>) = (
            old.iter().map(Item::key).collect(),
            items.iter().map(Item::key).collect(),
        );
        let gone = old
            .iter()
            .rev()
            .filter(|item| !new_keys.contains(&item.key()));
        let gone = gone.filter_map(|item| removed(&item.log.as_ref()?.1).map(Cow::Owned));
        let fresh = items.iter().filter(|item| !old_keys.contains(&item.key()));
        let mut answer = vec![b'['];
        for text in gone.chain(fresh.map(Item::text)) {
            if answer.len() > 1 {
                answer.push(b',');
            }
            answer.extend_from_slice(text.as_bytes());
        }
        answer.push(b']');
        self.items.extend(items);
        self.bytes = self.items.iter().map(Item::bytes).sum();
        answer
    }

    /// Forgets what is of blocks before `first_open`, and the oldest of what takes more than `bytes_max`.
    pub(super) fn forget(&mut self, first_open: u64, bytes_max: u64) {
        while let Some(item) = self.items.front()
            && (item.number < first_open || self.bytes > bytes_max)
        {
            self.bytes -= item.bytes();
            self.items.pop_front();
        }
        if self.items.is_empty() {
            self.items = VecDeque::new();
        }
    }
}

/// Where a log is.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogPlace<'a> {
    #[serde(borrow)]
    block_number: Cow<'a, str>,
    #[serde(borrow)]
    block_hash: Cow<'a, str>,
    #[serde(borrow)]
    log_index: Cow<'a, str>,
}

/// The logs in the result of `eth_getLogs`. `None` if it is something else.
pub(super) fn logs_of(result: &[u8]) -> Option<Vec<Item>> {
    let logs: Vec<&RawValue> = serde_json::from_slice(result).ok()?;
    let logs = logs.into_iter().map(|log| {
        let place: LogPlace<'_> = serde_json::from_str(log.get()).ok()?;
        Some(Item {
            number: quantity(&place.block_number)?,
            hash: BlockHash::parse(&place.block_hash)?,
            log: Some((quantity(&place.log_index)?, log.get().into())),
        })
    });
    let mut logs = logs.collect::<Option<Vec<_>>>()?;
    logs.sort_by_key(|log| log.number);
    Some(logs)
}

/// The text of a log that is taken back.
fn removed(log: &str) -> Option<String> {
    let mut parser = serde_json::Deserializer::from_str(log);
    let mut text = parser.deserialize_map(Fields).ok()?;
    text.push_str("\"removed\":true}");
    Some(text)
}

/// Copies the fields of an object, except for `removed`.
struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a log")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<String, A::Error> {
        let mut text = String::from("{");
        while let Some((name, value)) = object.next_entry::<String, &RawValue>()? {
            if name != "removed" {
                text.push_str(&serde_json::Value::from(name).to_string());
                text.push(':');
                text.push_str(value.get());
                text.push(',');
            }
        }
        Ok(text)
    }
}
