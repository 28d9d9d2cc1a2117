//! All resources in a few figures, for an overview. Their number is bounded by the kinds, not by the
//! resources.

use std::collections::BTreeMap;

use actix::{Context, Handler};
use serde::Serialize;
use utoipa::ToSchema;

use super::loader::Loader;
use super::phase::Phase;
use super::slot::Slot;
use crate::kernel::{Call, Message};

/// Sums up the resources.
#[derive(Debug, Clone, Copy)]
pub struct Summarise;

impl Message for Summarise {
    type Reply = Summary;
    const CANCELLABLE: bool = true;
}

/// All resources, and those of each kind. Counts start at 0 in each incarnation of the loader.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = LoaderSummary)]
pub struct Summary {
    /// All resources together.
    #[serde(flatten)]
    pub all: Figures,
    /// Resources in use that were killed because memory was exhausted.
    pub kills_total: u64,
    /// The resources of each kind.
    pub kinds: BTreeMap<&'static str, Figures>,
}

/// Some resources together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = LoaderFigures)]
pub struct Figures {
    /// How many are in each phase: `cold`, `loading`, `ready`, `draining`, `failed`.
    pub phases: BTreeMap<&'static str, u64>,
    /// Bytes that those which are loaded have reserved.
    pub loaded_bytes: u64,
    /// Bytes that their processes use.
    pub measured_bytes: u64,
    /// Leases on them, those of loaded dependents included.
    pub leases: u64,
    /// Callers that wait for them.
    pub waiters: u64,
    /// How often a caller found one ready.
    pub hits_total: u64,
    /// How often a caller found one not ready.
    pub misses_total: u64,
    /// Loads started.
    pub loads_total: u64,
    /// Loads that failed.
    pub failures_total: u64,
}

impl Figures {
    /// Every phase is named, also one that no resource is in.
    fn zero() -> Self {
        Self {
            phases: Phase::ALL.map(|phase| (phase.label(), 0)).into(),
            ..Self::default()
        }
    }

    fn add(&mut self, slot: &Slot) {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        *self.phases.entry(slot.phase().label()).or_default() += 1;
        self.loaded_bytes += slot.loaded_bytes();
        self.measured_bytes += slot.measured_bytes();
        self.leases += number(slot.lease_count());
        self.waiters += number(slot.waiting());
        self.hits_total += slot.counts.hits;
        self.misses_total += slot.counts.misses;
        self.loads_total += slot.counts.loads;
        self.failures_total += slot.counts.failures;
    }
}

impl Handler<Call<Summarise>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Summarise>, _context: &mut Context<Self>) {
        let Some((Summarise, reply)) = call.accept() else {
            return;
        };
        let mut summary = Summary {
            all: Figures::zero(),
            kills_total: self.kills,
            kinds: BTreeMap::new(),
        };
        for slot in self.slots.values() {
            let kind = summary.kinds.entry(slot.resource.kind);
            kind.or_insert_with(Figures::zero).add(slot);
            summary.all.add(slot);
        }
        reply.send(summary);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scripted::{Scripted, Step, unavailable};
    use super::super::tests::test_loader::{TestLoader, paused};
    use super::*;

    #[test]
    fn the_summary_adds_up_the_resources() {
        paused(|system| async move {
            let broken = Scripted::new().script([Step::Fail(unavailable("broken"))]);
            let resources = vec![
                Scripted::new().resource("cold", &[]),
                Scripted::new().bytes(30).resource("ready", &[]),
                Scripted::new().bytes(20).resource("used", &[]),
                broken.resource("broken", &[]),
            ];
            let kind = resources[0].kind;
            let loader = TestLoader::start(&system, 100, resources).await;
            loader.use_once("ready").await;
            let lease = loader.acquire("used").await.unwrap();
            loader.use_once("used").await;
            loader.acquire("broken").await.unwrap_err();

            let within = std::time::Duration::from_secs(1);
            let seen = loader.handle.ask(Summarise, within).await.unwrap();
            let phases = [
                ("cold", 1),
                ("loading", 0),
                ("ready", 2),
                ("draining", 0),
                ("failed", 1),
            ];
            assert_eq!(seen.all.phases, phases.into());
            assert_eq!((seen.all.loaded_bytes, seen.all.leases), (50, 1));
            assert_eq!((seen.all.hits_total, seen.all.misses_total), (1, 3));
            assert_eq!((seen.all.loads_total, seen.all.failures_total), (3, 1));
            assert_eq!(seen.kinds, [(kind, seen.all.clone())].into());
            drop(lease);
            loader.stop_and_check().await;
        });
    }
}
