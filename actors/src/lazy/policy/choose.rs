//! The choice of resources to evict: in a policy's order, with dependents before dependencies, and
//! no more than needed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::candidate::{Candidate, Policy};
use super::lru::Lru;

/// Bytes that come free when everything evictable is evicted.
pub(in super::super) fn evictable(candidates: &[Candidate<'_>]) -> u64 {
    bytes_of(candidates, &choose_in_order(&Lru, candidates, u64::MAX))
}

/// Everything evictable, in the order of `policy`.
pub(in super::super) fn eviction_order(
    policy: &dyn Policy,
    candidates: &[Candidate<'_>],
) -> Vec<usize> {
    choose_in_order(policy, candidates, u64::MAX)
}

/// Chooses candidates to evict that free at least `need` bytes together, and none that is not needed for that.
/// `None` when everything evictable is not enough. The result has positions in `candidates`.
///
/// A candidate is evictable if it is not pinned and has no leases but those of dependents that are
/// evicted as well.
pub fn choose(policy: &dyn Policy, candidates: &[Candidate<'_>], need: u64) -> Option<Vec<usize>> {
    let mut chosen = choose_in_order(policy, candidates, need);
    let surplus = bytes_of(candidates, &chosen).checked_sub(need)?;
    remove_surplus(candidates, &mut chosen, surplus);
    Some(chosen)
}

fn bytes_of(candidates: &[Candidate<'_>], chosen: &[usize]) -> u64 {
    chosen.iter().map(|index| candidates[*index].bytes).sum()
}

/// Chooses evictable candidates in order, until `need` is covered or nothing is left. Suspects come
/// first, then the lowest value, the longest unused, and the first name.
fn choose_in_order(policy: &dyn Policy, candidates: &[Candidate<'_>], need: u64) -> Vec<usize> {
    let order = |index: usize| {
        let candidate = &candidates[index];
        let value = match candidate.suspect {
            true => 0.0,
            false => policy.keep_value(candidate),
        };
        // The bits of floats that are not negative sort like their values.
        let value = value.to_bits();
        let last_use = candidate.usage.last_use;
        Reverse((!candidate.suspect, value, last_use, candidate.name, index))
    };
    let mut leases: Vec<usize> = candidates.iter().map(|it| it.leases).collect();
    let is_evictable =
        |index: usize, leases: &[usize]| leases[index] == 0 && !candidates[index].pinned;
    // A heap, because a choice usually needs few of many candidates.
    let mut open: BinaryHeap<_> = (0..candidates.len())
        .filter(|index| is_evictable(*index, &leases))
        .map(order)
        .collect();
    let mut chosen = Vec::new();
    let mut freed: u64 = 0;
    while freed < need {
        let Some(Reverse((.., index))) = open.pop() else {
            break;
        };
        for dependency in &candidates[index].depends_on {
            if leases[*dependency] > 0 {
                leases[*dependency] -= 1;
                if is_evictable(*dependency, &leases) {
                    open.push(order(*dependency));
                }
            }
        }
        freed = freed.saturating_add(candidates[index].bytes);
        chosen.push(index);
    }
    chosen
}

/// Removes candidates from `chosen` while they fit into `surplus`, the largest first. A candidate
/// stays chosen while one of its dependencies is chosen.
fn remove_surplus(candidates: &[Candidate<'_>], chosen: &mut Vec<usize>, mut surplus: u64) {
    let mut is_chosen = vec![false; candidates.len()];
    for index in &*chosen {
        is_chosen[*index] = true;
    }
    let is_removable = |index: usize, is_chosen: &[bool]| {
        let mut dependencies = candidates[index].depends_on.iter();
        is_chosen[index] && !dependencies.any(|dependency| is_chosen[*dependency])
    };
    let positions = || chosen.iter().enumerate();
    let entry = |(position, index): (usize, &usize)| (candidates[*index].bytes, position);
    let mut removable: BinaryHeap<_> = positions()
        .filter(|(_, index)| is_removable(**index, &is_chosen))
        .map(entry)
        .collect();
    while let Some((bytes, position)) = removable.pop() {
        if bytes > surplus {
            continue;
        }
        surplus -= bytes;
        let removed = chosen[position];
        is_chosen[removed] = false;
        if candidates[removed].leases > 0 {
            // Some dependents were chosen only for the sake of this candidate.
            let dependents = positions().filter(|(_, index)| {
                candidates[**index].depends_on.contains(&removed)
                    && is_removable(**index, &is_chosen)
            });
            removable.extend(dependents.map(entry));
        }
    }
    chosen.retain(|index| is_chosen[*index]);
}
