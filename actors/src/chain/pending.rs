//! The hashes of transactions that wait for a block, as they were told of late.

use std::collections::{HashSet, VecDeque};

use super::hex::BlockHash;
use crate::kernel::BufferReservation;

/// Hashes that are remembered.
const HASHES_MAX: usize = 16 * 1024;

/// The hash of a transaction, which has the form of that of a block.
pub(super) type TransactionHash = BlockHash;

/// Somebody wants to know them. Clones of one reference share it, and the last one ends it.
#[derive(Debug)]
pub(super) struct Wanted {
    /// That of the hashes.
    _memory: BufferReservation,
}

impl Wanted {
    /// The memory of the hashes, with their places in a list and in a set.
    pub(super) const BYTES: u64 = (HASHES_MAX * 4 * size_of::<TransactionHash>()) as u64;

    /// Holds `memory` of so many bytes.
    pub(super) fn new(memory: BufferReservation) -> Self {
        Self { _memory: memory }
    }
}

/// The hashes of late, each once. They are numbered from the first one on, also those that are forgotten.
#[derive(Debug, Default)]
pub(super) struct PendingHashes {
    known: HashSet<TransactionHash>,
    order: VecDeque<TransactionHash>,
    /// The number of the first one in `order`.
    first: u64,
}

impl PendingHashes {
    /// Adds a hash, unless it is known.
    pub(super) fn add(&mut self, hash: TransactionHash) {
        if !self.known.insert(hash) {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > HASHES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
            self.first += 1;
        }
    }

    /// The number of the next one.
    pub(super) fn next(&self) -> u64 {
        self.first + self.order.len() as u64
    }

    /// Those from the number `next` on that are not forgotten.
    pub(super) fn since(&self, next: u64) -> impl ExactSizeIterator<Item = TransactionHash> {
        let skipped = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.order.range(skipped.min(self.order.len())..).copied()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self {
            first: self.next(),
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: usize) -> TransactionHash {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        TransactionHash::new(bytes)
    }

    #[test]
    fn each_hash_is_given_out_once_from_a_number_on() {
        let mut hashes = PendingHashes::default();
        for number in [0, 1, 0, 2, 2] {
            hashes.add(hash(number));
        }
        assert_eq!(hashes.next(), 3);
        assert!(hashes.since(1).eq([1, 2].map(hash)));
        assert_eq!(hashes.since(3).len() + hashes.since(9).len(), 0);
        hashes.clear();
        hashes.add(hash(0));
        assert!(hashes.since(3).eq([hash(0)]));
        assert_eq!(hashes.next(), 4);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut hashes = PendingHashes::default();
        (0..HASHES_MAX + 2).map(hash).for_each(|it| hashes.add(it));
        assert_eq!(hashes.since(0).next(), Some(hash(2)));
        assert_eq!(hashes.since(0).len(), HASHES_MAX);
        assert_eq!(hashes.known.len(), HASHES_MAX);
        assert_eq!(hashes.since(HASHES_MAX as u64).len(), 2);
    }
}
