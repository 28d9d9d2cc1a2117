//! Keepers that know more than a server can: what will be asked for, or how often.

use headroom_actors::lazy::{Candidate, Policy, choose};

use super::bound::Bound;
use super::generate::LongRun;
use super::replay::{Keeper, NoRoom, Outcome, idle, replay};
use super::trace::Trace;

/// The best of two ways to use the whole future. Both are real runs within the budget, so the optimum
/// lies between the bound and this.
pub(crate) fn feasible(trace: &Trace, budget: u64, bound: &Bound) -> Result<Outcome, NoRoom> {
    let nearest = replay(trace, budget, &mut Clairvoyant::new(trace, None))?;
    let rounded = replay(trace, budget, &mut Clairvoyant::new(trace, Some(bound)))?;
    Ok(if rounded.reload < nearest.reload {
        rounded
    } else {
        nearest
    })
}

/// Knows when each model will be asked for again. First goes what saves least, at its next use, per
/// byte and time until then: Belady's rule, with sizes and costs. What a bound keeps as a whole stays
/// whatever it is worth; there is always room for that.
struct Clairvoyant {
    next: Vec<Option<usize>>,
    keep: Vec<bool>,
    last: Vec<usize>,
}

impl Clairvoyant {
    fn new(trace: &Trace, bound: Option<&Bound>) -> Self {
        let whole = |part: &f64| *part >= 1.0;
        let keep = bound.map(|bound| bound.kept.iter().map(whole).collect());
        Self {
            next: trace.next_uses(),
            keep: keep.unwrap_or_else(|| vec![false; trace.requests.len()]),
            last: vec![0; trace.models.len()],
        }
    }

    fn worth(&self, trace: &Trace, at: usize, model: usize) -> f64 {
        let last = self.last[model];
        if self.keep[last] {
            return f64::INFINITY;
        }
        self.next[last].map_or(0.0, |next| {
            trace.seconds_at(next) / (trace.models[model].bytes as f64 * (next - at) as f64)
        })
    }
}

impl Keeper for Clairvoyant {
    fn hit(&mut self, trace: &Trace, at: usize) {
        self.last[trace.requests[at].model] = at;
    }

    fn loaded(&mut self, trace: &Trace, at: usize) {
        self.last[trace.requests[at].model] = at;
    }

    fn make_room(
        &mut self,
        trace: &Trace,
        at: usize,
        loaded: &[usize],
        missing: u64,
    ) -> Option<Vec<usize>> {
        least_worth(trace, loaded, missing, |model| self.worth(trace, at, model))
    }
}

/// Knows how often each model is asked for in the long run, but not when: what an online policy could
/// learn at most, if popularity never changed.
pub(crate) struct Informed<'a> {
    long_run: &'a LongRun,
}

impl<'a> Informed<'a> {
    pub(crate) fn new(long_run: &'a LongRun) -> Self {
        Self { long_run }
    }
}

impl Keeper for Informed<'_> {
    fn hit(&mut self, _trace: &Trace, _at: usize) {}

    fn loaded(&mut self, _trace: &Trace, _at: usize) {}

    fn make_room(
        &mut self,
        trace: &Trace,
        _at: usize,
        loaded: &[usize],
        missing: u64,
    ) -> Option<Vec<usize>> {
        least_worth(trace, loaded, missing, |model| {
            let saved = self.long_run.popularity[model] * self.long_run.seconds[model];
            saved / trace.models[model].bytes as f64
        })
    }
}

/// An order that is known beforehand, so that the same choice can be made by it.
struct Given<'a>(Vec<(&'a str, f64)>);

impl Policy for Given<'_> {
    fn keep_value(&self, candidate: &Candidate<'_>) -> f64 {
        let place = self.0.binary_search_by_key(&candidate.name, |it| it.0);
        place.map_or(0.0, |place| self.0[place].1)
    }
}

fn least_worth(
    trace: &Trace,
    loaded: &[usize],
    missing: u64,
    worth: impl Fn(usize) -> f64,
) -> Option<Vec<usize>> {
    let named = loaded.iter().map(|model| {
        let name = trace.models[*model].name.as_str();
        (name, worth(*model))
    });
    let order = Given(named.collect());
    let candidates: Vec<_> = loaded.iter().map(|model| idle(trace, *model)).collect();
    let victims = choose(&order, &candidates, missing)?;
    Some(victims.iter().map(|index| loaded[*index]).collect())
}
