//! Tests of the replays and the bound on small random traces, for which the optimum is known.

use std::time::Duration;

use headroom_actors::lazy::PolicyKind;
use proptest::prelude::*;

use super::bound::lower_bound;
use super::default_budget;
use super::flow::{Flow, Jump, highest_profit};
use super::generate::built_in;
use super::offline::feasible;
use super::optimum::optimum;
use super::replay::{OnlinePolicy, replay};
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

fn check_outcomes(trace: &Trace, budget: u64) {
    let bound = lower_bound(trace, budget);
    let online = [PolicyKind::Lru, PolicyKind::Gdsf].map(|kind| {
        replay(trace, budget, &mut OnlinePolicy::new(kind, trace)).expect("each model fits alone")
    });
    let offline = feasible(trace, budget, &bound).expect("each model fits alone");
    for outcome in online.into_iter().chain([offline]) {
        assert!(outcome.peak <= budget, "{} > {budget}", outcome.peak);
        assert_eq!(outcome.hits + outcome.loads, trace.requests.len());
        let seconds = outcome.reload.as_secs_f64();
        assert!(
            bound.seconds <= seconds + 1e-6,
            "{} > {seconds}",
            bound.seconds
        );
    }
}

proptest! {
    #[test]
    fn the_bound_is_below_the_optimum_and_the_optimum_below_all_replays(
        (trace, budget) in any_trace(4, 12)
    ) {
        let best = optimum(&trace, budget).unwrap();
        let bound = lower_bound(&trace, budget);
        prop_assert!(bound.seconds <= best + 1e-6, "{} > {best}", bound.seconds);
        let offline = feasible(&trace, budget, &bound).unwrap().reload.as_secs_f64();
        prop_assert!(best <= offline + 1e-6, "{best} > {offline}");
        for kind in [PolicyKind::Lru, PolicyKind::Gdsf] {
            let online = replay(&trace, budget, &mut OnlinePolicy::new(kind, &trace)).unwrap();
            prop_assert!(best <= online.reload.as_secs_f64() + 1e-6, "{kind:?}");
        }
    }

    #[test]
    fn a_replay_stays_within_its_budget_and_answers_every_request((trace, budget) in any_trace(12, 200)) {
        check_outcomes(&trace, budget);
    }

    #[test]
    fn with_equal_sizes_and_costs_the_bound_is_belady_s_optimum(
        asked in prop::collection::vec(0usize..4, 1..14),
        places in 1u64..4,
    ) {
        let models = (0..4).map(|index| Model { name: format!("{index}"), bytes: 1 });
        let requests = asked.iter().map(|model| Request {
            model: *model,
            reload: Duration::from_secs(1),
        });
        let trace = Trace { models: models.collect(), requests: requests.collect() };
        let bound = lower_bound(&trace, places);
        let best = optimum(&trace, places).unwrap();
        prop_assert!((bound.seconds - best).abs() < 1e-6, "{} != {best}", bound.seconds);
    }

    #[test]
    fn a_flow_is_feasible_and_its_prices_prove_it_optimal(
        cuts in prop::collection::vec(0i64..30, 1..25),
        arcs in prop::collection::vec((0usize..25, 0usize..25, 1i64..12, 0i64..100), 0..60),
    ) {
        let jumps: Vec<_> = arcs
            .iter()
            .map(|(a, b, capacity, profit)| Jump {
                from: a % cuts.len(),
                to: a % cuts.len() + 1 + b % (cuts.len() - a % cuts.len()),
                capacity: *capacity,
                profit: *profit,
            })
            .collect();
        let Flow { amounts, prices } = highest_profit(&cuts, &jumps);
        for (cut, most) in cuts.iter().enumerate() {
            let over = jumps.iter().zip(&amounts).filter(|(it, _)| (it.from..it.to).contains(&cut));
            prop_assert!(over.map(|(_, amount)| amount).sum::<i64>() <= *most);
        }
        let profit: i64 = jumps.iter().zip(&amounts).map(|(it, amount)| it.profit * amount).sum();
        prop_assert!(prices.iter().all(|price| *price >= 0));
        let capacity_cost: i64 = prices.iter().zip(&cuts).map(|(price, cut)| price * cut).sum();
        let excess = jumps.iter().map(|it| {
            let spanned: i64 = prices[it.from..it.to].iter().sum();
            it.capacity * (it.profit - spanned).max(0)
        });
        prop_assert!(jumps.iter().zip(&amounts).all(|(it, a)| (0..=it.capacity).contains(a)));
        prop_assert_eq!(profit, capacity_cost + excess.sum::<i64>());
    }
}

#[test]
fn the_built_in_traces_pass_the_checks_and_are_the_same_every_time() {
    let again = built_in(400);
    for (case, again) in built_in(400).iter().zip(&again) {
        assert!(case.trace == again.trace, "{}", case.name);
        check_outcomes(&case.trace, default_budget(&case.trace));
    }
}

#[test]
fn a_model_larger_than_the_budget_is_refused() {
    let trace = Trace::parse("small 1 1\nlarge 10 1\n").unwrap();
    let error = replay(&trace, 9, &mut OnlinePolicy::new(PolicyKind::Gdsf, &trace)).unwrap_err();
    assert_eq!(error.to_string(), "request 1 does not fit into 9 bytes");
}
