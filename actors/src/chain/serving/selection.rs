//! Which provider is asked first.
//!
//! Each provider that can serve a call has a score, a weighted sum of what speaks against it; the lowest is best. The
//! present first choice keeps its place until another one is better by a share (hysteresis): otherwise equal providers
//! would take turns with each answer.

use std::time::Duration;

use crate::chain::config::SelectionConfig;
use crate::chain::provider::Standing;

/// A latency counts as so many times the best one at most.
const LATENCY_RATIO_MAX: f64 = 10.0;
/// Differences of latency below this do not count.
const LATENCY_FLOOR: Duration = Duration::from_millis(2);
/// What is added to the score of a provider that has calls and does not answer.
const STALLED: f64 = 100.0;
/// Scores differ at least by so much before the first choice changes, also near 0.
const DIFFERENCE_MIN: f64 = 0.02;

/// A provider that can serve a call.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// Its index in the chain.
    pub(super) index: usize,
    /// How it does.
    pub(super) standing: Standing,
    /// How many blocks it is behind the chain's head.
    pub(super) lag: u64,
    /// What a call costs.
    pub(super) cost: f64,
    /// Whether it has calls and does not answer.
    pub(super) is_stalled: bool,
}

/// A candidate with its score.
#[derive(Debug, Clone)]
pub(super) struct Ranked {
    /// The candidate.
    pub(super) candidate: Candidate,
    /// 0 is best.
    pub(super) score: f64,
}

/// The candidates, best first. `first` is the index of the present first choice.
pub(super) fn rank(
    candidates: Vec<Candidate>,
    config: &SelectionConfig,
    first: Option<usize>,
) -> Vec<Ranked> {
    let known = candidates.iter().filter_map(|it| it.standing.latency);
    let best = known.min().unwrap_or_default().max(LATENCY_FLOOR);
    let dearest = candidates.iter().map(|it| it.cost).fold(0.0, f64::max);
    let score = |candidate: &Candidate| {
        let standing = &candidate.standing;
        // A provider that nobody has asked is as good as the best, so that it is asked.
        let latency = standing.latency.unwrap_or(best).max(best).as_secs_f64();
        let ratio = (latency / best.as_secs_f64()).min(LATENCY_RATIO_MAX);
        let lag = candidate.lag as f64 / config.lag_max.max(1) as f64;
        let cost = if dearest > 0.0 {
            candidate.cost / dearest
        } else {
            0.0
        };
        let stalled = if candidate.is_stalled { STALLED } else { 0.0 };
        stalled
            + config.latency_weight * (ratio - 1.0) / (LATENCY_RATIO_MAX - 1.0)
            + config.errors_weight * standing.error_rate
            + config.lag_weight * lag.min(1.0)
            + config.cost_weight * cost
            + config.throttling_weight * standing.throttle_rate
    };
    let ranked = candidates.into_iter().map(|candidate| Ranked {
        score: score(&candidate),
        candidate,
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by(|a, b| a.score.total_cmp(&b.score));
    let present = ranked
        .iter()
        .position(|it| Some(it.candidate.index) == first);
    if let Some(present) = present {
        let (score, best) = (ranked[present].score, ranked[0].score);
        let is_better = best < score * (1.0 - config.hysteresis) && best + DIFFERENCE_MIN < score;
        if !is_better {
            ranked[..=present].rotate_right(1);
        }
    }
    ranked
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::chain::tests::selection;

    fn candidate(index: usize, latency_ms: u64, error_rate: f64, lag: u64) -> Candidate {
        let standing = Standing {
            latency: Some(Duration::from_millis(latency_ms)),
            error_rate,
            ..Standing::default()
        };
        Candidate {
            index,
            standing,
            lag,
            cost: 1.0,
            is_stalled: false,
        }
    }

    fn order(candidates: Vec<Candidate>, first: Option<usize>) -> Vec<usize> {
        let ranked = rank(candidates, &selection(), first);
        ranked.iter().map(|it| it.candidate.index).collect()
    }

    #[test]
    fn the_better_provider_is_first() {
        let fast = candidate(0, 20, 0.0, 0);
        for worse in [
            candidate(1, 200, 0.0, 0),
            candidate(1, 20, 0.3, 0),
            candidate(1, 20, 0.0, 3),
        ] {
            assert_eq!(order(vec![worse.clone(), fast.clone()], None), [0, 1]);
            // Also if it was not before.
            assert_eq!(order(vec![worse, fast.clone()], Some(1)), [0, 1]);
        }
        let mut dear = candidate(1, 20, 0.0, 0);
        dear.cost = 5.0;
        assert_eq!(order(vec![dear, fast.clone()], None), [0, 1]);
        let mut throttled = candidate(1, 20, 0.0, 0);
        throttled.standing.throttle_rate = 0.5;
        assert_eq!(order(vec![throttled, fast.clone()], None), [0, 1]);
        let mut stalled = fast.clone();
        stalled.is_stalled = true;
        assert_eq!(
            order(vec![stalled, candidate(1, 999, 0.5, 9)], Some(0)),
            [1, 0]
        );
    }

    #[test]
    fn the_first_choice_changes_only_for_a_clear_advantage() {
        let (present, other) = (candidate(0, 24, 0.0, 0), candidate(1, 20, 0.0, 0));
        assert_eq!(order(vec![present, other.clone()], Some(0)), [0, 1]);
        let slow = candidate(0, 100, 0.0, 0);
        assert_eq!(order(vec![slow, other], Some(0)), [1, 0]);
    }

    #[test]
    fn a_provider_that_was_never_asked_gets_its_chance() {
        let mut new = candidate(1, 0, 0.0, 0);
        new.standing.latency = None;
        assert_eq!(order(vec![candidate(0, 80, 0.0, 0), new], None).len(), 2);
        let ranked = rank(
            vec![candidate(0, 80, 0.1, 0), {
                let mut new = candidate(1, 0, 0.0, 0);
                new.standing.latency = None;
                new
            }],
            &selection(),
            None,
        );
        assert_eq!(ranked[0].candidate.index, 1);
    }

    proptest! {
        #[test]
        fn every_candidate_is_ranked_once(
            parts in prop::collection::vec((0..1000u64, 0.0..1.0f64, 0..100u64, 0.0..10.0f64, any::<bool>()), 1..8),
            first in prop::option::of(0..8usize),
        ) {
            let candidates = parts.iter().enumerate().map(|(index, part)| Candidate {
                cost: part.3,
                is_stalled: part.4,
                ..candidate(index, part.0, part.1, part.2)
            });
            let mut ranked = order(candidates.collect(), first);
            ranked.sort_unstable();
            prop_assert_eq!(ranked, (0..parts.len()).collect::<Vec<_>>());
        }
    }
}
