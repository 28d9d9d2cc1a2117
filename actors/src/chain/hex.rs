//! Numbers and hashes as JSON-RPC writes them.

use std::fmt;

/// The hash of a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash([u8; 32]);

impl BlockHash {
    /// A hash of these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads `0x` and 64 digits, of either case.
    pub fn parse(text: &str) -> Option<Self> {
        bytes(text).map(Self)
    }
}

impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads `0x` and two digits, of either case, for each of `N` bytes.
pub fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.strip_prefix("0x")?.as_bytes();
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let pairs: &[_; N] = pairs.try_into().ok()?;
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn digit(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Reads a number: `0x` and at least one digit, the first not 0 unless it is the only one. Nodes take no number of a block
/// above `i64::MAX`.
pub fn quantity(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x")?;
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_plain || digits.len() > 16 || (digits.starts_with('0') && digits != "0") {
        return None;
    }
    let number = u64::from_str_radix(digits, 16).ok()?;
    (number <= i64::MAX as u64).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_nodes_read_them() {
        assert_eq!(quantity("0x0"), Some(0));
        assert_eq!(quantity("0xFf"), Some(255));
        assert_eq!(quantity("0x7fffffffffffffff"), Some(i64::MAX as u64));
        for wrong in [
            "",
            "0x",
            "0x00",
            "0x01",
            "1",
            "0X1",
            "0x+1",
            "0xg",
            " 0x1",
            "0x8000000000000000",
            "0x10000000000000000",
            "-0x1",
        ] {
            assert_eq!(quantity(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_hash_is_read_in_either_case_and_written_in_lower_case() {
        let text = format!("0x{}", "aB".repeat(32));
        let hash = BlockHash::parse(&text).unwrap();
        assert_eq!(hash, BlockHash::new([0xab; 32]));
        assert_eq!(hash.to_string(), text.to_lowercase());
        for wrong in [
            "",
            "0x",
            &text[..65],
            &format!("{text}0"),
            &text.replace('a', "g"),
            &text[2..],
        ] {
            assert_eq!(BlockHash::parse(wrong), None, "{wrong}");
        }
        assert_eq!(BlockHash::parse(&format!("0x{}", "é".repeat(32))), None);
    }
}
