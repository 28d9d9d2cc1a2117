//! Evictors that know more than a server can: the future requests, or how frequent they are.

use headroom_actors::lazy::{Candidate, Policy, choose};

use super::bound::Bound;
use super::generate::LongRun;
use super::replay::{DoesNotFit, Evictor, Outcome, idle_candidate, replay};
use super::trace::Trace;

/// The better one of two replays that know all requests. Both stay within the budget, so the optimum
/// lies between the bound and this.
pub(crate) fn feasible(trace: &Trace, budget: u64, bound: &Bound) -> Result<Outcome, DoesNotFit> {
    let nearest = replay(trace, budget, &mut KnownFuture::new(trace, None))?;
    let rounded = replay(trace, budget, &mut KnownFuture::new(trace, Some(bound)))?;
    Ok(if rounded.reload < nearest.reload {
        rounded
    } else {
        nearest
    })
}

/// Knows when each model is requested next. It evicts the model whose next hit saves least per byte and
/// time until then: Belady's rule, with sizes and costs. Models that the bound keeps whole stay; they
/// always fit.
struct KnownFuture {
    next: Vec<Option<usize>>,
    keep: Vec<bool>,
    last: Vec<usize>,
}

impl KnownFuture {
    fn new(trace: &Trace, bound: Option<&Bound>) -> Self {
        let whole = |part: &f64| *part >= 1.0;
        let keep = bound.map(|bound| bound.kept.iter().map(whole).collect());
        Self {
            next: trace.next_uses(),
            keep: keep.unwrap_or_else(|| vec![false; trace.requests.len()]),
            last: vec![0; trace.models.len()],
        }
    }

    fn value(&self, trace: &Trace, at: usize, model: usize) -> f64 {
        let last = self.last[model];
        if self.keep[last] {
            return f64::INFINITY;
        }
        self.next[last].map_or(0.0, |next| {
            trace.seconds_at(next) / (trace.models[model].bytes as f64 * (next - at) as f64)
        })
    }
}

impl Evictor for KnownFuture {
    fn record_request(&mut self, trace: &Trace, at: usize, _is_hit: bool) {
        self.last[trace.requests[at].model] = at;
    }

    fn choose_victims(
        &mut self,
        trace: &Trace,
        at: usize,
        loaded: &[usize],
        missing: u64,
    ) -> Option<Vec<usize>> {
        choose_lowest_value(trace, loaded, missing, |model| self.value(trace, at, model))
    }
}

/// Knows how often each model is requested, but not when. An online policy can learn no more while
/// popularity is constant.
pub(crate) struct KnownPopularity<'a> {
    pub(crate) long_run: &'a LongRun,
}

impl Evictor for KnownPopularity<'_> {
    fn choose_victims(
        &mut self,
        trace: &Trace,
        _at: usize,
        loaded: &[usize],
        missing: u64,
    ) -> Option<Vec<usize>> {
        choose_lowest_value(trace, loaded, missing, |model| {
            let saved = self.long_run.popularity[model] * self.long_run.seconds[model];
            saved / trace.models[model].bytes as f64
        })
    }
}

/// A policy of fixed values, by name, for [`choose`].
struct FixedValues<'a>(Vec<(&'a str, f64)>);

impl Policy for FixedValues<'_> {
    fn keep_value(&self, candidate: &Candidate<'_>) -> f64 {
        let found = self
            .0
            .binary_search_by_key(&candidate.name, |(name, _)| name);
        found.map_or(0.0, |index| self.0[index].1)
    }
}

fn choose_lowest_value(
    trace: &Trace,
    loaded: &[usize],
    missing: u64,
    value: impl Fn(usize) -> f64,
) -> Option<Vec<usize>> {
    let named = loaded.iter().map(|model| {
        let name = trace.models[*model].name.as_str();
        (name, value(*model))
    });
    let policy = FixedValues(named.collect());
    let candidates: Vec<_> = loaded
        .iter()
        .map(|model| idle_candidate(trace, *model))
        .collect();
    let victims = choose(&policy, &candidates, missing)?;
    Some(victims.iter().map(|index| loaded[*index]).collect())
}
