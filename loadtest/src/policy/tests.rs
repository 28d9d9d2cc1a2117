//! Tests of the replays on small random traces, for which the optimum is known.

use std::time::Duration;

use headroom_actors::lazy::PolicyKind;
use proptest::prelude::*;

use super::default_budget;
use super::generate::built_in;
use super::offline::{KnownFuture, optimum};
use super::replay::replay;
use super::trace::{Model, Request, Trace};

fn any_trace(models: usize, requests: usize) -> impl Strategy<Value = (Trace, u64)> {
    let sizes = prop::collection::vec(1u64..9, 1..=models);
    sizes.prop_flat_map(move |sizes| {
        let most: u64 = sizes.iter().sum();
        let least = sizes.iter().copied().max().unwrap_or(1);
        let asked = prop::collection::vec((0..sizes.len(), 0u64..50), 1..=requests);
        (asked, least..=most).prop_map(move |(asked, budget)| {
            let models = sizes.iter().enumerate().map(|(index, bytes)| Model {
                name: format!("model-{index}"),
                bytes: *bytes,
            });
            let requests = asked.iter().map(|(model, tenths)| Request {
                model: *model,
                reload: Duration::from_millis(tenths * 100),
            });
            let trace = Trace {
                models: models.collect(),
                requests: requests.collect(),
            };
            (trace, budget)
        })
    })
}

/// The least seconds that loads take within `budget` bytes: every run of at most that many bytes is tried.
fn least_by_search(trace: &Trace, budget: u64, at: usize, loaded: &[usize]) -> f64 {
    let Some(request) = trace.requests.get(at) else {
        return 0.0;
    };
    if loaded.contains(&request.model) {
        return least_by_search(trace, budget, at + 1, loaded);
    }
    let rest = (0..1usize << loaded.len()).filter_map(|kept| {
        let kept = (0..loaded.len()).filter(|index| kept & (1 << index) != 0);
        let mut next: Vec<usize> = kept.map(|index| loaded[index]).collect();
        next.push(request.model);
        let used: u64 = next.iter().map(|model| trace.models[*model].bytes).sum();
        (used <= budget).then(|| least_by_search(trace, budget, at + 1, &next))
    });
    request.reload.as_secs_f64() + rest.fold(f64::INFINITY, f64::min)
}

proptest! {
    #[test]
    fn the_optimum_is_the_best_of_all_runs((trace, budget) in any_trace(4, 8)) {
        let best = optimum(&trace, budget).unwrap();
        let searched = least_by_search(&trace, budget, 0, &[]);
        prop_assert!((best - searched).abs() < 1e-6, "{best} != {searched}");
    }

    #[test]
    fn no_replay_takes_less_than_the_optimum((trace, budget) in any_trace(12, 60)) {
        let best = optimum(&trace, budget).unwrap();
        let future = replay(&trace, budget, &mut KnownFuture::new(&trace)).unwrap();
        prop_assert!(best <= future.as_secs_f64() + 1e-6, "{best} > {future:?}");
        for kind in [PolicyKind::Lru, PolicyKind::Gdsf] {
            let online = replay(&trace, budget, &mut *kind.policy()).unwrap();
            prop_assert!(best <= online.as_secs_f64() + 1e-6, "{kind:?}");
        }
    }

    #[test]
    fn with_equal_sizes_and_costs_the_known_future_is_the_optimum(
        asked in prop::collection::vec(0usize..4, 1..14),
        places in 1u64..4,
    ) {
        let models = (0..4).map(|index| Model { name: format!("{index}"), bytes: 1 });
        let requests = asked.iter().map(|model| Request {
            model: *model,
            reload: Duration::from_secs(1),
        });
        let trace = Trace { models: models.collect(), requests: requests.collect() };
        let future = replay(&trace, places, &mut KnownFuture::new(&trace)).unwrap();
        let best = optimum(&trace, places).unwrap();
        prop_assert_eq!(future.as_secs_f64(), best);
    }
}

#[test]
fn the_built_in_traces_are_the_same_every_time_and_their_models_fit() {
    let again = built_in(400);
    for (case, again) in built_in(400).iter().zip(&again) {
        let trace = &case.trace;
        assert!(*trace == again.trace, "{}", case.name);
        let future = replay(trace, default_budget(trace), &mut KnownFuture::new(trace)).unwrap();
        let lru = replay(trace, default_budget(trace), &mut *PolicyKind::Lru.policy()).unwrap();
        assert!(future <= lru, "{}", case.name);
    }
}

#[test]
fn a_model_larger_than_the_budget_is_refused() {
    let trace = Trace::parse("small 1 1\nlarge 10 1\n").unwrap();
    let error = replay(&trace, 9, &mut *PolicyKind::Gdsf.policy()).unwrap_err();
    assert_eq!(error, "request 1 does not fit into 9 bytes");
}
