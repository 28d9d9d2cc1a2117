//! The blocks that subscribers were told, newest last, so that the next one is told once, in order, and on the right
//! branch.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::chain::hex::BlockHash;

/// Blocks that are remembered. A reorganisation of more is told as a gap.
pub(super) const BLOCKS_MAX: usize = 128;

/// A block that was told.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) hash: BlockHash,
    /// The texts of its logs, if somebody wanted to know them.
    pub(super) logs: Rc<[Bytes]>,
}

/// Where a block continues what was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joint {
    /// After this many of the told blocks. The others are on another branch.
    After(usize),
    /// Nothing was told yet.
    Start,
    /// Not known: its parent must be looked at.
    Unknown,
}

/// The blocks that were told.
#[derive(Debug, Default)]
pub(super) struct Trail {
    told: VecDeque<Told>,
    /// The block that could not be told so far, and how often that was tried.
    tried: Option<(BlockHash, u32)>,
    /// Since when it is waited before the first block.
    waits_since: Option<Instant>,
}

impl Trail {
    /// Whether this block was told.
    pub(super) fn has(&self, hash: BlockHash) -> bool {
        self.told.iter().any(|told| told.hash == hash)
    }

    /// Whether no block was told yet.
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Whether there may be a wait before the first block: they are over after this time.
    pub(super) fn may_wait(&mut self, within: Duration) -> bool {
        self.waits_since.get_or_insert_with(Instant::now).elapsed() < within
    }

    /// Lets the wait before the first block begin anew.
    pub(super) fn stop_waiting(&mut self) {
        self.waits_since = None;
    }

    /// Counts a try to tell this block, and says whether there may be another one: there are `most`.
    pub(super) fn may_try_again(&mut self, hash: BlockHash, most: u32) -> bool {
        let before = self.tried.filter(|(tried, _)| *tried == hash);
        let count = before.map_or(0, |(_, count)| count) + 1;
        self.tried = (count < most).then_some((hash, count));
        count < most
    }

    /// Where a block with this parent continues.
    pub(super) fn joint(&self, parent: BlockHash) -> Joint {
        if self.told.is_empty() {
            return Joint::Start;
        }
        let found = self.told.iter().rposition(|told| told.hash == parent);
        found.map_or(Joint::Unknown, |index| Joint::After(index + 1))
    }

    /// Forgets the blocks after the first `count`. Returns them, newest first.
    pub(super) fn cut(&mut self, count: usize) -> impl Iterator<Item = Told> {
        self.told
            .split_off(count.min(self.told.len()))
            .into_iter()
            .rev()
    }

    /// Adds a block that was told.
    pub(super) fn push(&mut self, told: Told) {
        if self.told.len() == BLOCKS_MAX {
            self.told.pop_front();
        }
        self.told.push_back(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u8) -> BlockHash {
        BlockHash::new([number; 32])
    }

    /// The blocks with these hashes.
    fn trail(hashes: impl IntoIterator<Item = u8>) -> Trail {
        let mut trail = Trail::default();
        for byte in hashes {
            trail.push(Told {
                hash: hash(byte),
                logs: Rc::new([]),
            });
        }
        trail
    }

    #[test]
    fn a_block_continues_after_its_parent() {
        let mut trail = trail([10, 11, 12]);
        assert_eq!(Trail::default().joint(hash(1)), Joint::Start);
        assert_eq!(trail.joint(hash(12)), Joint::After(3));
        assert_eq!(trail.joint(hash(10)), Joint::After(1));
        assert_eq!(trail.joint(hash(1)), Joint::Unknown);
        let cut: Vec<_> = trail.cut(1).map(|told| told.hash).collect();
        assert_eq!(cut, [hash(12), hash(11)]);
        assert!(trail.has(hash(10)) && !trail.has(hash(11)));
    }

    #[test]
    fn the_tries_of_a_block_are_counted() {
        let mut trail = Trail::default();
        let tries = [1, 1, 2, 1, 1, 1, 1].map(|byte| trail.may_try_again(hash(byte), 3));
        assert_eq!(tries, [true, true, true, true, true, false, true]);
    }

    #[test]
    fn old_blocks_are_forgotten() {
        let trail = trail(0..138);
        assert_eq!(trail.told.len(), BLOCKS_MAX);
        assert!(!trail.has(hash(9)) && trail.has(hash(10)));
    }
}
