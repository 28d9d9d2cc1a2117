//! The reorganisations of late, so that whoever has noted something down can see whether it still holds.

use std::collections::VecDeque;

/// The most reorganisations that are remembered one by one.
const REMEMBERED_MAX: usize = 64;

/// The reorganisations of late.
///
/// A later one that goes as deep as an earlier one makes the earlier one unimportant, so those that are remembered become less
/// deep from the first to the last.
#[derive(Debug, Default)]
pub struct Reorgs {
    count: u64,
    /// The number of each, and its first block.
    remembered: VecDeque<(u64, u64)>,
}

impl Reorgs {
    /// How many there have been.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes one of the block `from` and all after it.
    pub fn record(&mut self, from: u64) {
        self.count += 1;
        while self
            .remembered
            .back()
            .is_some_and(|(_, other)| *other >= from)
        {
            self.remembered.pop_back();
        }
        self.remembered.push_back((self.count, from));
        if self.remembered.len() > REMEMBERED_MAX
            && let Some((_, lowest)) = self.remembered.pop_front()
            && let Some((_, from)) = self.remembered.front_mut()
        {
            // The two count as one of the later time and of the greater depth.
            *from = lowest;
        }
    }

    /// The first block of those that came after the first `count`.
    pub fn lowest_since(&self, count: u64) -> Option<u64> {
        let first = self
            .remembered
            .partition_point(|(number, _)| *number <= count);
        self.remembered.get(first).map(|(_, from)| *from)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_deepest_since_any_time_is_known(blocks in proptest::collection::vec(0..200_u64, 0..300)) {
            let mut reorgs = Reorgs::default();
            for from in &blocks {
                reorgs.record(*from);
            }
            prop_assert!(reorgs.remembered.len() <= REMEMBERED_MAX);
            let is_exact = reorgs.remembered.len() < REMEMBERED_MAX;
            for (count, since) in (0..).zip(0..=blocks.len()) {
                let deepest = blocks[since..].iter().min().copied();
                let found = reorgs.lowest_since(count);
                prop_assert_eq!(found.is_some(), deepest.is_some());
                prop_assert!(found <= deepest);
                prop_assert!(!is_exact || found == deepest);
            }
        }
    }

    #[test]
    fn the_oldest_become_one() {
        let mut reorgs = Reorgs::default();
        for from in 100..100 + REMEMBERED_MAX as u64 + 1 {
            reorgs.record(from);
        }
        assert_eq!(reorgs.lowest_since(0), Some(100));
        assert_eq!(
            reorgs.lowest_since(1),
            Some(100),
            "too deep rather than not deep enough"
        );
        assert_eq!(reorgs.lowest_since(2), Some(102));
    }
}
