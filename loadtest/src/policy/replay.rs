//! A trace, replayed: one model after the other is asked for, and loaded within the budget.
//!
//! [`Online`] does with the policy what the lazy loader does with it; see `actors/src/lazy`, `loader`
//! (a use), `loading` (a load) and `room` (the choice).

use std::time::Duration;

use headroom_actors::lazy::{Candidate, Policy, PolicyKind, Usage, choose};

use super::trace::Trace;

/// Who decides what goes.
pub(crate) trait Keeper {
    /// Request `at` found its model loaded.
    fn hit(&mut self, trace: &Trace, at: usize);

    /// Request `at` has loaded its model.
    fn loaded(&mut self, trace: &Trace, at: usize);

    /// Says who of those `loaded` goes so that at least `missing` bytes come free for request `at`.
    /// `None` when it finds nobody.
    fn make_room(
        &mut self,
        trace: &Trace,
        at: usize,
        loaded: &[usize],
        missing: u64,
    ) -> Option<Vec<usize>>;
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Outcome {
    pub(crate) hits: usize,
    pub(crate) loads: usize,
    /// All loads together.
    pub(crate) reload: Duration,
    /// The most bytes loaded at once.
    pub(crate) peak: u64,
}

/// Why a trace could not be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no room for request {at} within {budget} bytes")]
pub(crate) struct NoRoom {
    at: usize,
    budget: u64,
}

/// Replays `trace` within `budget` bytes.
pub(crate) fn replay(
    trace: &Trace,
    budget: u64,
    keeper: &mut dyn Keeper,
) -> Result<Outcome, NoRoom> {
    let mut outcome = Outcome::default();
    // In the order of their names, as the loader has its slots.
    let mut loaded: Vec<usize> = Vec::new();
    let mut used: u64 = 0;
    for (at, request) in trace.requests.iter().enumerate() {
        let name = |model: &usize| trace.models[*model].name.as_str();
        let place = loaded.binary_search_by_key(&name(&request.model), name);
        if place.is_ok() {
            outcome.hits += 1;
            keeper.hit(trace, at);
            continue;
        }
        let bytes = trace.bytes_at(at);
        let missing = (used + bytes).saturating_sub(budget);
        if missing > 0 {
            let victims = keeper.make_room(trace, at, &loaded, missing);
            let victims = victims.ok_or(NoRoom { at, budget })?;
            loaded.retain(|model| !victims.contains(model));
            used = loaded.iter().map(|model| trace.models[*model].bytes).sum();
        }
        used += bytes;
        if used > budget {
            return Err(NoRoom { at, budget });
        }
        let place = loaded.partition_point(|model| name(model) < name(&request.model));
        loaded.insert(place, request.model);
        outcome.loads += 1;
        outcome.reload += request.reload;
        outcome.peak = outcome.peak.max(used);
        keeper.loaded(trace, at);
    }
    Ok(outcome)
}

/// The policy of the loader. One request comes each second.
pub(crate) struct Online {
    policy: Box<dyn Policy>,
    models: Vec<Known>,
}

/// What the loader remembers of a model.
#[derive(Clone, Default)]
struct Known {
    usage: Usage,
    loads: u32,
    loading: Duration,
}

impl Online {
    pub(crate) fn new(kind: PolicyKind, trace: &Trace) -> Self {
        Self {
            policy: kind.policy(),
            models: vec![Known::default(); trace.models.len()],
        }
    }

    fn candidates<'a>(&self, trace: &'a Trace, loaded: &[usize]) -> Vec<Candidate<'a>> {
        let candidates = loaded.iter().map(|model| {
            let known = &self.models[*model];
            Candidate {
                usage: known.usage,
                suspect: false,
                reload_time: known.loading / known.loads.max(1),
                ..idle(trace, *model)
            }
        });
        candidates.collect()
    }
}

impl Keeper for Online {
    fn hit(&mut self, trace: &Trace, at: usize) {
        let known = &mut self.models[trace.requests[at].model];
        self.policy.record_use(&mut known.usage, now(at));
    }

    fn loaded(&mut self, trace: &Trace, at: usize) {
        let request = trace.requests[at];
        let known = &mut self.models[request.model];
        known.loads += 1;
        known.loading += request.reload;
        self.policy.record_use(&mut known.usage, now(at));
    }

    fn make_room(
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

/// A model that nobody uses at this moment, as the loader tells a policy of it.
pub(crate) fn idle(trace: &Trace, model: usize) -> Candidate<'_> {
    let model = &trace.models[model];
    Candidate {
        name: &model.name,
        bytes: model.bytes,
        pinned: false,
        leases: 0,
        depends_on: Vec::new(),
        usage: Usage::default(),
        suspect: false,
        reload_time: Duration::ZERO,
    }
}

fn now(at: usize) -> Duration {
    Duration::from_secs(at as u64)
}
