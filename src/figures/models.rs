//! The requests of each model: how many had outputs, how long they took, and where the time went.
//!
//! The status of the server shows them, so they are read without an actor. One lock for all is enough, unlike
//! for HTTP requests (`latency.rs`): each of these requests passes through the one thread of the actors, which
//! costs it far more.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use actix_web::http::StatusCode;
use headroom_actors::kernel::{Merge, Rolling};
use headroom_actors::model::InferOutput;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::latency::Latencies;
use super::{FIVE_MINUTES, MINUTE};

/// Models that are remembered. The one that was not used for the longest time is forgotten first.
pub const MODELS_MAX: usize = 500;

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

/// What becomes of a request for a model that was found, by the class of its status.
pub const OUTCOMES: [&str; 3] = ["2xx", "4xx", "5xx"];

/// The requests of one model since the server started, for Prometheus.
#[derive(Debug, Clone)]
pub struct ModelTotals {
    /// The model.
    pub name: String,
    /// How many requests there were, in the order of [`OUTCOMES`].
    pub outcomes: [u64; OUTCOMES.len()],
    /// How long those took that had outputs.
    pub latencies: Latencies,
}

/// A count, and the time of all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Durations {
    /// How many there were.
    pub count: u64,
    /// The time of all together, in nanoseconds.
    pub ns: u64,
}

impl Durations {
    fn add(&mut self, duration: Duration) {
        self.count += 1;
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.ns = self.ns.saturating_add(ns);
    }
}

/// One request that had outputs.
#[derive(Debug, Clone, Copy)]
pub struct Inference {
    latency: Duration,
    rows: u64,
    input: Duration,
    forward: Duration,
    output: Duration,
}

impl Inference {
    /// A request with outputs after `latency`, for a batch of `rows`.
    pub fn new(latency: Duration, rows: u64, output: &InferOutput) -> Self {
        Self {
            latency,
            rows,
            input: output.input,
            forward: Duration::from_micros(output.forward_us),
            output: output.output,
        }
    }

    /// The time before an instance of the model got the request.
    fn queue(&self) -> Duration {
        let later = self.input.saturating_add(self.forward);
        self.latency
            .saturating_sub(later.saturating_add(self.output))
    }
}

/// Where the time of requests went after an instance got them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compute {
    /// Until `forward` began.
    pub input: Durations,
    /// In `forward`.
    pub forward: Durations,
    /// Until the server had the outputs.
    pub output: Durations,
}

impl Compute {
    fn add(&mut self, inference: &Inference) {
        self.input.add(inference.input);
        self.forward.add(inference.forward);
        self.output.add(inference.output);
    }
}

/// Sizes of batches of a model that are told apart. Later ones are not.
const BATCH_SIZES_MAX: usize = 32;

/// What became of the requests of one model since the server started, and where their time went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelStatistics {
    /// When the last request had its outputs.
    pub last: Option<SystemTime>,
    /// The rows of all batches. A request to a model without batches counts as one.
    pub inferences: u64,
    /// The requests that had outputs.
    pub success: Durations,
    /// Those that had none.
    pub fail: Durations,
    /// Before an instance got the request. The load of the model is a part of it.
    pub queue: Durations,
    /// After that.
    pub compute: Compute,
    /// The same for each number of rows.
    pub batches: BTreeMap<u64, Compute>,
}

impl ModelStatistics {
    fn record(&mut self, inference: &Inference) {
        self.last = Some(SystemTime::now());
        self.inferences = self.inferences.saturating_add(inference.rows);
        self.success.add(inference.latency);
        self.queue.add(inference.queue());
        self.compute.add(inference);
        let is_known = self.batches.contains_key(&inference.rows);
        if is_known || self.batches.len() < BATCH_SIZES_MAX {
            self.batches
                .entry(inference.rows)
                .or_default()
                .add(inference);
        }
    }
}

/// The requests of all models.
#[derive(Debug, Default)]
pub struct ModelFigures(Mutex<BTreeMap<String, Model>>);

#[derive(Debug)]
struct Model {
    last: Instant,
    since_start: Latencies,
    recent: Rolling<Latencies>,
    statistics: ModelStatistics,
    /// Of the requests without outputs, those that the server is to blame for.
    server_errors: u64,
}

impl Model {
    fn new() -> Self {
        Self {
            last: Instant::now(),
            since_start: Latencies::default(),
            recent: Rolling::new(MINUTE, FIVE_MINUTES),
            statistics: ModelStatistics::default(),
            server_errors: 0,
        }
    }

    fn record(&mut self, inference: &Inference) {
        let latency = Latencies::coarse(inference.latency);
        self.since_start.merge(&latency);
        self.recent.add(&latency);
        self.statistics.record(inference);
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
    /// Takes note of a request for `model` that had outputs.
    pub fn record(&self, model: &str, inference: &Inference) {
        self.change(model, |model| model.record(inference));
    }

    /// Takes note of a request for `model` that failed after `latency`, with this status.
    pub fn record_failure(&self, model: &str, latency: Duration, status: StatusCode) {
        self.change(model, |model| {
            model.statistics.fail.add(latency);
            model.server_errors += u64::from(status.is_server_error());
        });
    }

    /// The requests of each model that is remembered.
    pub fn totals(&self) -> Vec<ModelTotals> {
        let models = self.models();
        let totals = models.iter().map(|(name, model)| {
            let statistics = &model.statistics;
            let client_errors = statistics.fail.count.saturating_sub(model.server_errors);
            ModelTotals {
                name: name.clone(),
                outcomes: [statistics.success.count, client_errors, model.server_errors],
                latencies: model.since_start.clone(),
            }
        });
        totals.collect()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Model)) {
        let mut models = self.models();
        if !models.contains_key(name) && models.len() >= MODELS_MAX {
            let unused = models.iter().min_by_key(|(_, model)| model.last);
            if let Some(unused) = unused.map(|(name, _)| name.clone()) {
                models.remove(&unused);
            }
        }
        let model = match models.get_mut(name) {
            Some(known) => known,
            None => models.entry(name.to_owned()).or_insert_with(Model::new),
        };
        model.last = Instant::now();
        change(model);
    }

    /// What became of the requests for `model`.
    pub fn statistics(&self, model: &str) -> ModelStatistics {
        let models = self.models();
        models
            .get(model)
            .map(|it| it.statistics.clone())
            .unwrap_or_default()
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

    /// An inference that took as long, of which nothing is known.
    fn took(latency: Duration) -> Inference {
        Inference {
            latency,
            rows: 1,
            input: Duration::ZERO,
            forward: Duration::ZERO,
            output: Duration::ZERO,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn statistics_say_where_the_time_of_requests_went() {
        let figures = ModelFigures::default();
        assert_eq!(figures.statistics("a:1"), ModelStatistics::default());
        let inference = Inference {
            input: MS,
            forward: 2 * MS,
            output: 3 * MS,
            rows: 4,
            ..took(10 * MS)
        };
        figures.record("a:1", &inference);
        figures.record("a:1", &inference);
        figures.record_failure("a:1", 5 * MS, StatusCode::BAD_REQUEST);
        figures.record_failure("b:1", MS, StatusCode::SERVICE_UNAVAILABLE);
        let seen = figures.statistics("a:1");
        let of = |count, ms: u64| Durations {
            count,
            ns: ms * 1_000_000,
        };
        let compute = Compute {
            input: of(2, 2),
            forward: of(2, 4),
            output: of(2, 6),
        };
        let expected = ModelStatistics {
            last: seen.last,
            inferences: 8,
            success: of(2, 20),
            fail: of(1, 5),
            queue: of(2, 8),
            compute,
            batches: BTreeMap::from([(4, compute)]),
        };
        assert_eq!(seen, expected);
        assert!(seen.last.is_some());
        let totals = figures.totals();
        let totals: Vec<_> = totals.iter().map(|it| (&*it.name, it.outcomes)).collect();
        assert_eq!(totals, [("a:1", [2, 1, 0]), ("b:1", [0, 0, 1])]);
        for rows in 10..100 {
            figures.record("a:1", &Inference { rows, ..inference });
        }
        assert_eq!(figures.statistics("a:1").batches.len(), BATCH_SIZES_MAX);
        // Failures alone have no latencies.
        assert_eq!(figures.requests("b:1"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_quantiles_are_those_of_the_last_minutes_and_of_all_requests_without_any() {
        let figures = ModelFigures::default();
        assert_eq!(figures.requests("a:1"), None);
        for _ in 0..10 {
            figures.record("a:1", &took(100 * MS));
        }
        advance(10 * MINUTE).await;
        for _ in 0..5 {
            figures.record("a:1", &took(10 * MS));
        }
        figures.record("b:1", &took(MS));
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
            figures.record(&format!("model:{number}"), &took(MS));
            advance(MS).await;
        }
        figures.record("model:0", &took(MS));
        figures.record("new:1", &took(MS));
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
            model.record(&took(Duration::from_micros(micros)));
        }
        // Ten doublings, and sixteen buckets for each.
        let buckets = model.since_start.buckets();
        assert!(buckets <= 11 * 16, "{buckets}");
    }
}
