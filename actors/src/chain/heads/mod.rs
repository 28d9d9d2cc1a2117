//! The chain as its providers tell it: which blocks are its newest ones, and which one is final.
//!
//! Why it exists: each provider tells only its own head. Some are behind, some follow another branch for a while, some are
//! wrong. What the gateway keeps, and what it calls `latest`, must not change because one of them does.
//!
//! How a head is agreed on:
//! - The branch with the most providers counts. A provider that is behind counts for each branch that may contain its head.
//!   The branch that counted last keeps doing so unless another one has more providers, or as many and a lead of
//!   [`TIE_LEAD`] blocks: two equal branches do not take turns.
//! - Of this branch, the newest block counts, also if only one provider has it yet. Among three providers and more, one alone
//!   can lead by a few blocks only, and not at all for a while after the others have not followed it.
//! - The head goes back only if another branch counts, or if each provider has told a lower head twice in a row.
//!
//! Guarantees:
//! - A block that [`Heads::hash_at`] has given is never replaced without a [`Change::Reorganised`] that covers it.
//! - The final block does not go back, unless the head falls below it: then nobody has that block.
//! - The memory is bounded: a window of blocks, few branches in it, and the providers.

mod agreement;
mod claims;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::block::Block;
use super::config::ChainConfig;
use super::hex::BlockHash;
use super::provider::Head;
use claims::{Claim, Claims};

/// By how many blocks a branch must be longer than the present one if it has as many providers.
pub const TIE_LEAD: u64 = 3;

/// The most branches that are remembered at one number.
const BRANCHES_MAX: usize = 8;

/// The highest number of a block, as nodes have it.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// The settings of [`Heads`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadsConfig {
    /// How many blocks are remembered.
    pub window: u64,
    /// A block with so many blocks after it is final, if no provider says which one is.
    pub finality_depth: u64,
    /// The time between two blocks.
    pub block_time: Duration,
    /// By how many blocks one provider alone may lead, beside those that were due since the others told a new one.
    pub lead_max: u64,
    /// A provider that has told nothing for so long, while another has, does not count.
    pub stale_after: Duration,
}

impl HeadsConfig {
    /// The settings for `chain`.
    pub fn of(chain: &ChainConfig) -> Self {
        let block_time = chain.block_time.max(Duration::from_millis(1));
        let in_three_seconds = Duration::from_secs(3).as_millis() / block_time.as_millis();
        Self {
            window: chain.finality_depth.saturating_add(64).clamp(256, 4096),
            finality_depth: chain.finality_depth,
            block_time,
            lead_max: u64::try_from(in_three_seconds).map_or(64, |blocks| blocks.clamp(3, 64)),
            stale_after: (block_time * 20).clamp(Duration::from_secs(30), Duration::from_secs(600)),
        }
    }
}

/// What has become of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: the provider is behind, or is not followed, or has told what is known.
    Nothing,
    /// There are new blocks, and the blocks before them are as they were.
    Extended {
        /// The first new block.
        from: u64,
    },
    /// There is a new head, but blocks before it are unknown: they may belong to another branch. [`Heads::missing`] says what
    /// to ask for. Until it says `None`, what is known of blocks that are not final may be wrong.
    Gap {
        /// The first unknown block.
        from: u64,
    },
    /// What was known of this block and of all after it is wrong.
    Reorganised {
        /// The first such block.
        from: u64,
    },
}

/// A block of which only the hash is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: BlockHash,
}

/// A block of the chain as it is agreed on.
#[derive(Debug, Clone, Copy)]
struct Agreed {
    hash: BlockHash,
    /// Whether the block before it is known to be its parent.
    is_linked: bool,
}

/// The chain as its providers tell it.
#[derive(Debug)]
pub struct Heads {
    config: HeadsConfig,
    claims: Claims,
    /// What providers have told, of all branches, by number.
    told: BTreeMap<u64, Vec<Block>>,
    agreed: BTreeMap<u64, Agreed>,
    head: Option<Block>,
    /// The first block from which on all are linked up to the head.
    linked_from: u64,
    finalized: Option<u64>,
    /// The provider that alone has the head.
    leader: Option<Arc<str>>,
}

impl Heads {
    /// A chain of which nothing is known.
    pub fn new(config: HeadsConfig) -> Self {
        Self {
            config,
            claims: Claims::default(),
            told: BTreeMap::new(),
            agreed: BTreeMap::new(),
            head: None,
            linked_from: 0,
            finalized: None,
            leader: None,
        }
    }

    /// Takes the head that `provider` has told, also if it is the same as before. One whose number is none of a block is
    /// ignored.
    pub fn observe(&mut self, provider: &str, head: &Head) -> Change {
        let block = head.block;
        if block.number > NUMBER_MAX {
            return Change::Nothing;
        }
        let agreed = self.head.map(|head| head.number);
        if !self.claims.tell(provider, block, head.seen_at, agreed) {
            return Change::Nothing;
        }
        self.remember(block);
        self.decide()
    }

    /// Takes the number of the newest block that `provider` calls final. It counts after the provider has told a head.
    pub fn observe_finalized(&mut self, provider: &str, number: u64) {
        if let Some(claim) = self.claims.get_mut(provider) {
            claim.finalized = Some(number);
            self.update_finalized();
        }
    }

    /// Takes a block that [`Self::missing`] has asked for.
    pub fn fill(&mut self, block: Block) -> Change {
        let agreed = self.agreed.get(&block.number);
        match (agreed, self.head) {
            (Some(agreed), Some(head)) if agreed.hash == block.hash => {
                self.remember(block);
                self.adopt(head)
            }
            _ => Change::Nothing,
        }
    }

    /// Takes whether calls may be sent to `provider`. While they may not, its word does not count.
    pub fn set_used(&mut self, provider: &str, is_used: bool) -> Change {
        match self.claims.get_mut(provider) {
            Some(claim) if claim.is_used != is_used => {
                claim.is_used = is_used;
                self.decide()
            }
            _ => Change::Nothing,
        }
    }

    /// The newest block.
    pub fn head(&self) -> Option<Block> {
        self.head
    }

    /// The number of the newest block that is final.
    pub fn finalized(&self) -> Option<u64> {
        self.finalized
    }

    /// Whether the block `number` is final.
    pub fn is_final(&self, number: u64) -> bool {
        self.finalized.is_some_and(|finalized| number <= finalized)
    }

    /// The hash of the block `number`, if it is in the window, and no block between it and the head is unknown.
    pub fn hash_at(&self, number: u64) -> Option<BlockHash> {
        if number < self.linked_from {
            return None;
        }
        self.agreed.get(&number).map(|agreed| agreed.hash)
    }

    /// The block to ask for because of a [`Change::Gap`].
    pub fn missing(&self) -> Option<Missing> {
        let number = self.linked_from;
        let has_older = self.agreed.range(..number).next_back().is_some();
        if !has_older || self.is_final(number) {
            return None;
        }
        let hash = self.agreed.get(&number)?.hash;
        Some(Missing { number, hash })
    }

    /// How many blocks `provider` is behind the head. `None` if it has told no head.
    pub fn lag(&self, provider: &str) -> Option<u64> {
        let head = self.head?.number;
        let claim = self.claims.get(provider)?;
        Some(head.saturating_sub(claim.head.number))
    }

    /// Whether `provider` has the block `number` of this chain, so that its answers about it can be believed.
    pub fn vouches(&self, provider: &str, number: u64) -> bool {
        let Some(claim) = self.claims.get(provider) else {
            return false;
        };
        claim.head.number >= number && self.shares(claim, number)
    }

    /// Whether `provider` is known to be on another branch that need not have the block `number` of this one.
    pub fn is_on_other_branch(&self, provider: &str, number: u64) -> bool {
        let claim = self.claims.get(provider);
        claim.is_some_and(|claim| self.head.is_some() && !self.shares(claim, number))
    }

    /// Whether the chain of `claim` may have the block `number` of this one.
    fn shares(&self, claim: &Claim, number: u64) -> bool {
        self.follows(claim) || (self.is_final(number) && self.parts_after_final(claim))
    }

    /// Whether the branch of `claim` is known to part from this one only after the final block.
    fn parts_after_final(&self, claim: &Claim) -> bool {
        let Some(finalized) = self.finalized else {
            return false;
        };
        let mut above = self
            .branch(claim.head)
            .take_while(|(number, _)| *number >= finalized);
        above.any(|(number, hash)| {
            let agreed = self.agreed.get(&number);
            agreed.is_some_and(|agreed| agreed.hash == hash)
        })
    }

    /// Whether the head of `claim` may be of this chain.
    fn follows(&self, claim: &Claim) -> bool {
        self.head
            .is_some_and(|head| !self.conflict(head, claim.head))
    }

    /// Remembers `block`, unless it is far from the head.
    fn remember(&mut self, block: Block) {
        let head = self.head.map_or(block.number, |head| head.number);
        if block.number.abs_diff(head) > self.config.window {
            return;
        }
        let told = self.told.entry(block.number).or_default();
        if told.iter().any(|other| other.hash == block.hash) {
            return;
        }
        if told.len() == BRANCHES_MAX {
            let agreed = self.agreed.get(&block.number).map(|agreed| agreed.hash);
            let oldest = told.iter().position(|other| Some(other.hash) != agreed);
            told.remove(oldest.unwrap_or(0));
        }
        told.push(block);
    }

    /// The blocks of the branch of `tip`, newest first, as far as they are known.
    fn branch(&self, tip: Block) -> impl Iterator<Item = (u64, BlockHash)> {
        let parent = move |(number, hash): &(u64, BlockHash)| {
            let parent = match *number == tip.number {
                true => tip.parent,
                false => {
                    let told = self.told.get(number)?;
                    told.iter().find(|block| block.hash == *hash)?.parent
                }
            };
            Some((number.checked_sub(1)?, parent))
        };
        std::iter::successors(Some((tip.number, tip.hash)), parent)
    }

    /// The hash of the block `number` on the branch of `tip`, if it is known.
    fn ancestor(&self, tip: Block, number: u64) -> Option<BlockHash> {
        let mut branch = self.branch(tip).take_while(|(at, _)| *at >= number);
        branch.find(|(at, _)| *at == number).map(|(_, hash)| hash)
    }

    /// Whether the two are known to be on different branches.
    fn conflict(&self, one: Block, other: Block) -> bool {
        let (newer, older) = match one.number >= other.number {
            true => (one, other),
            false => (other, one),
        };
        let hash = self.ancestor(newer, older.number);
        hash.is_some_and(|hash| hash != older.hash)
    }
}
