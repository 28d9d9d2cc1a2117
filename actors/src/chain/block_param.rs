//! The block that a call is about, read from the text of its parameters.
//!
//! Why it exists: parameters pass through unparsed, except for this one. The others are skipped, however deep they are.
//! What is no block as clients write it is [`Malformed`]: such a call goes to a provider as it is, whose error the caller
//! gets, and is not kept.

use std::fmt;

use bytes::Bytes;
use serde::de::{
    DeserializeSeed, Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::heads::Heads;
use super::hex::{BlockHash, quantity};

/// The most bytes of one block parameter.
const TEXT_MAX: usize = 256;

/// A name for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// The newest block.
    Latest,
    /// The first block.
    Earliest,
    /// The block that is being made.
    Pending,
    /// A block that is probably final.
    Safe,
    /// The newest final block.
    Finalized,
}

/// A block by its place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Height {
    /// By a name.
    Tag(Tag),
    /// By its number.
    Number(u64),
}

/// A block as a call names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockParam {
    /// By its place in the chain.
    At(Height),
    /// By its hash.
    Hash {
        /// The hash.
        hash: BlockHash,
        /// Whether a block that is on no provider's chain any longer is an error.
        require_canonical: bool,
    },
}

/// The text is no block, or no list of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no block as clients write it")]
pub struct Malformed;

impl Height {
    /// Reads a tag or a number.
    pub fn parse(text: &str) -> Option<Self> {
        let tag = match text {
            "latest" => Tag::Latest,
            "earliest" => Tag::Earliest,
            "pending" => Tag::Pending,
            "safe" => Tag::Safe,
            "finalized" => Tag::Finalized,
            _ => return quantity(text).map(Self::Number),
        };
        Some(Self::Tag(tag))
    }

    /// Its number by `heads`. `None` if only a provider knows it.
    pub fn number(self, heads: &Heads) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Tag(Tag::Latest) => heads.head().map(|head| head.number),
            Self::Tag(Tag::Earliest) => Some(0),
            Self::Tag(Tag::Finalized) => heads.finalized(),
            Self::Tag(Tag::Pending | Tag::Safe) => None,
        }
    }
}

impl BlockParam {
    /// Reads the parameter `index` of `params`. `None` if there are fewer parameters, which means the newest block.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn read(params: &[u8], index: usize) -> Result<Option<Self>, Malformed> {
        let (_, element) = element(params, index)?;
        element
            .map(|element| Self::parse(element.get()))
            .transpose()
    }

    /// Reads one parameter.
    fn parse(text: &str) -> Result<Self, Malformed> {
        if text.len() > TEXT_MAX {
            return Err(Malformed);
        }
        let mut parser = serde_json::Deserializer::from_str(text);
        parser.deserialize_any(BlockVisitor).map_err(|_| Malformed)
    }
}

/// `params` with the block `number` as the parameter `index`, in place of what is there, or after the last one. `None` if
/// `params` is no list, or too short.
pub fn with_number(params: &[u8], index: usize, number: u64) -> Option<Bytes> {
    let (count, old) = element(params, index).ok()?;
    let block = format!("\"0x{number:x}\"");
    let text = str::from_utf8(params).ok()?;
    let (before, separator, after) = match old {
        Some(old) => {
            let start = (old.get().as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
            let end = start.checked_add(old.get().len())?;
            (text.get(..start)?, "", text.get(end..)?)
        }
        None if count < index => return None,
        None if text.trim_ascii().is_empty() => ("[", "", "]"),
        None => {
            let separator = if count == 0 { "" } else { "," };
            (text.trim_ascii_end().strip_suffix(']')?, separator, "]")
        }
    };
    Some(Bytes::from([before, separator, &block, after].concat()))
}

/// The number of elements of the list `params`, and the element `index`. No text is an empty list.
pub(super) fn element(
    params: &[u8],
    index: usize,
) -> Result<(usize, Option<&RawValue>), Malformed> {
    if params.trim_ascii().is_empty() {
        return Ok((0, None));
    }
    let mut parser = serde_json::Deserializer::from_slice(params);
    let found = Element(index).deserialize(&mut parser);
    let found = found.map_err(|_| Malformed)?;
    parser.end().map_err(|_| Malformed)?;
    Ok(found)
}

/// Finds one element of a list.
struct Element(usize);

impl<'de> DeserializeSeed<'de> for Element {
    type Value = (usize, Option<&'de RawValue>);

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Element {
    type Value = (usize, Option<&'de RawValue>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of parameters")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        for count in 0.. {
            let is_there = if count == self.0 {
                found = list.next_element::<&RawValue>()?;
                found.is_some()
            } else {
                list.next_element::<IgnoredAny>()?.is_some()
            };
            if !is_there {
                return Ok((count, found));
            }
        }
        Err(A::Error::custom("too many parameters"))
    }
}

/// Reads a tag, a number, a hash, or an object with one of them.
struct BlockVisitor;

impl<'de> Visitor<'de> for BlockVisitor {
    type Value = BlockParam;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a block")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<BlockParam, E> {
        if let Some(height) = Height::parse(text) {
            return Ok(BlockParam::At(height));
        }
        let hash = BlockHash::parse(text).ok_or_else(|| E::custom("no block"))?;
        let require_canonical = false;
        Ok(BlockParam::Hash {
            hash,
            require_canonical,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<BlockParam, A::Error> {
        let (mut number, mut hash, mut canonical) = (None, None, None);
        while let Some(name) = object.next_key::<String>()? {
            // A provider may read a name that is not known here, so the block would be another one.
            let is_new = match &*name {
                "blockNumber" => number.replace(object.next_value::<String>()?).is_none(),
                "blockHash" => hash.replace(object.next_value::<String>()?).is_none(),
                "requireCanonical" => canonical.replace(object.next_value::<bool>()?).is_none(),
                _ => false,
            };
            if !is_new {
                return Err(A::Error::custom("an unknown field, or one twice"));
            }
        }
        let block = match (number, hash) {
            (Some(number), None) => Height::parse(&number).map(BlockParam::At),
            (None, Some(hash)) => {
                let require_canonical = canonical.unwrap_or(false);
                let hash = BlockHash::parse(&hash);
                hash.map(|hash| BlockParam::Hash {
                    hash,
                    require_canonical,
                })
            }
            _ => None,
        };
        block.ok_or_else(|| A::Error::custom("neither a number nor a hash"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(params: &str, index: usize) -> Result<Option<BlockParam>, Malformed> {
        BlockParam::read(params.as_bytes(), index)
    }

    fn rewritten(params: &str, index: usize) -> Option<String> {
        let bytes = with_number(params.as_bytes(), index, 26)?;
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn each_form_of_a_block_is_read() {
        let hash = BlockHash::new([0xab; 32]);
        let of_hash = |require_canonical| BlockParam::Hash {
            hash,
            require_canonical,
        };
        for (text, block) in [
            ("\"latest\"", BlockParam::At(Height::Tag(Tag::Latest))),
            ("\"earliest\"", BlockParam::At(Height::Tag(Tag::Earliest))),
            ("\"pending\"", BlockParam::At(Height::Tag(Tag::Pending))),
            ("\"safe\"", BlockParam::At(Height::Tag(Tag::Safe))),
            ("\"finalized\"", BlockParam::At(Height::Tag(Tag::Finalized))),
            ("\"l\\u0061test\"", BlockParam::At(Height::Tag(Tag::Latest))),
            ("\"0x1A\"", BlockParam::At(Height::Number(26))),
            (&format!("\"{hash}\""), of_hash(false)),
            (
                "{\"blockNumber\": \"0x0\"}",
                BlockParam::At(Height::Number(0)),
            ),
            (
                "{ \"blockNumber\":\"latest\"}",
                BlockParam::At(Height::Tag(Tag::Latest)),
            ),
            (&format!("{{\"blockHash\":\"{hash}\"}}"), of_hash(false)),
            (
                &format!("{{\"requireCanonical\":true,\"blockHash\":\"{hash}\"}}"),
                of_hash(true),
            ),
        ] {
            assert_eq!(
                read(&format!("[{{\"to\":[1]}}, {text} ,3]"), 1),
                Ok(Some(block)),
                "{text}"
            );
        }
    }

    #[test]
    fn a_block_that_is_not_given_is_none() {
        for params in ["", " ", "[]", "[{}]"] {
            assert_eq!(read(params, 1), Ok(None), "{params}");
        }
    }

    #[test]
    fn what_no_client_writes_is_malformed() {
        let hash = BlockHash::new([1; 32]);
        for text in [
            "1",
            "null",
            "true",
            "[]",
            "{}",
            "\"\"",
            "\"0x\"",
            "\"0x01\"",
            "\"Latest\"",
            "\"10\"",
            "{\"blockNumber\":1}",
            "{\"blocknumber\":\"0x1\"}",
            "{\"blockNumber\":\"0x1\",\"blockNumber\":\"0x1\"}",
            "{\"blockNumber\":\"0x1\",\"BlockNumber\":\"0x2\"}",
            &format!("{{\"blockNumber\":\"0x1\",\"blockHash\":\"{hash}\"}}"),
            &format!("{{\"blockHash\":\"{hash}\",\"requireCanonical\":\"yes\"}}"),
            &format!("\"{}latest\"", " ".repeat(TEXT_MAX)),
        ] {
            assert_eq!(read(&format!("[{text}]"), 0), Err(Malformed), "{text}");
        }
        for params in [
            "{}",
            "{\"0\":\"latest\"}",
            "[\"latest\"",
            "[\"latest\"] 1",
            "\"latest\"",
            "[,]",
            "nul",
        ] {
            assert_eq!(read(params, 0), Err(Malformed), "{params}");
        }
        assert_eq!(BlockParam::read(b"[\"\xff\"]", 0), Err(Malformed));
    }

    #[test]
    fn a_number_takes_the_place_of_a_block() {
        for (params, index, expected) in [
            (
                "[{\"to\": \"latest\"}, \"latest\" , 1]",
                1,
                Some("[{\"to\": \"latest\"}, \"0x1a\" , 1]"),
            ),
            (
                "[{}, {\"blockNumber\":\"latest\"}]",
                1,
                Some("[{}, \"0x1a\"]"),
            ),
            ("[ {} ] ", 1, Some("[ {} ,\"0x1a\"]")),
            ("[]", 0, Some("[\"0x1a\"]")),
            (" [ ]", 0, Some(" [ \"0x1a\"]")),
            ("", 0, Some("[\"0x1a\"]")),
            ("[]", 1, None),
            ("", 1, None),
            ("{}", 0, None),
        ] {
            assert_eq!(rewritten(params, index).as_deref(), expected, "{params}");
        }
    }

    #[test]
    fn deep_parameters_are_skipped() {
        let deep = "[".repeat(500_000) + &"]".repeat(500_000);
        let params = format!("[{deep},\"0x5\",{deep}]");
        assert_eq!(
            read(&params, 1),
            Ok(Some(BlockParam::At(Height::Number(5))))
        );
        assert_eq!(read(&params, 0), Err(Malformed));
        assert!(rewritten(&params, 1).is_some_and(|text| text.len() == params.len() + 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_the_reader_panic(
            bytes: Vec<u8>,
            text in "\\[(\"latest\"|\"0x1\"|[\\[\\]{}\":,1 ]{1,4}|,){0,5}\\]",
            index in 0..4_usize,
        ) {
            for params in [&bytes[..], text.as_bytes()] {
                let is_read = matches!(BlockParam::read(params, index), Ok(Some(_)));
                prop_assert!(with_number(params, index, 7).is_some() || !is_read);
            }
        }

        #[test]
        fn what_is_rewritten_differs_in_the_block_only(
            values in proptest::collection::vec("(\"[a-z\\]\\[,]{0,5}\"|[0-9]|\\{\"a\":\\[1,\"\\]\"\\]\\}|null)", 0..5),
            space in "[ \n]{0,2}",
            index in 0..5_usize,
            number in 0..=i64::MAX as u64,
        ) {
            let params = format!("{space}[{space}{}{space}]{space}", values.join(&format!("{space},{space}")));
            let new = with_number(params.as_bytes(), index, number);
            prop_assert_eq!(new.is_some(), index <= values.len());
            if let Some(new) = new {
                let block = BlockParam::read(&new, index);
                prop_assert_eq!(block, Ok(Some(BlockParam::At(Height::Number(number)))));
                let mut old: Vec<serde_json::Value> = serde_json::from_str(&params).unwrap();
                let mut new: Vec<serde_json::Value> = serde_json::from_slice(&new).unwrap();
                if index == old.len() {
                    old.push(serde_json::Value::Null);
                }
                new[index] = old[index].clone();
                prop_assert_eq!(new, old);
            }
        }
    }
}
