//! The closed loop of all peers in Rust: each caller sends a request, waits for the answer, and sends the
//! next one. The peers in JavaScript have the same in `peers/node/closed_loop.js`.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::peers::Client;
use crate::random::Random;
use crate::sample::Samples;
use crate::{Error, Result};

/// What a peer's process does.
#[derive(Serialize, Deserialize)]
pub(super) struct Plan {
    /// The server's URL, with the password.
    pub(super) url: String,
    pub(super) callers: u64,
    /// Keys are from 1 to this number.
    pub(super) keys: u32,
    pub(super) connections_max: u32,
    pub(super) warm_up_ms: u64,
    pub(super) measured_ms: u64,
    /// How long each request may take.
    pub(super) deadline_ms: u64,
    pub(super) seed: u64,
}

impl Plan {
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}

/// What a peer's process prints.
#[derive(Serialize, Deserialize)]
pub(super) struct Outcome {
    /// Correct answers within the measured time.
    pub(super) answers: u64,
    /// Correct answers, the warm-up included.
    pub(super) requests: u64,
    /// Requests without an answer or with a wrong one, the warm-up included.
    pub(super) failures: u64,
    /// Why the first of these failed.
    pub(super) first_failure: Option<String>,
    /// The measured time.
    pub(super) seconds: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// Bytes of each value.
pub(super) const VALUE_BYTES: usize = 100;

/// The value of a key. It follows from the key, so that every answer can be checked.
fn value(key: i64) -> String {
    format!("{key:0>VALUE_BYTES$}")
}

/// One caller's counts.
#[derive(Default)]
struct CallerCounts {
    latencies: Vec<Duration>,
    requests: u64,
    failures: u64,
    first_failure: Option<String>,
}

/// Runs the callers of `plan` on threads of their own.
pub(super) fn run<C: Client>(plan: &Plan) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let all = runtime.block_on(async {
        let client = Arc::new(C::start(plan).await?);
        let begin = Instant::now() + Duration::from_millis(plan.warm_up_ms);
        let end = begin + Duration::from_millis(plan.measured_ms);
        let mut callers = JoinSet::new();
        for caller in 0..plan.callers {
            let random = Random::new(plan.seed + caller);
            let client = Arc::clone(&client);
            callers.spawn(call(client, random, plan.keys, plan.deadline(), begin..end));
        }
        let mut all = CallerCounts::default();
        for counts in callers.join_all().await {
            all.latencies.extend(counts.latencies);
            all.requests += counts.requests;
            all.failures += counts.failures;
            all.first_failure = all.first_failure.or(counts.first_failure);
        }
        Ok::<_, Error>(all)
    })?;
    let answers = all.latencies.len() as u64;
    if answers == 0 {
        let why = all.first_failure.unwrap_or_default();
        return Err(format!("no answer within the measured time: {why}").into());
    }
    let latencies = Samples::of_times(all.latencies);
    Ok(Outcome {
        answers,
        requests: all.requests,
        failures: all.failures,
        first_failure: all.first_failure,
        seconds: Duration::from_millis(plan.measured_ms).as_secs_f64(),
        p50_ms: latencies.median(),
        p99_ms: latencies.at(0.99),
    })
}

async fn call<C: Client>(
    client: Arc<C>,
    mut random: Random,
    keys: u32,
    deadline: Duration,
    measured: Range<Instant>,
) -> CallerCounts {
    let mut counts = CallerCounts::default();
    loop {
        let sent = Instant::now();
        if sent >= measured.end {
            return counts;
        }
        let key = 1 + (random.next() % u64::from(keys)).cast_signed();
        let failure = match tokio::time::timeout(deadline, client.request(key)).await {
            Ok(Ok(found)) if found == value(key) => {
                counts.requests += 1;
                let answered = Instant::now();
                if measured.contains(&answered) {
                    counts.latencies.push(answered - sent);
                }
                continue;
            }
            Ok(Ok(_)) => "the value does not belong to the key".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer within the deadline".to_owned(),
        };
        counts.failures += 1;
        counts.first_failure.get_or_insert(failure);
        // A pool that refuses at once must not keep this task from yielding.
        tokio::task::yield_now().await;
    }
}
