//! What a server cannot know: the optimum, and policies that know the future or the popularity.

use std::collections::HashMap;
use std::time::Duration;

use headroom_actors::lazy::{Candidate, Policy, UseRecord};

use super::trace::Trace;

/// Knows all requests. It evicts the model whose next hit saves least per byte and time until then:
/// Belady's rule, with sizes and costs. That is not always optimal, so the optimum takes no longer.
pub(crate) struct KnownFuture<'a> {
    trace: &'a Trace,
    /// For each request, the next one for the same model.
    next_uses: Vec<Option<usize>>,
    /// The current request.
    at: usize,
}

impl<'a> KnownFuture<'a> {
    pub(crate) fn new(trace: &'a Trace) -> Self {
        Self {
            trace,
            next_uses: trace.next_uses(),
            at: 0,
        }
    }
}

impl Policy for KnownFuture<'_> {
    fn record_use(&mut self, usage: &mut UseRecord, now: Duration) {
        usage.last_use = now;
        self.at += 1;
    }

    fn keep_value(&self, candidate: &Candidate<'_>) -> f64 {
        // In a replay one request comes each second.
        let last_use = candidate.usage.last_use.as_secs() as usize;
        self.next_uses[last_use].map_or(0.0, |next| {
            let seconds = self.trace.requests[next].reload.as_secs_f64();
            seconds / (candidate.bytes as f64 * (next - self.at) as f64)
        })
    }
}

/// Knows how often each model is requested, but not when: by name, the seconds that a loaded model saves
/// per request on average, in proportion to the others. An online policy can learn no more while
/// popularity is constant.
pub(crate) struct KnownPopularity(pub(crate) HashMap<String, f64>);

impl Policy for KnownPopularity {
    fn keep_value(&self, candidate: &Candidate<'_>) -> f64 {
        self.0[candidate.name] / candidate.bytes as f64
    }
}

/// The most models of which [`optimum`] finds the optimum. The time grows with the number of their sets.
pub(crate) const OPTIMUM_MODELS_MAX: usize = 12;

/// The least seconds that loads take within `budget` bytes, in which each model fits alone. `None` with
/// more than [`OPTIMUM_MODELS_MAX`] models.
///
/// It computes, for each set of models that can be loaded after a request, the cheapest way to it.
/// Evictions happen only for a load, and only as far as needed, because a model can still be evicted
/// later.
pub(crate) fn optimum(trace: &Trace, budget: u64) -> Option<f64> {
    let models = trace.models.len();
    if models > OPTIMUM_MODELS_MAX {
        return None;
    }
    let fits: Vec<bool> = (0..1usize << models)
        .map(|set| {
            let inside = trace.models.iter().enumerate();
            let inside = inside.filter(|(index, _)| set & (1 << index) != 0);
            inside.map(|(_, model)| model.bytes).sum::<u64>() <= budget
        })
        .collect();
    let mut costs = vec![f64::INFINITY; fits.len()];
    costs[0] = 0.0;
    for request in &trace.requests {
        let wanted = 1 << request.model;
        let mut after = vec![f64::INFINITY; fits.len()];
        for (loaded, cost) in costs.into_iter().enumerate() {
            if cost.is_infinite() {
                continue;
            }
            if loaded & wanted != 0 {
                after[loaded] = cost.min(after[loaded]);
                continue;
            }
            for next in largest_within(loaded, wanted, &fits) {
                after[next] = after[next].min(cost + request.reload.as_secs_f64());
            }
        }
        costs = after;
    }
    costs.into_iter().min_by(f64::total_cmp)
}

/// The sets of `wanted` and of a part of `loaded` to which nothing more of `loaded` can be added.
fn largest_within(loaded: usize, wanted: usize, fits: &[bool]) -> impl Iterator<Item = usize> {
    let smaller = move |set: usize| (set > 0).then(|| (set - 1) & loaded);
    std::iter::successors(Some(loaded), move |set| smaller(*set)).filter_map(move |kept| {
        let next = kept | wanted;
        let mut left = (0..OPTIMUM_MODELS_MAX)
            .map(|index| 1 << index)
            .filter(|one| loaded & !kept & one != 0);
        let full = left.all(|one| !fits[next | one]);
        (fits[next] && full).then_some(next)
    })
}
