//! What each peer does, and what it reports. Peers in Rust run the closed loop of `headroom-measure`; those
//! in JavaScript have the same in `peers/node/closed_loop.js`.

use std::sync::Arc;
use std::time::Duration;

use headroom_measure::{Failure, Items, Latencies, Meter, Pace, Workload};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::peers::Client;
use crate::{Error, Result};

/// What a peer's process does.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The server's URL, with the password.
    pub(super) url: String,
    pub(super) callers: u32,
    /// Keys are from 1 to this number.
    pub(super) keys: u32,
    pub(super) connections_max: u32,
    pub(super) warm_up_ms: u64,
    pub(super) measured_ms: u64,
    /// How long each request may take.
    pub(super) deadline_ms: u64,
    pub(super) seed: u64,
    /// Each request whose number this divides is a slow one. 0: none is.
    pub(super) slow_every: u64,
}

impl Plan {
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    /// What callers do for a time in milliseconds.
    fn workload(&self, for_ms: u64) -> Workload {
        Workload {
            callers: self.callers,
            operations: u64::MAX,
            time: Duration::from_millis(for_ms),
            each: self.deadline(),
            pace: Pace::Closed,
        }
    }
}

/// What a peer's process prints.
#[derive(Serialize, Deserialize)]
pub(super) struct Outcome {
    /// Correct answers after the warm-up.
    pub(super) answers: u64,
    /// Correct answers, the warm-up included.
    pub(super) requests: u64,
    /// Requests without an answer or with a wrong one, the warm-up included.
    pub(super) failures: u64,
    /// Why the first of these failed.
    pub(super) first_failure: Option<String>,
    /// The measured time.
    pub(super) seconds: f64,
    /// Of the correct answers after the warm-up.
    pub(super) latency: Latencies,
}

/// The items of all peers.
pub(super) fn items(keys: u32) -> Items {
    Items::new("item", keys)
}

/// Runs the callers of `plan` on threads of their own.
pub(super) fn run<C: Client>(plan: &Plan) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let (warm_up, measured) = runtime.block_on(async {
        let client = Arc::new(C::start(plan).await?);
        let warm_up = measure(&client, plan, plan.warm_up_ms).await;
        let measured = measure(&client, plan, plan.measured_ms).await;
        Ok::<_, Error>((warm_up.figures(), measured.figures()))
    })?;
    let first_failure = warm_up.first_error.or(measured.first_error);
    let Some(latency) = measured.latency else {
        let why = first_failure.unwrap_or_default();
        return Err(format!("no answer within the measured time: {why}").into());
    };
    Ok(Outcome {
        answers: measured.succeeded,
        requests: warm_up.succeeded + measured.succeeded,
        failures: warm_up.failed + measured.failed,
        first_failure,
        seconds: measured.took_seconds,
        latency,
    })
}

/// Lets the callers request items for a time in milliseconds.
async fn measure<C: Client>(client: &Arc<C>, plan: &Plan, for_ms: u64) -> Arc<Meter> {
    let meter = Arc::new(Meter::default());
    let (client, items, seed) = (Arc::clone(client), items(plan.keys), plan.seed);
    let slow_every = plan.slow_every;
    let request = move |number: u64| {
        let key = items.key(seed.wrapping_add(number));
        let is_slow = number.checked_rem(slow_every) == Some(0);
        let client = Arc::clone(&client);
        async move {
            let failed = |error: Error| Failure::new("error", error.to_string());
            if is_slow {
                return client.slow_request().await.map_err(failed);
            }
            let found = client.request(key).await.map_err(failed)?;
            Items::check(key, &found)
        }
    };
    let stop = CancellationToken::new();
    headroom_measure::run(plan.workload(for_ms), &meter, &stop, request).await;
    meter
}
