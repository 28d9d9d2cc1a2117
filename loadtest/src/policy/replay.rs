//! Replays of traces: each request loads its model within the budget, unless the model is loaded.
//!
//! [`OnlinePolicy`] uses the policy as the lazy loader does; see `loader` (a use), `loading` (a load) and
//! `eviction` (the choice) in `actors/src/lazy`.

use std::time::Duration;

use headroom_actors::lazy::{Candidate, Policy, PolicyKind, UseRecord, choose};

use super::trace::Trace;

/// Decides which models are evicted.
pub(crate) trait Evictor {
    /// Takes note of request `at`, which is a hit or has loaded its model.
    fn record_request(&mut self, _trace: &Trace, _at: usize, _is_hit: bool) {}

    /// Chooses models of `loaded` so that at least `missing` bytes come free for request `at`. `None`
    /// when they are not enough.
    fn choose_victims(
        &mut self,
        trace: &Trace,
        at: usize,
        loaded: &[usize],
        missing: u64,
    ) -> Option<Vec<usize>>;
}

/// The result of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Outcome {
    pub(crate) hits: usize,
    pub(crate) loads: usize,
    /// The time of all loads together.
    pub(crate) reload: Duration,
    /// The most bytes loaded at once.
    pub(crate) peak: u64,
}

/// Why a trace could not be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("request {at} does not fit into {budget} bytes")]
pub(crate) struct DoesNotFit {
    at: usize,
    budget: u64,
}

/// Replays `trace` within `budget` bytes.
pub(crate) fn replay(
    trace: &Trace,
    budget: u64,
    evictor: &mut dyn Evictor,
) -> Result<Outcome, DoesNotFit> {
    let mut outcome = Outcome::default();
    // Sorted by name, as the loader's slots are.
    let mut loaded: Vec<usize> = Vec::new();
    let mut used: u64 = 0;
    for (at, request) in trace.requests.iter().enumerate() {
        let name = |model: &usize| trace.models[*model].name.as_str();
        let place = loaded.binary_search_by_key(&name(&request.model), name);
        if place.is_ok() {
            outcome.hits += 1;
            evictor.record_request(trace, at, true);
            continue;
        }
        let bytes = trace.bytes_at(at);
        let missing = (used + bytes).saturating_sub(budget);
        if missing > 0 {
            let victims = evictor.choose_victims(trace, at, &loaded, missing);
            let victims = victims.ok_or(DoesNotFit { at, budget })?;
            loaded.retain(|model| !victims.contains(model));
            used = loaded.iter().map(|model| trace.models[*model].bytes).sum();
        }
        used += bytes;
        if used > budget {
            return Err(DoesNotFit { at, budget });
        }
        let place = loaded.partition_point(|model| name(model) < name(&request.model));
        loaded.insert(place, request.model);
        outcome.loads += 1;
        outcome.reload += request.reload;
        outcome.peak = outcome.peak.max(used);
        evictor.record_request(trace, at, false);
    }
    Ok(outcome)
}

/// Evicts by a policy of the loader. One request comes each second.
pub(crate) struct OnlinePolicy {
    policy: Box<dyn Policy>,
    models: Vec<ModelHistory>,
}

/// What the loader knows of a model.
#[derive(Clone, Default)]
struct ModelHistory {
    usage: UseRecord,
    loads: u32,
    total_load_time: Duration,
}

impl OnlinePolicy {
    pub(crate) fn new(kind: PolicyKind, trace: &Trace) -> Self {
        Self {
            policy: kind.policy(),
            models: vec![ModelHistory::default(); trace.models.len()],
        }
    }

    fn candidates<'a>(&self, trace: &'a Trace, loaded: &[usize]) -> Vec<Candidate<'a>> {
        let candidates = loaded.iter().map(|model| {
            let history = &self.models[*model];
            Candidate {
                usage: history.usage,
                reload_time: history.total_load_time / history.loads.max(1),
                ..idle_candidate(trace, *model)
            }
        });
        candidates.collect()
    }
}

impl Evictor for OnlinePolicy {
    fn record_request(&mut self, trace: &Trace, at: usize, is_hit: bool) {
        let request = trace.requests[at];
        let history = &mut self.models[request.model];
        if !is_hit {
            history.loads += 1;
            history.total_load_time += request.reload;
        }
        let now = Duration::from_secs(at as u64);
        self.policy.record_use(&mut history.usage, now);
    }

    fn choose_victims(
        &mut self,
        trace: &Trace,
        _at: usize,
        loaded: &[usize],
        missing: u64,
    ) -> Option<Vec<usize>> {
        let candidates = self.candidates(trace, loaded);
        let victims = choose(&*self.policy, &candidates, missing)?;
        for _ in &victims {
            self.policy.record_eviction();
        }
        Some(victims.iter().map(|index| loaded[*index]).collect())
    }
}

/// A loaded model without leases, as a candidate for eviction.
pub(crate) fn idle_candidate(trace: &Trace, model: usize) -> Candidate<'_> {
    let model = &trace.models[model];
    Candidate {
        name: &model.name,
        bytes: model.bytes,
        pinned: false,
        leases: 0,
        depends_on: Vec::new(),
        usage: UseRecord::default(),
        suspect: false,
        reload_time: Duration::ZERO,
    }
}
