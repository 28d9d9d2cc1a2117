//! Replays of traces: each request loads its model within the budget, unless the model is loaded.
//!
//! A policy is used as the lazy loader uses it; see `loader` (a use), `loading` (a load) and `eviction`
//! (the choice) in `actors/src/lazy`.

use std::time::Duration;

use headroom_actors::lazy::{Candidate, Policy, UseRecord, choose};

use super::trace::Trace;

/// What the loader knows of a model.
#[derive(Clone, Default)]
struct ModelHistory {
    usage: UseRecord,
    loads: u32,
    total_load_time: Duration,
}

/// Replays `trace` within `budget` bytes, with one request each second. Returns the time that all loads
/// take together. Fails if a model is larger than the budget.
pub(crate) fn replay(
    trace: &Trace,
    budget: u64,
    policy: &mut dyn Policy,
) -> Result<Duration, String> {
    let mut histories = vec![ModelHistory::default(); trace.models.len()];
    let mut loaded: Vec<usize> = Vec::new();
    for (at, request) in trace.requests.iter().enumerate() {
        let model = request.model;
        if !loaded.contains(&model) {
            let candidates: Vec<_> = loaded
                .iter()
                .map(|model| candidate(trace, *model, &histories[*model]))
                .collect();
            let used: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
            let missing = (used + trace.models[model].bytes).saturating_sub(budget);
            let victims = choose(policy, &candidates, missing)
                .ok_or_else(|| format!("request {at} does not fit into {budget} bytes"))?;
            let victims: Vec<_> = victims.into_iter().map(|index| loaded[index]).collect();
            victims.iter().for_each(|_| policy.record_eviction());
            loaded.retain(|model| !victims.contains(model));
            loaded.push(model);
            histories[model].loads += 1;
            histories[model].total_load_time += request.reload;
        }
        policy.record_use(&mut histories[model].usage, Duration::from_secs(at as u64));
    }
    Ok(histories.iter().map(|it| it.total_load_time).sum())
}

/// A loaded model without leases, as a candidate for eviction.
fn candidate<'a>(trace: &'a Trace, model: usize, history: &ModelHistory) -> Candidate<'a> {
    let model = &trace.models[model];
    Candidate {
        name: &model.name,
        bytes: model.bytes,
        pinned: false,
        leases: 0,
        depends_on: Vec::new(),
        usage: history.usage,
        suspect: false,
        reload_time: history.total_load_time / history.loads.max(1),
    }
}
