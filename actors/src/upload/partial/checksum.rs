//! The sums by which a client has the bytes of one part checked.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// How a sum is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumAlgorithm {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// CRC-32C, its four bytes in network order.
    Crc32c,
}

/// The sum that the bytes of one part must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// How it is made.
    pub algorithm: ChecksumAlgorithm,
    /// The sum.
    pub sum: Vec<u8>,
}

impl ChecksumAlgorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha1, Self::Sha256, Self::Crc32c];

    /// Its name in tus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Crc32c => "crc32c",
        }
    }

    /// The bytes of a sum.
    pub fn sum_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Crc32c => 4,
        }
    }
}

/// A sum in the making.
pub(super) enum Summing {
    Nothing,
    Digest(Box<Context>),
    Crc32c(u32),
}

impl Summing {
    pub(super) fn new(checksum: Option<&Checksum>) -> Self {
        match checksum.map(|checksum| checksum.algorithm) {
            None => Self::Nothing,
            Some(ChecksumAlgorithm::Sha1) => {
                Self::Digest(Box::new(Context::new(&SHA1_FOR_LEGACY_USE_ONLY)))
            }
            Some(ChecksumAlgorithm::Sha256) => Self::Digest(Box::new(Context::new(&SHA256))),
            Some(ChecksumAlgorithm::Crc32c) => Self::Crc32c(0),
        }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Nothing => {}
            Self::Digest(sum) => sum.update(bytes),
            Self::Crc32c(sum) => *sum = crc32c::crc32c_append(*sum, bytes),
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Digest(sum) => sum.finish().as_ref().to_vec(),
            Self::Crc32c(sum) => sum.to_be_bytes().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upload::store::hex;

    #[test]
    fn sums_are_those_that_others_make() {
        for (algorithm, expected) in [
            (
                ChecksumAlgorithm::Sha1,
                "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
            ),
            (
                ChecksumAlgorithm::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
            (ChecksumAlgorithm::Crc32c, "e3069283"),
        ] {
            let checksum = Checksum {
                algorithm,
                sum: Vec::new(),
            };
            let mut summing = Summing::new(Some(&checksum));
            summing.add(b"1234");
            summing.add(b"56789");
            let sum = summing.finish();
            assert_eq!(hex(&sum), expected, "{}", algorithm.name());
            assert_eq!(sum.len(), algorithm.sum_bytes());
        }
    }
}
