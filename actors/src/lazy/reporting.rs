//! What the loader tells operators. Nothing here changes the loader.

use std::collections::BTreeMap;

use super::error::UnknownResource;
use super::loader::Loader;
use super::policy::{Candidate, PolicyKind, eviction_order};
use super::status::{EvictionReason, LoaderStatus, NextEviction, ResourceStatus};
use crate::kernel::Clock;

/// Entries of [`LoaderStatus::next_evictions`].
const NEXT_EVICTIONS_MAX: usize = 20;

impl Loader {
    /// The status of every resource, by name.
    pub(super) fn status(&self) -> Vec<ResourceStatus> {
        let candidates = self.candidates();
        self.status_at(&Clock::now(), &self.eviction_order(&candidates))
    }

    /// What can be evicted, in the order in which it would be.
    fn eviction_order<'a>(&self, candidates: &'a [Candidate<'a>]) -> Vec<&'a Candidate<'a>> {
        let order = eviction_order(&*self.policy, candidates);
        order.into_iter().map(|index| &candidates[index]).collect()
    }

    fn status_at(&self, clock: &Clock, next: &[&Candidate<'_>]) -> Vec<ResourceStatus> {
        let mut dependents: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for slot in self.slots.values() {
            for dependency in &slot.resource.depends_on {
                let names = dependents.entry(dependency).or_default();
                names.push(slot.resource.name.clone());
            }
        }
        let ranks = next.iter().map(|candidate| candidate.name).zip(1..);
        let ranks: BTreeMap<&str, usize> = ranks.collect();
        let slots = self.slots.values();
        let status = slots.map(|slot| {
            let excess = if slot.is_active() {
                None
            } else {
                self.excess(slot)
            };
            let mut status = ResourceStatus::new(slot, excess, clock);
            status.dependents = dependents.remove(&*status.name).unwrap_or_default();
            status.eviction_rank = ranks.get(&*status.name).copied();
            status
        });
        status.collect()
    }

    pub(super) fn loader_status(
        &self,
        if_loaded: Option<&str>,
    ) -> Result<LoaderStatus, UnknownResource> {
        let if_loaded = match if_loaded {
            Some(name) => Some(self.if_loaded(name)?),
            None => None,
        };
        let clock = Clock::now();
        let candidates = self.candidates();
        let next = self.eviction_order(&candidates);
        let listed = next.iter().take(NEXT_EVICTIONS_MAX);
        Ok(LoaderStatus {
            at: clock.timestamp(),
            started_at: clock.time_of(self.started_at),
            policy: self.config.policy,
            hit_rate: self.hit_rate.rates(),
            resources: self.status_at(&clock, &next),
            next_evictions: listed
                .filter_map(|candidate| self.next_eviction(candidate, &clock))
                .collect(),
            if_loaded,
        })
    }

    fn next_eviction(&self, candidate: &Candidate<'_>, clock: &Clock) -> Option<NextEviction> {
        let slot = self.slots.get(candidate.name)?;
        Some(NextEviction {
            name: candidate.name.to_owned(),
            kind: slot.resource.kind,
            bytes: candidate.bytes,
            reason: reason(candidate, self.config.policy),
            last_use_at: slot.last_use().map(|last_use| clock.time_of(last_use)),
            reload_seconds: candidate.reload_time.as_secs_f64(),
        })
    }
}

fn reason(candidate: &Candidate<'_>, policy: PolicyKind) -> EvictionReason {
    match policy {
        // The leases of an evictable resource are those of dependents that are evicted before it.
        _ if candidate.leases > 0 => EvictionReason::AfterItsDependents,
        _ if candidate.suspect => EvictionReason::Suspect,
        PolicyKind::Gdsf => EvictionReason::LeastReloadTimePerByte,
        PolicyKind::Lru => EvictionReason::LeastRecentlyUsed,
    }
}
