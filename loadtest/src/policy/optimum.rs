//! The optimum, by dynamic programming over all sets of models. Only for few models.

use super::trace::Trace;

/// The most models. The time grows with the number of their sets.
pub(crate) const MODELS_MAX: usize = 12;

/// The least seconds that loads take within `budget` bytes, in which each model fits alone. `None` with
/// more than [`MODELS_MAX`] models.
///
/// It computes, for each set of models that can be loaded after a request, the cheapest way to it.
/// Evictions happen only for a load, and only as far as needed, because a model can still be evicted
/// later.
pub(crate) fn optimum(trace: &Trace, budget: u64) -> Option<f64> {
    let models = trace.models.len();
    if models > MODELS_MAX {
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
    for (at, request) in trace.requests.iter().enumerate() {
        let wanted = 1 << request.model;
        let mut after = vec![f64::INFINITY; fits.len()];
        for (loaded, cost) in costs
            .iter()
            .enumerate()
            .filter(|(_, cost)| cost.is_finite())
        {
            if loaded & wanted != 0 {
                after[loaded] = cost.min(after[loaded]);
                continue;
            }
            for next in largest_within(loaded, wanted, &fits) {
                after[next] = after[next].min(cost + trace.seconds_at(at));
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
        let mut left = (0..MODELS_MAX)
            .map(|index| 1 << index)
            .filter(|one| loaded & !kept & one != 0);
        let full = left.all(|one| !fits[next | one]);
        (fits[next] && full).then_some(next)
    })
}
