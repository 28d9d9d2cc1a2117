//! What the load of a resource would do now, without doing it: the reservations, the evictions, the
//! refusal. It follows the same steps as `loading` and `reserving`, by the last reading of memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::error::{AcquireError, Shortage, UnknownResource};
use super::loader::Loader;
use super::phase::Phase;
use super::policy::{Candidate, choose, evictable};
use super::slot::Slot;
use crate::kernel::pressure::Level;

/// What the load of a resource would do now.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct IfLoaded {
    /// The resource.
    pub name: String,
    /// What would happen.
    pub outcome: LoadOutcome,
    /// Bytes that the load would reserve, with the dependencies that are not loaded.
    pub reserve_bytes: u64,
    /// The reservations, in their order.
    pub reserves: Vec<NamedBytes>,
    /// Bytes that loads may use now; with the headroom, if the load would use it or would not fit even so.
    /// `null` while no reading of memory is known.
    pub free_bytes: Option<u64>,
    /// Whether it would use the headroom.
    pub uses_headroom: bool,
    /// Bytes that the evictions would free.
    pub evict_bytes: u64,
    /// The resources that would be evicted, in their order.
    pub evicts: Vec<NamedBytes>,
    /// Why it would be refused.
    pub refusal: Option<Refusal>,
}

/// What the load of a resource would come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadOutcome {
    /// It is loaded. Nothing would happen.
    Loaded,
    /// Its load is under way, and would be shared.
    Loading,
    /// It fits as it is.
    Fits,
    /// Idle resources would be evicted for it.
    Evicts,
    /// It would wait for memory that is in use or being unloaded, and be refused if that stays in use.
    Waits,
    /// It would be refused.
    Refused,
}

/// A resource and its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NamedBytes {
    /// The resource.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
}

/// Why a load would be refused.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Refusal {
    /// In one word: `failed`, `short`, `never_fits`, `budget_unavailable` or `stopping`.
    pub reason: &'static str,
    /// In a sentence.
    pub detail: String,
    /// When a caller can cause the next try, after a failed load.
    pub next_try_in_seconds: Option<f64>,
}

impl Refusal {
    fn new(error: &AcquireError) -> Self {
        let (reason, next_try) = match error.root() {
            AcquireError::Failed { retry_in, .. } => ("failed", Some(retry_in.as_secs_f64())),
            AcquireError::Short(_) => ("short", None),
            AcquireError::NeverFits(_) => ("never_fits", None),
            AcquireError::BudgetUnavailable => ("budget_unavailable", None),
            AcquireError::Stopping => ("stopping", None),
            AcquireError::NotFound(_) | AcquireError::DependencyFailed { .. } => ("failed", None),
        };
        Self {
            reason,
            detail: error.to_string(),
            next_try_in_seconds: next_try,
        }
    }
}

impl Loader {
    pub(super) fn if_loaded(&self, name: &str) -> Result<IfLoaded, UnknownResource> {
        let unknown = || UnknownResource(name.to_owned());
        let slot = self.registered(name).ok_or_else(unknown)?;
        let trial = Trial::new(self, name);
        let outcome = match slot.phase() {
            Phase::Ready => LoadOutcome::Loaded,
            Phase::Loading => LoadOutcome::Loading,
            Phase::Cold | Phase::Draining | Phase::Failed => return Ok(trial.run(slot)),
        };
        Ok(trial.finish(outcome, None))
    }

    /// `slot` and the dependencies that its load would load, dependencies first.
    fn load_order<'a>(&'a self, slot: &'a Slot) -> Vec<&'a Slot> {
        let names = self.with_dependencies([slot.resource.name.as_str()]);
        let slots = names.into_iter().filter_map(|name| self.slots.get(name));
        let is_missing = |slot: &&Slot| !matches!(slot.phase(), Phase::Ready | Phase::Loading);
        let mut open: Vec<&Slot> = slots.filter(is_missing).collect();
        let mut order = Vec::new();
        while !open.is_empty() {
            let waiting: BTreeSet<&str> = open.iter().map(|it| it.resource.name.as_str()).collect();
            let is_next = |slot: &&Slot| {
                let mut depends_on = slot.resource.depends_on.iter();
                !depends_on.any(|name| waiting.contains(name.as_str()))
            };
            let (next, later): (Vec<_>, Vec<_>) = open.into_iter().partition(is_next);
            if next.is_empty() {
                // Never: the catalogue has no cycles.
                break;
            }
            order.extend(next);
            open = later;
        }
        order
    }
}

/// The loads of a resource and of its dependencies, on paper.
struct Trial<'a> {
    loader: &'a Loader,
    name: &'a str,
    candidates: Vec<Candidate<'a>>,
    /// Bytes of the unloads under way.
    coming: u64,
    reserves: Vec<NamedBytes>,
    evicts: Vec<NamedBytes>,
    uses_headroom: bool,
    waits: bool,
}

impl<'a> Trial<'a> {
    fn new(loader: &'a Loader, name: &'a str) -> Self {
        let needed = loader.with_dependencies([name]);
        let mut candidates = loader.candidates();
        for candidate in &mut candidates {
            // The load has leases on its dependencies.
            candidate.pinned |= needed.contains(candidate.name);
        }
        let slots = loader.slots.iter();
        // A load begins after the end of the unload that is under way, or that waits for leases.
        let ending = slots.filter(|(name, slot)| {
            let must_end = slot.phase() == Phase::Draining && needed.contains(name.as_str());
            slot.is_unloading || must_end
        });
        Self {
            loader,
            name,
            candidates,
            coming: ending.map(|(_, slot)| slot.loaded_bytes()).sum(),
            reserves: Vec::new(),
            evicts: Vec::new(),
            uses_headroom: false,
            waits: false,
        }
    }

    fn run(mut self, slot: &Slot) -> IfLoaded {
        let result = self.load_all(slot);
        let outcome = match &result {
            Err(_) => LoadOutcome::Refused,
            Ok(()) if self.waits => LoadOutcome::Waits,
            Ok(()) if !self.evicts.is_empty() => LoadOutcome::Evicts,
            Ok(()) => LoadOutcome::Fits,
        };
        self.finish(outcome, result.err())
    }

    fn finish(self, outcome: LoadOutcome, error: Option<AcquireError>) -> IfLoaded {
        let tried_headroom = self.uses_headroom || matches!(error, Some(AcquireError::Short(_)));
        let free = self.loader.budget.free(tried_headroom);
        IfLoaded {
            name: self.name.to_owned(),
            outcome,
            reserve_bytes: sum(&self.reserves),
            reserves: self.reserves,
            free_bytes: free.map(|it| it.free),
            uses_headroom: self.uses_headroom,
            evict_bytes: sum(&self.evicts),
            evicts: self.evicts,
            refusal: error.as_ref().map(Refusal::new),
        }
    }

    fn load_all(&mut self, slot: &Slot) -> Result<(), AcquireError> {
        self.check(slot)?;
        for next in self.loader.load_order(slot) {
            let result = self.check(next).and_then(|()| self.reserve(next));
            result.map_err(|error| match next.resource.name == self.name {
                true => error,
                false => AcquireError::DependencyFailed {
                    dependency: next.resource.name.clone(),
                    error: Arc::new(error),
                },
            })?;
        }
        Ok(())
    }

    /// Whether the load would be refused before it asks for memory.
    fn check(&self, slot: &Slot) -> Result<(), AcquireError> {
        if self.loader.stopping.is_cancelled() {
            return Err(AcquireError::Stopping);
        }
        if let Some(error) = slot.remembered_failure() {
            return Err(error);
        }
        // What is draining has been loaded, so it fits.
        let excess = match slot.is_active() {
            true => None,
            false => self.loader.excess(slot),
        };
        excess.map_or(Ok(()), |excess| Err(AcquireError::NeverFits(excess)))
    }

    /// Reserves the estimate: from what is free, with evictions, with the headroom, or by waiting. If
    /// all of that fails, the same with what the last load took.
    fn reserve(&mut self, slot: &Slot) -> Result<(), AcquireError> {
        let (estimate, minimum) = (slot.estimated_bytes(), slot.minimum_bytes());
        let level = self.loader.pressure.reached();
        let refused = match level {
            Level::Exhausted => Shortage {
                need: estimate,
                free: 0,
                evictable: evictable(&self.candidates),
                budget: None,
                level,
            },
            _ => match self.try_reserve(slot, estimate, false)? {
                None => return Ok(()),
                Some(_) if minimum < estimate => match self.try_reserve(slot, minimum, true)? {
                    None => return Ok(()),
                    Some(shortage) => shortage,
                },
                Some(shortage) => shortage,
            },
        };
        self.add_reservation(slot, refused.need);
        Err(AcquireError::Short(refused))
    }

    /// `None` if the load would have `need` bytes, else what it lacks.
    fn try_reserve(
        &mut self,
        slot: &Slot,
        need: u64,
        with_headroom: bool,
    ) -> Result<Option<Shortage>, AcquireError> {
        let mut use_headroom = with_headroom;
        let (shortage, missing) = loop {
            let memory = self.loader.budget.free(use_headroom);
            let memory = memory.ok_or(AcquireError::BudgetUnavailable)?;
            let free = memory.free.saturating_add(sum(&self.evicts));
            let taken = sum(&self.reserves);
            let missing = need.saturating_add(taken).saturating_sub(free);
            let missing_after_unloads = missing.saturating_sub(self.coming);
            let victims = choose(
                &*self.loader.policy,
                &self.candidates,
                missing_after_unloads,
            );
            if let Some(victims) = victims {
                self.uses_headroom |= use_headroom;
                self.waits |= missing > 0 && victims.is_empty();
                self.evict(&victims);
                self.add_reservation(slot, need);
                return Ok(None);
            }
            if use_headroom {
                let shortage = Shortage {
                    need,
                    free: free.saturating_sub(taken),
                    evictable: evictable(&self.candidates),
                    budget: Some(memory.budget),
                    level: self.loader.pressure.current().level,
                };
                break (shortage, missing);
            }
            use_headroom = true;
        };
        let reclaimable = self.loader.reclaimable_bytes(Some(self.name));
        if reclaimable.saturating_sub(sum(&self.evicts)) < missing {
            return Ok(Some(shortage));
        }
        self.uses_headroom = true;
        self.waits = true;
        self.add_reservation(slot, need);
        Ok(None)
    }

    fn add_reservation(&mut self, slot: &Slot, bytes: u64) {
        let name = slot.resource.name.clone();
        self.reserves.push(NamedBytes { name, bytes });
    }

    fn evict(&mut self, victims: &[usize]) {
        for &index in victims {
            let victim = &mut self.candidates[index];
            victim.pinned = true;
            self.evicts.push(NamedBytes {
                name: victim.name.to_owned(),
                bytes: victim.bytes,
            });
            for dependency in std::mem::take(&mut victim.depends_on) {
                let leases = &mut self.candidates[dependency].leases;
                *leases = leases.saturating_sub(1);
            }
        }
    }
}

fn sum(of: &[NamedBytes]) -> u64 {
    of.iter().map(|it| it.bytes).sum()
}
