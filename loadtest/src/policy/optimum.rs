//! The very optimum, where there are so few models that all that can be loaded at once can be listed.

use super::trace::Trace;

/// Models up to which it is worth the time: it grows with the number of their sets.
pub(crate) const MODELS_MAX: usize = 12;

/// The least seconds that loads take within `budget` bytes, which hold each model alone. `None` with
/// more than [`MODELS_MAX`] models.
///
/// For each set of models that may be loaded after a request, the cheapest way to come there. Room is
/// made only for a load, and nothing goes that could stay: keeping it costs nothing, since it can go
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

/// The sets with `wanted` and as much of `loaded` as fits: nothing more would.
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
