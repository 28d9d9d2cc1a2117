//! The requests of each model: how many had outputs, and how long they took.
//!
//! The status of the server shows them, so they are read without an actor. One lock for all is enough, unlike
//! for HTTP requests (`latency.rs`): each of these requests passes through the one thread of the actors, which
//! costs it far more.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headroom_actors::kernel::{Merge, Rolling};
use tokio::time::Instant;

use super::latency::Latencies;
use super::{FIVE_MINUTES, MINUTE};

/// Models that are remembered. The one that was not used for the longest time is forgotten first.
const MODELS_MAX: usize = 512;

/// The requests of one model that had outputs, since the server started. The latencies reach from when the body
/// was read and parsed to the outputs, so the wait for a load is part of them. They are those of the last 5 minutes, or of
/// all requests if there was none in that time, and up to a sixteenth too large.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelRequests {
    /// How many there were.
    pub total: u64,
    /// Half of the requests took no longer.
    pub p50_ms: f64,
    /// 99 % of the requests took no longer.
    pub p99_ms: f64,
}

/// The requests of all models.
#[derive(Debug, Default)]
pub struct ModelFigures(Mutex<BTreeMap<String, Model>>);

#[derive(Debug)]
struct Model {
    last: Instant,
    since_start: Latencies,
    recent: Rolling<Latencies>,
}

impl Model {
    fn new() -> Self {
        Self {
            last: Instant::now(),
            since_start: Latencies::default(),
            recent: Rolling::new(MINUTE, FIVE_MINUTES),
        }
    }

    fn record(&mut self, latency: &Latencies) {
        self.last = Instant::now();
        self.since_start.merge(latency);
        self.recent.add(latency);
    }

    fn requests(&self) -> Option<ModelRequests> {
        let recent = self.recent.last(FIVE_MINUTES).sum;
        let quantile = |quantile| {
            let recent = recent.quantile_ms(quantile);
            recent.or_else(|| self.since_start.quantile_ms(quantile))
        };
        Some(ModelRequests {
            total: self.since_start.count(),
            p50_ms: quantile(0.50)?,
            p99_ms: quantile(0.99)?,
        })
    }
}

impl ModelFigures {
    /// Takes note of a request for `model` that had outputs after `latency`.
    pub fn record(&self, model: &str, latency: Duration) {
        let latency = Latencies::coarse(latency);
        let mut models = self.models();
        if let Some(known) = models.get_mut(model) {
            return known.record(&latency);
        }
        if models.len() >= MODELS_MAX {
            let unused = models.iter().min_by_key(|(_, model)| model.last);
            if let Some(unused) = unused.map(|(name, _)| name.clone()) {
                models.remove(&unused);
            }
        }
        let model = models.entry(model.to_owned());
        model.or_insert_with(Model::new).record(&latency);
    }

    /// The requests for `model`. `None` before the first one.
    pub fn requests(&self, model: &str) -> Option<ModelRequests> {
        self.models().get(model)?.requests()
    }

    fn models(&self) -> MutexGuard<'_, BTreeMap<String, Model>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn the_quantiles_are_those_of_the_last_minutes_and_of_all_requests_without_any() {
        let figures = ModelFigures::default();
        assert_eq!(figures.requests("a:1"), None);
        for _ in 0..10 {
            figures.record("a:1", 100 * MS);
        }
        advance(10 * MINUTE).await;
        for _ in 0..5 {
            figures.record("a:1", 10 * MS);
        }
        figures.record("b:1", MS);
        let near = |seen: f64, ms: f64| seen >= ms && seen <= ms * 17.0 / 16.0;
        let seen = figures.requests("a:1").unwrap();
        assert_eq!(seen.total, 15);
        assert!(near(seen.p50_ms, 10.0), "{seen:?}");
        assert!(near(seen.p99_ms, 10.0), "{seen:?}");
        advance(10 * MINUTE).await;
        let seen = figures.requests("a:1").unwrap();
        assert!(near(seen.p50_ms, 100.0), "{seen:?}");
        assert_eq!(figures.requests("b:1").unwrap().total, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_model_that_was_not_used_for_the_longest_time_is_forgotten_first() {
        let figures = ModelFigures::default();
        for number in 0..MODELS_MAX {
            figures.record(&format!("model:{number}"), MS);
            advance(MS).await;
        }
        figures.record("model:0", MS);
        figures.record("new:1", MS);
        assert_eq!(figures.models().len(), MODELS_MAX);
        assert_eq!(figures.requests("model:1"), None);
        for known in ["model:0", "new:1"] {
            assert!(figures.requests(known).is_some(), "{known}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_different_latencies_of_a_model_are_held_in_few_bytes() {
        let mut model = Model::new();
        for micros in (100..100_000).step_by(7) {
            model.record(&Latencies::coarse(Duration::from_micros(micros)));
        }
        // Ten doublings, and sixteen buckets for each.
        let buckets = model.since_start.buckets();
        assert!(buckets <= 11 * 16, "{buckets}");
    }
}
