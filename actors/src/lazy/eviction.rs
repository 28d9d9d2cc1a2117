//! Evictions: which loaded resources are unloaded when memory is short.

use super::lease::Lease;
use super::loader::Loader;
use super::metrics::UnloadReason;
use super::phase::Phase;
use super::policy::{Candidate, choose, evictable};
use super::slot::Slot;
use actix::Context;

impl Loader {
    /// Chooses idle resources that free at least `bytes` together with the unloads under way. `None`
    /// when all idle resources are not enough; empty when the unloads under way are.
    pub(super) fn victims(&self, bytes: u64) -> Option<Vec<String>> {
        let unloading = self.slots.values().filter(|slot| slot.is_unloading);
        let missing = bytes.saturating_sub(unloading.map(Slot::loaded_bytes).sum());
        self.choose_names(&self.candidates(), missing)
    }

    /// Chooses idle resources that free `bytes`, or all of them if they are not enough.
    pub(super) fn idle_victims(&self, bytes: u64) -> Vec<String> {
        self.choose_up_to(&self.candidates(), bytes)
    }

    /// Chooses resources that free `bytes`, or all of them if they are not enough. Callers' leases
    /// do not protect a resource; leases of dependents do.
    pub(super) fn victims_in_use(&self, bytes: u64) -> Vec<String> {
        let mut candidates = self.candidates();
        for candidate in &mut candidates {
            // Resources that are being loaded or unloaded need their dependencies as well.
            let of_dependents = self.slots.values().flat_map(|slot| &slot.dependencies);
            candidate.leases = of_dependents
                .filter(|lease| lease.name() == candidate.name)
                .count();
        }
        self.choose_up_to(&candidates, bytes)
    }

    fn choose_up_to(&self, candidates: &[Candidate<'_>], bytes: u64) -> Vec<String> {
        let bytes = bytes.min(evictable(candidates));
        self.choose_names(candidates, bytes).unwrap_or_default()
    }

    fn choose_names(&self, candidates: &[Candidate<'_>], bytes: u64) -> Option<Vec<String>> {
        let chosen = choose(&*self.policy, candidates, bytes)?;
        let names = chosen
            .iter()
            .map(|index| candidates[*index].name.to_owned());
        Some(names.collect())
    }

    /// Bytes of idle resources that can be evicted.
    pub(super) fn evictable_bytes(&self) -> u64 {
        evictable(&self.candidates())
    }

    /// All resources that are ready, as the policy sees them.
    pub(super) fn candidates(&self) -> Vec<Candidate<'_>> {
        let ready = || {
            let slots = self.slots.values();
            slots.filter(|slot| slot.phase() == Phase::Ready)
        };
        let names: Vec<&str> = ready().map(|slot| slot.resource.name.as_str()).collect();
        let position = |lease: &Lease| names.iter().position(|name| *name == lease.name());
        ready()
            .map(|slot| {
                let mut usage = slot.usage;
                // A use lasts until its lease ends.
                if let Some(last_use) = slot.last_use() {
                    usage.last_use = last_use.saturating_duration_since(self.started_at);
                }
                Candidate {
                    name: &slot.resource.name,
                    bytes: slot.loaded_bytes(),
                    pinned: slot.resource.pinned,
                    leases: slot.lease_count(),
                    depends_on: slot.dependencies.iter().filter_map(position).collect(),
                    usage,
                    suspect: slot.feedback.is_suspect(),
                    reload_time: slot.load_times.average().unwrap_or_default(),
                }
            })
            .collect()
    }

    /// Drains `names`, which the policy has chosen.
    pub(super) fn evict(
        &mut self,
        names: &[String],
        reason: UnloadReason,
        context: &mut Context<Self>,
    ) {
        for name in names {
            self.policy.record_eviction();
            self.drain(name, reason, context);
        }
    }
}
