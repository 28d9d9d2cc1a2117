//! Unloads on an operator's request: which resources are chosen, which stay and why, and the report.

use std::collections::{BTreeMap, BTreeSet};

use actix::Context;
use futures_util::future::{FutureExt, join_all};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use super::error::{ClearError, UnknownKind, UnknownResource};
use super::loader::Loader;
use super::messages::Clear;
use super::metrics::UnloadReason;
use super::phase::Phase;
use super::slot::Slot;

/// What became of the resources that a request was about.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClearReport {
    /// Whether nothing was done, and the outcomes are what would happen.
    pub dry_run: bool,
    /// The resources that were named; without names, all that were loaded and of the given kind.
    pub resources: Vec<Cleared>,
    /// Bytes of all resources that were unloaded or drain.
    pub promised_bytes: u64,
    /// How long the unloads were waited for.
    pub waited_seconds: f64,
}

/// What became of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Cleared {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Bytes that its unload frees: what it had reserved, or used, whichever was more. 0 if it was not
    /// loaded.
    pub bytes: u64,
    /// Leases on it before, those of loaded dependents included.
    pub leases: usize,
    /// What became of it.
    pub outcome: ClearOutcome,
    /// Why it stays, if it was kept.
    pub reason: Option<KeptReason>,
    /// The loaded resources for which it stays, if that is the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needed_by: Vec<String>,
}

/// What became of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClearOutcome {
    /// It is unloaded. Callers that waited for it may have caused its next load.
    Unloaded,
    /// It is in use, or its unload takes longer than the wait. It gives no new leases, and is unloaded
    /// when its users are done.
    Draining,
    /// It stays as it is.
    Kept,
}

/// Why a resource stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeptReason {
    /// It is not loaded.
    NotLoaded,
    /// It is pinned, and was not named.
    Pinned,
    /// It is of another kind.
    OtherKind,
    /// It is in use, and only idle resources were asked for.
    InUse,
    /// It was used too recently.
    UsedRecently,
    /// Loaded resources need it that stay loaded.
    Needed,
}

/// Why one resource is not chosen.
#[derive(Debug, Clone)]
struct Kept {
    reason: KeptReason,
    needed_by: Vec<String>,
}

impl From<KeptReason> for Kept {
    fn from(reason: KeptReason) -> Self {
        let needed_by = Vec::new();
        Self { reason, needed_by }
    }
}

/// Whether one resource is chosen.
type Choice = Result<(), Kept>;

impl Loader {
    /// Drains what `clear` chooses. The future resolves with the report when all of it is unloaded, or
    /// the wait is over.
    pub(super) fn clear(
        &mut self,
        clear: &Clear,
        context: &mut Context<Self>,
    ) -> Result<impl Future<Output = ClearReport> + use<>, ClearError> {
        let choices = self.choose_to_clear(clear)?;
        let mut entries = Vec::new();
        for (name, choice) in &choices {
            let Some(slot) = self.slots.get(name) else {
                continue;
            };
            let (outcome, kept) = match choice {
                Err(kept) => (ClearOutcome::Kept, Some(kept)),
                Ok(()) if self.is_used_by_others(slot, &choices) => (ClearOutcome::Draining, None),
                Ok(()) => (ClearOutcome::Unloaded, None),
            };
            entries.push(Cleared {
                name: name.clone(),
                kind: slot.resource.kind,
                bytes: slot.loaded_bytes(),
                leases: slot.lease_count(),
                outcome,
                reason: kept.map(|kept| kept.reason),
                needed_by: kept.map_or_else(Vec::new, |kept| kept.needed_by.clone()),
            });
        }
        let chosen = choices.iter().filter(|(_, choice)| choice.is_ok());
        let chosen: Vec<&str> = chosen.map(|(name, _)| name.as_str()).collect();
        let unloads = match clear.dry_run {
            true => Vec::new(),
            false => self.drain_chosen(&chosen, context),
        };
        let (dry_run, wait) = (clear.dry_run, clear.wait);
        Ok(async move {
            let begun = Instant::now();
            let ended = unloads.into_iter().map(|(name, unloaded)| {
                let unloaded = timeout(wait, unloaded);
                unloaded.map(move |result| (name, matches!(result, Ok(Ok(())))))
            });
            let ended: BTreeMap<String, bool> = join_all(ended).await.into_iter().collect();
            for entry in &mut entries {
                match ended.get(&entry.name) {
                    Some(true) => entry.outcome = ClearOutcome::Unloaded,
                    Some(false) => entry.outcome = ClearOutcome::Draining,
                    None => {}
                }
            }
            let promised = entries.iter();
            let promised = promised.filter(|entry| entry.outcome != ClearOutcome::Kept);
            ClearReport {
                dry_run,
                promised_bytes: promised.map(|entry| entry.bytes).sum(),
                resources: entries,
                waited_seconds: begun.elapsed().as_secs_f64(),
            }
        })
    }

    /// Every resource that `clear` is about, with its choice.
    fn choose_to_clear(&self, clear: &Clear) -> Result<BTreeMap<String, Choice>, ClearError> {
        if let Some(kind) = &clear.kind {
            self.check_kind(kind)?;
        }
        let mut choices = BTreeMap::new();
        for name in &clear.names {
            let slot = self.registered(name);
            let slot = slot.ok_or_else(|| UnknownResource(name.clone()))?;
            choices.insert(name.clone(), choose(slot, clear));
        }
        if clear.names.is_empty() {
            let active = self.slots.iter().filter(|(_, slot)| slot.is_active());
            let all = active.map(|(name, slot)| (name.clone(), choose(slot, clear)));
            choices = all.collect();
            let is_of_kind = |choice: &Choice| !matches!(choice, Err(kept) if kept.reason == KeptReason::OtherKind);
            choices.retain(|_, choice| is_of_kind(choice));
        }
        self.keep_what_is_needed(clear, &mut choices);
        Ok(choices)
    }

    /// Refuses a kind of which there is no resource: it is a mistake, and no choice of nothing.
    fn check_kind(&self, kind: &str) -> Result<(), UnknownKind> {
        let registered = self.slots.values().filter(|slot| !slot.deregistered);
        let kinds: BTreeSet<_> = registered.map(|slot| slot.resource.kind).collect();
        if kinds.contains(kind) {
            return Ok(());
        }
        Err(UnknownKind {
            kind: kind.to_owned(),
            kinds: kinds.into_iter().collect(),
        })
    }

    /// Keeps what others need that stay loaded, and what is in use if only idle resources are asked
    /// for. Each resource that is kept may need others, so this repeats until nothing changes.
    fn keep_what_is_needed(&self, clear: &Clear, choices: &mut BTreeMap<String, Choice>) {
        loop {
            let mut kept = Vec::new();
            for (name, choice) in &*choices {
                let Some(slot) = self.slots.get(name).filter(|_| choice.is_ok()) else {
                    continue;
                };
                let dependents = self.active_dependents(name);
                let dependents = dependents.map(|dependent| dependent.resource.name.as_str());
                let staying = dependents.filter(|dependent| !is_chosen(choices, dependent));
                let needed_by: Vec<_> = staying.map(str::to_owned).collect();
                if !needed_by.is_empty() {
                    let reason = KeptReason::Needed;
                    kept.push((name.clone(), Err(Kept { reason, needed_by })));
                } else if clear.idle_for.is_some() && self.is_used_by_others(slot, choices) {
                    kept.push((name.clone(), Err(KeptReason::InUse.into())));
                }
            }
            if kept.is_empty() {
                return;
            }
            choices.extend(kept);
        }
    }

    /// Whether a resource has users, or will have them after its load, except dependents that are chosen
    /// as well.
    fn is_used_by_others(&self, slot: &Slot, choices: &BTreeMap<String, Choice>) -> bool {
        let chosen = self.active_dependents(&slot.resource.name);
        let chosen = chosen.filter(|dependent| is_chosen(choices, &dependent.resource.name));
        let leases = chosen.flat_map(|dependent| &dependent.dependencies);
        let of_chosen = leases.filter(|lease| lease.name() == slot.resource.name);
        slot.phase() == Phase::Loading || slot.lease_count() > of_chosen.count()
    }

    fn drain_chosen(
        &mut self,
        names: &[&str],
        context: &mut Context<Self>,
    ) -> Vec<(String, oneshot::Receiver<()>)> {
        // `unload` drains dependents because of their dependency. Here all drain on request.
        for name in names {
            self.drain(name, UnloadReason::Request, context);
            if let Some(slot) = self.slots.get_mut(*name)
                && slot.phase() == Phase::Loading
            {
                slot.drain_when_loaded.get_or_insert(UnloadReason::Request);
            }
        }
        let unloads = names.iter().map(|name| {
            let unloaded = self.unload(name, UnloadReason::Request, context);
            ((*name).to_owned(), unloaded)
        });
        unloads.collect()
    }
}

fn is_chosen(choices: &BTreeMap<String, Choice>, name: &str) -> bool {
    matches!(choices.get(name), Some(Ok(())))
}

/// Whether `clear` chooses a resource, without regard to its users.
fn choose(slot: &Slot, clear: &Clear) -> Choice {
    let resource = &slot.resource;
    let idle = slot.last_use().map(|last_use| last_use.elapsed());
    let was_used = |idle_for| idle.is_some_and(|idle| idle < idle_for);
    let kept = match clear {
        Clear { kind, .. } if kind.as_deref().is_some_and(|kind| kind != resource.kind) => {
            KeptReason::OtherKind
        }
        _ if !slot.is_active() => KeptReason::NotLoaded,
        Clear {
            names, keep_pinned, ..
        } if resource.pinned && (*keep_pinned || names.is_empty()) => KeptReason::Pinned,
        Clear { idle_for, .. } if idle_for.is_some_and(was_used) => KeptReason::UsedRecently,
        Clear { uses, .. } if uses.is_some_and(|uses| uses != slot.counts.uses()) => {
            KeptReason::UsedRecently
        }
        _ => return Ok(()),
    };
    Err(kept.into())
}
