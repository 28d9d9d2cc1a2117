//! A block, and its place in the chain.

use serde::Deserialize;

use super::hex::{BlockHash, quantity};

/// The longest text of a block that is read. Blocks have some thousand hashes of transactions.
const TEXT_MAX: usize = 4 * 1024 * 1024;

/// A block and its place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: BlockHash,
    /// The hash of the block before it.
    pub parent: BlockHash,
}

impl Block {
    /// Reads what a provider tells of a block. `None` if it is something else, such as `null`.
    pub fn read(text: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'text> {
            number: &'text str,
            hash: &'text str,
            parent_hash: &'text str,
        }
        if text.len() > TEXT_MAX {
            return None;
        }
        let written: Written<'_> = serde_json::from_slice(text).ok()?;
        Some(Self {
            number: quantity(written.number)?,
            hash: BlockHash::parse(written.hash)?,
            parent: BlockHash::parse(written.parent_hash)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_block_has_a_number_and_two_hashes() {
        let [hash, parent] = [0xab, 0xcd].map(|byte| BlockHash::new([byte; 32]));
        let block = |number: &str, hash: &str| {
            let text = format!(
                r#"{{"number":{number},"x":[{{}}],"hash":"{hash}","parentHash":"{parent}"}}"#
            );
            Block::read(text.as_bytes())
        };
        let expected = Block {
            number: 16,
            hash,
            parent,
        };
        assert_eq!(block("\"0x10\"", &hash.to_string()), Some(expected));
        assert_eq!(block("null", &hash.to_string()), None);
        assert_eq!(block("16", &hash.to_string()), None);
        assert_eq!(block("\"0x10\"", "0xab"), None);
        for other in ["null", "{}", "[]", r#"{"number":"0x1","hash":"0x2"}"#] {
            assert_eq!(Block::read(other.as_bytes()), None, "{other}");
        }
    }
}
