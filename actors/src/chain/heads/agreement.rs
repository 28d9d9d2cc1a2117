//! How a head is agreed on.

use std::cmp::Reverse;
use std::sync::Arc;

use super::claims::Claim;
use super::{Agreed, Block, Change, Heads, TIE_LEAD};

/// How often in a row all providers must tell a lower head until it counts.
const LOWER_MIN: u32 = 2;

/// From so many providers on, one alone does not lead as it likes.
const VOTERS_MIN: usize = 3;

/// A head that could become the agreed one.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    block: Block,
    /// How many providers may be on its branch.
    support: usize,
    /// Whether one provider alone must not be enough, and is.
    is_alone: bool,
}

/// A branch that was written down.
#[derive(Debug, Clone, Copy)]
struct Branch {
    /// Its lowest known block.
    from: u64,
    /// Its lowest block in whose place there was another one.
    conflict: Option<u64>,
    /// Whether it meets what was written down before, below such blocks.
    meets: bool,
}

impl Heads {
    /// Chooses the head anew.
    pub(super) fn decide(&mut self) -> Change {
        let change = match (self.choose(), self.head) {
            (None, _) => Change::Nothing,
            (Some(chosen), Some(head)) if chosen == head => {
                self.leader = self.leader_to(head);
                Change::Nothing
            }
            (Some(chosen), Some(head)) if !self.conflict(head, chosen) => {
                let goes_back = chosen.number <= head.number;
                let all_lower = || self.counted().iter().all(|claim| claim.lower >= LOWER_MIN);
                match goes_back && !all_lower() {
                    true => Change::Nothing,
                    false => self.adopt(chosen),
                }
            }
            (Some(chosen), _) => self.adopt(chosen),
        };
        self.update_finalized();
        change
    }

    /// The providers whose word counts: those that are used, and were heard of lately.
    fn counted(&self) -> Vec<&Claim> {
        let used = || self.claims.iter().filter(|claim| claim.is_used);
        let newest = used().map(|claim| claim.seen_at).max();
        let is_fresh = |claim: &&Claim| {
            let silent = newest.map(|newest| newest.duration_since(claim.seen_at));
            silent.is_none_or(|silent| silent <= self.config.stale_after)
        };
        used().filter(is_fresh).collect()
    }

    /// The block that should be the head.
    fn choose(&self) -> Option<Block> {
        let counted = self.counted();
        let mut candidates: Vec<Candidate> = Vec::new();
        for claim in &counted {
            let block = claim.head;
            let is_known = candidates
                .iter()
                .any(|other| other.block.hash == block.hash);
            if is_known || !self.may_lead(claim, &counted) {
                continue;
            }
            let supports = |other: &&&Claim| !self.conflict(block, other.head);
            let support = counted.iter().filter(supports).count();
            let is_alone = counted.len() >= VOTERS_MIN && !self.is_confirmed(claim, &counted);
            if is_alone && self.left_its_branch(claim) {
                continue;
            }
            candidates.push(Candidate {
                block,
                support,
                is_alone,
            });
        }
        let is_ours = |candidate: &&Candidate| {
            let head = self.head;
            head.is_none_or(|head| !self.conflict(head, candidate.block))
        };
        // Of equal ones the first: the order of the providers decides, not who spoke last.
        let rank = |candidate: &&Candidate| (candidate.support, candidate.block.number);
        let first = candidates.iter().rev();
        let ours = first.clone().filter(is_ours).max_by_key(rank);
        let theirs = first.filter(|other| !is_ours(other)).max_by_key(rank);
        let chosen = match (ours, theirs) {
            (Some(ours), Some(theirs)) => {
                let lead_min = ours.block.number.saturating_add(TIE_LEAD);
                let has_lead = theirs.block.number >= lead_min && !theirs.is_alone;
                let wins =
                    theirs.support > ours.support || (theirs.support == ours.support && has_lead);
                if wins { theirs } else { ours }
            }
            (ours, theirs) => ours.or(theirs)?,
        };
        Some(chosen.block)
    }

    /// Whether the head of `claim` may be the head of the chain: another provider has it too, or it is few blocks ahead.
    fn may_lead(&self, claim: &Claim, counted: &[&Claim]) -> bool {
        if counted.len() < VOTERS_MIN {
            // Of two that are left of three or more, one is not followed far at once: the other may be right.
            let agreed = self.head.map_or(0, |head| head.number);
            return self.claims.len() < VOTERS_MIN
                || claim.head.number <= agreed.saturating_add(self.config.lead_max)
                || !self.is_far_ahead(claim, counted);
        }
        if self.is_confirmed(claim, counted) {
            return true;
        }
        let others = counted
            .iter()
            .filter(|other| other.provider != claim.provider);
        let mut others = others.filter(|other| !self.is_far_ahead(other, counted));
        let number = claim.head.number;
        let Some(second) = others.clone().max_by_key(|other| other.head.number) else {
            return false;
        };
        if number <= second.head.number {
            // Whether the two are of one branch is not known, or the number of providers decides.
            return others.any(|other| !self.conflict(other.head, claim.head));
        }
        number >= claim.leads_from && number - second.head.number <= self.lead_max(claim, second)
    }

    /// Whether the provider of `claim` has led to the present head, and now tells one of another branch.
    fn left_its_branch(&self, claim: &Claim) -> bool {
        let has_led = self.leader.as_ref() == Some(&claim.provider);
        has_led && !self.follows(claim)
    }

    /// Whether another provider is known to have the head of `claim`.
    fn is_confirmed(&self, claim: &Claim, counted: &[&Claim]) -> bool {
        let head = claim.head;
        let mut others = counted
            .iter()
            .filter(|other| other.provider != claim.provider);
        others.any(|other| self.ancestor(other.head, head.number) == Some(head.hash))
    }

    /// Whether no other provider is near the head of `claim`.
    fn is_far_ahead(&self, claim: &Claim, counted: &[&Claim]) -> bool {
        let others = counted
            .iter()
            .filter(|other| other.provider != claim.provider);
        let second = others.max_by_key(|other| other.head.number);
        second.is_some_and(|second| {
            let lead = claim.head.number.saturating_sub(second.head.number);
            lead > self.lead_max(claim, second)
        })
    }

    /// By how many blocks `claim` may lead before the provider after it.
    fn lead_max(&self, claim: &Claim, second: &Claim) -> u64 {
        let since = claim.seen_at.saturating_duration_since(second.advanced_at);
        let due = since.as_millis() / self.config.block_time.as_millis().max(1);
        let due = u64::try_from(due).unwrap_or(u64::MAX).saturating_mul(2);
        self.config.lead_max.saturating_add(due)
    }

    /// Makes `tip` the head, and says what that changes. If it is the head already, links what can be linked now.
    pub(super) fn adopt(&mut self, tip: Block) -> Change {
        let before = self.head.replace(tip);
        self.forget_old(tip.number);
        self.remember(tip);
        let gone = self.agreed.split_off(&tip.number.saturating_add(1));
        let branch = self.link(tip);
        let mut changed_from = branch.conflict.or(gone.keys().next().copied());
        self.update_finalized();
        let after_final = self
            .finalized
            .map_or(0, |finalized| finalized.saturating_add(1));
        if changed_from.is_some() && !branch.meets {
            // Where the branches part is unknown.
            changed_from = changed_from.min(Some(after_final));
            let unknown = changed_from.unwrap_or(0)..branch.from;
            self.agreed.retain(|number, _| !unknown.contains(number));
        }
        if let Some(from) = changed_from {
            self.blame(tip);
            self.leader = self.leader_to(tip);
            return Change::Reorganised { from };
        }
        self.leader = self.leader_to(tip);
        match before {
            Some(before) if before == tip => Change::Nothing,
            Some(before) if branch.meets => Change::Extended {
                from: before.number + 1,
            },
            Some(before) => Change::Gap {
                from: before.number + 1,
            },
            None => Change::Extended { from: tip.number },
        }
    }

    /// Writes the branch of `tip` down, as far as it is known.
    fn link(&mut self, tip: Block) -> Branch {
        let (mut number, mut hash) = (tip.number, tip.hash);
        let (mut conflict, mut meets) = (None, false);
        let last = tip.number.saturating_sub(self.config.window);
        loop {
            let old = self.agreed.get(&number).copied();
            if old.is_some_and(|old| old.hash == hash) {
                meets = true;
                let lowest = self.lowest_linked(number);
                if let Some((lowest, agreed)) = lowest {
                    (number, hash) = (lowest, agreed.hash);
                }
            } else if old.is_some() {
                conflict = Some(number);
                meets = false;
            }
            let told = self.told.get(&number);
            let block = told.and_then(|told| told.iter().find(|block| block.hash == hash));
            let parent = block.map(|block| block.parent).filter(|_| number > last);
            let is_linked = parent.is_some();
            self.agreed.insert(number, Agreed { hash, is_linked });
            let Some(parent) = parent else {
                break;
            };
            number -= 1;
            hash = parent;
        }
        self.linked_from = number;
        Branch {
            from: number,
            conflict,
            meets,
        }
    }

    /// The lowest block that the block `number` is linked to.
    fn lowest_linked(&self, number: u64) -> Option<(u64, Agreed)> {
        let mut lowest = None;
        for (at, agreed) in self.agreed.range(..=number).rev() {
            lowest = Some((*at, *agreed));
            if !agreed.is_linked {
                break;
            }
        }
        lowest
    }

    /// The provider that led to the last head, and was not followed, does not lead alone for a while.
    fn blame(&mut self, tip: Block) {
        let leads_from = tip.number.saturating_add(self.config.window);
        let leader = self.leader.take();
        if let Some(claim) = leader.and_then(|leader| self.claims.get_mut(&leader)) {
            claim.leads_from = leads_from;
        }
    }

    /// The provider that alone is known to have the head `tip`, if that matters.
    fn leader_to(&self, tip: Block) -> Option<Arc<str>> {
        let counted = self.counted();
        let leader = counted.iter().find(|claim| claim.head.hash == tip.hash)?;
        let is_alone = counted.len() >= VOTERS_MIN && !self.is_confirmed(leader, &counted);
        is_alone.then(|| leader.provider.clone())
    }

    /// Recomputes the final block.
    pub(super) fn update_finalized(&mut self) {
        let Some(head) = self.head else {
            return;
        };
        let counted = self.counted();
        let told = counted.iter().filter_map(|claim| claim.finalized);
        let mut told: Vec<u64> = told.map(|number| number.min(head.number)).collect();
        told.sort_unstable_by_key(|number| Reverse(*number));
        // The median, the lower one of two: one provider alone does not move it past the others.
        let median = told.get(told.len() / 2).copied();
        let deep = head.number.checked_sub(self.config.finality_depth);
        let found = median.or(deep);
        let is_possible = |finalized: &u64| *finalized <= head.number;
        self.finalized = self.finalized.filter(is_possible).max(found);
    }

    /// Forgets blocks that are out of the window around the head `number`.
    fn forget_old(&mut self, number: u64) {
        let first = number.saturating_sub(self.config.window);
        let last = number.saturating_add(self.config.window);
        self.agreed.retain(|number, _| *number >= first);
        self.told
            .retain(|number, _| (first..=last).contains(number));
    }
}
