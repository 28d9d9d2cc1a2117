//! The blocks that a search for logs is about, read from its filter, and the same search over other blocks.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer as _, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::block_param::{Height, Malformed, Tag, element};
use super::hex::BlockHash;

/// The most fields of a filter.
const FIELDS_MAX: usize = 16;

/// The most topics of a log.
const TOPICS_MAX: usize = 4;

/// The blocks of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogBlocks {
    /// Those from one to another. What is missing is the newest block.
    Range {
        /// The first.
        from: Height,
        /// The last.
        to: Height,
    },
    /// One block, by its hash.
    Hash(BlockHash),
}

/// The filter of `eth_getLogs` or `eth_newFilter`.
#[derive(Debug)]
pub struct LogFilter<'a> {
    /// The first block, if it is given.
    pub from: Option<Height>,
    /// The last block, if it is given.
    pub to: Option<Height>,
    /// The only block, if it is given.
    pub hash: Option<BlockHash>,
    /// All other fields.
    rest: Vec<(String, &'a RawValue)>,
}

impl<'a> LogFilter<'a> {
    /// Reads the filter in `params`, a list of one object.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn read(params: &'a [u8]) -> Result<Self, Malformed> {
        let (count, filter) = element(params, 0)?;
        let filter = filter.filter(|_| count == 1).ok_or(Malformed)?;
        let mut parser = serde_json::Deserializer::from_str(filter.get());
        parser.deserialize_map(FilterVisitor).map_err(|_| Malformed)
    }

    /// The blocks that it is about.
    pub fn blocks(&self) -> LogBlocks {
        let latest = Height::Tag(Tag::Latest);
        match self.hash {
            Some(hash) => LogBlocks::Hash(hash),
            None => LogBlocks::Range {
                from: self.from.unwrap_or(latest),
                to: self.to.unwrap_or(latest),
            },
        }
    }

    /// Whether the address and the topics have the form that nodes take, and there is nothing else.
    pub fn has_valid_criteria(&self) -> bool {
        self.rest.iter().all(|(name, value)| match &**name {
            "address" => serde_json::from_str(value.get()).is_ok_and(|addresses| match addresses {
                OneOrMany::One(address) => address.is_none_or(|address| is_hex(&address, 20)),
                OneOrMany::Many(addresses) => addresses
                    .iter()
                    .all(|address| address.as_ref().is_some_and(|address| is_hex(address, 20))),
            }),
            "topics" => serde_json::from_str::<Option<Vec<OneOrMany<'_>>>>(value.get()).is_ok_and(
                |topics| {
                    let topics = topics.unwrap_or_default();
                    let is_topic = |topic: &Cow<'_, str>| is_hex(topic, 32);
                    topics.len() <= TOPICS_MAX
                        && topics.iter().all(|topic| match topic {
                            OneOrMany::One(topic) => topic.as_ref().is_none_or(is_topic),
                            OneOrMany::Many(topics) => topics.iter().flatten().all(is_topic),
                        })
                },
            ),
            _ => false,
        })
    }

    /// Parameters for the same search over the blocks from `from` to `to`.
    pub fn over(&self, from: u64, to: u64) -> Bytes {
        let mut text = String::from("[{");
        for (name, value) in &self.rest {
            text.push_str(&serde_json::Value::from(&**name).to_string());
            text.push(':');
            text.push_str(value.get());
            text.push(',');
        }
        text.push_str(&format!(
            "\"fromBlock\":\"0x{from:x}\",\"toBlock\":\"0x{to:x}\"}}]"
        ));
        Bytes::from(text)
    }
}

/// A value, several, or none.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum OneOrMany<'a> {
    One(#[serde(borrow)] Option<Cow<'a, str>>),
    Many(#[serde(borrow)] Vec<Option<Cow<'a, str>>>),
}

fn is_hex(text: &str, bytes: usize) -> bool {
    let digits = text.strip_prefix("0x").unwrap_or_default();
    digits.len() == bytes * 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Reads a filter.
struct FilterVisitor;

impl<'de> Visitor<'de> for FilterVisitor {
    type Value = LogFilter<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a filter of logs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let (mut from, mut to, mut hash, mut rest) = (None, None, None, Vec::new());
        while let Some(name) = object.next_key::<String>()? {
            let is_new = match &*name {
                "fromBlock" => from
                    .replace(object.next_value::<Option<&RawValue>>()?)
                    .is_none(),
                "toBlock" => to
                    .replace(object.next_value::<Option<&RawValue>>()?)
                    .is_none(),
                "blockHash" => hash
                    .replace(object.next_value::<Option<&RawValue>>()?)
                    .is_none(),
                "address" | "topics" => {
                    let is_new = rest.iter().all(|(other, _)| *other != name);
                    rest.push((name, object.next_value()?));
                    is_new
                }
                // A provider that reads letters of either case would take these for the fields above.
                _ => {
                    let known = ["fromBlock", "toBlock", "blockHash", "address", "topics"];
                    let is_new = known.iter().all(|known| !known.eq_ignore_ascii_case(&name));
                    rest.push((name, object.next_value()?));
                    is_new
                }
            };
            if !is_new || rest.len() > FIELDS_MAX {
                return Err(A::Error::custom("a field twice, or too many"));
            }
        }
        let from = from.flatten().map(text::<A::Error>).transpose()?;
        let to = to.flatten().map(text::<A::Error>).transpose()?;
        let hash = hash.flatten().map(text::<A::Error>).transpose()?;
        let height =
            |text: String| Height::parse(&text).ok_or_else(|| A::Error::custom("no block"));
        let filter = LogFilter {
            from: from.map(height).transpose()?,
            to: to.map(height).transpose()?,
            hash: hash
                .map(|hash| BlockHash::parse(&hash).ok_or_else(|| A::Error::custom("no hash")))
                .transpose()?,
            rest,
        };
        if filter.hash.is_some() && (filter.from.is_some() || filter.to.is_some()) {
            return Err(A::Error::custom("a hash and a range"));
        }
        Ok(filter)
    }
}

fn text<E: serde::de::Error>(raw: &RawValue) -> Result<String, E> {
    String::deserialize(raw).map_err(|_| E::custom("no text"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn over(params: &str) -> Option<serde_json::Value> {
        let filter = LogFilter::read(params.as_bytes()).ok()?;
        Some(serde_json::from_slice(&filter.over(10, 20)).unwrap())
    }

    #[test]
    fn the_blocks_of_a_filter_are_read() {
        let blocks = |fields: &str| {
            let params = format!("[{{{fields}}}]");
            LogFilter::read(params.as_bytes()).map(|filter| filter.blocks())
        };
        let latest = Height::Tag(Tag::Latest);
        let range = |from, to| Ok(LogBlocks::Range { from, to });
        assert_eq!(blocks(""), range(latest, latest));
        assert_eq!(
            blocks("\"fromBlock\":null,\"toBlock\":\"0x5\""),
            range(latest, Height::Number(5))
        );
        assert_eq!(
            blocks("\"fromBlock\":\"earliest\",\"topics\":[]"),
            range(Height::Tag(Tag::Earliest), latest)
        );
        let hash = BlockHash::new([7; 32]);
        assert_eq!(
            blocks(&format!("\"blockHash\":\"{hash}\"")),
            Ok(LogBlocks::Hash(hash))
        );
        for wrong in [
            "\"fromBlock\":5",
            "\"fromBlock\":\"5\"",
            "\"fromblock\":\"0x5\"",
            "\"blockHash\":\"0x5\"",
            "\"toBlock\":\"0x5\",\"toBlock\":\"0x6\"",
            "\"topics\":[],\"topics\":[1]",
            &format!("\"blockHash\":\"{hash}\",\"toBlock\":\"0x5\""),
        ] {
            assert_eq!(blocks(wrong), Err(Malformed), "{wrong}");
        }
        for wrong in ["", "[]", "{}", "[{},{}]", "[[]]", "[{}"] {
            assert!(LogFilter::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_same_search_is_written_for_other_blocks() {
        let new = over(
            r#"[{"fromBlock":"latest","address":"0xab","topics":[null,["0x1"]],"a\"b":{"c":1}}]"#,
        );
        let expected = serde_json::json!([{
            "fromBlock": "0xa", "toBlock": "0x14", "address": "0xab", "topics": [null, ["0x1"]], "a\"b": {"c": 1},
        }]);
        assert_eq!(new, Some(expected));
        assert_eq!(
            over("[{}]"),
            Some(serde_json::json!([{"fromBlock": "0xa", "toBlock": "0x14"}]))
        );
    }

    #[test]
    fn addresses_and_topics_are_checked() {
        let (address, topic) = ("ab".repeat(20), "cd".repeat(32));
        let is_valid = |fields: String| {
            let params = format!("[{{{fields}}}]");
            LogFilter::read(params.as_bytes())
                .unwrap()
                .has_valid_criteria()
        };
        for valid in [
            String::new(),
            format!("\"address\":\"0x{address}\""),
            format!("\"address\":[\"0x{address}\"],\"topics\":null"),
            format!("\"address\":null,\"topics\":[null,\"0x{topic}\",[\"0x{topic}\",null],[]]"),
        ] {
            assert!(is_valid(valid.clone()), "{valid}");
        }
        for wrong in [
            "\"address\":\"0xab\"".to_owned(),
            "\"address\":1".to_owned(),
            "\"address\":[null]".to_owned(),
            "\"topics\":\"0x1\"".to_owned(),
            format!("\"topics\":[\"0x{address}\"]"),
            "\"topics\":[null,null,null,null,null]".to_owned(),
            "\"other\":1".to_owned(),
        ] {
            assert!(!is_valid(wrong.clone()), "{wrong}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, text in "\\[\\{[\\[\\]{}\":,a0x]{0,20}\\}\\]") {
            for params in [&bytes[..], text.as_bytes()] {
                if let Ok(filter) = LogFilter::read(params) {
                    let over = filter.over(1, 2);
                    let is_valid = LogFilter::read(&over).map(|other| other.has_valid_criteria());
                    prop_assert_eq!(is_valid, Ok(filter.has_valid_criteria()));
                }
            }
        }
    }
}
