//! The closed loop of all peers in Rust: each caller sends a request, waits for the answer, and sends the
//! next one. The peers in JavaScript have the same in `peers/node/closed_loop.js`.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::plan::{Outcome, Plan};
use crate::Error;
use crate::random::Random;
use crate::sample::Samples;

/// Why a request counts as failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the value does not belong to the key")]
    WrongAnswer,
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    #[expect(clippy::needless_pass_by_value, reason = "as map_err has it")]
    pub(super) fn new(error: impl ToString) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Fails unless the answer is correct.
pub(super) fn check(is_correct: bool) -> Result<(), Failure> {
    is_correct.then_some(()).ok_or(Failure::WrongAnswer)
}

/// One caller's counts.
#[derive(Default)]
struct CallerCounts {
    latencies: Vec<Duration>,
    requests: u64,
    failures: u64,
    first_failure: Option<String>,
}

/// Runs the callers of `plan`. Calls `on_begin` when the measured time begins.
pub(super) async fn run<F, Fut>(
    plan: &Plan,
    on_begin: impl FnOnce(),
    request: F,
) -> Result<Outcome, Error>
where
    F: Fn(i64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let begin = Instant::now() + Duration::from_millis(plan.warm_up_ms);
    let end = begin + Duration::from_millis(plan.measured_ms);
    let mut callers = JoinSet::new();
    for caller in 0..plan.callers {
        let random = Random::new(plan.seed.wrapping_add(caller));
        callers.spawn(call(random, plan.keys, begin..end, request.clone()));
    }
    tokio::time::sleep_until(begin.into()).await;
    on_begin();
    let mut all = CallerCounts::default();
    while let Some(counts) = callers.join_next().await {
        let panicked = |error| Error::Program(format!("a caller panicked: {error}"));
        let counts = counts.map_err(panicked)?;
        all.latencies.extend(counts.latencies);
        all.requests += counts.requests;
        all.failures += counts.failures;
        all.first_failure = all.first_failure.or(counts.first_failure);
    }
    Ok(all.outcome(end - begin))
}

async fn call<F, Fut>(
    mut random: Random,
    keys: u32,
    measured: std::ops::Range<Instant>,
    request: F,
) -> CallerCounts
where
    F: Fn(i64) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let mut counts = CallerCounts::default();
    loop {
        let sent = Instant::now();
        if sent >= measured.end {
            return counts;
        }
        // Below the number of keys, so it fits.
        let key = 1 + (random.next() % u64::from(keys)) as i64;
        let answer = request(key).await;
        let answered = Instant::now();
        match answer {
            Ok(()) => {
                counts.requests += 1;
                if measured.contains(&answered) {
                    counts.latencies.push(answered - sent);
                }
            }
            Err(failure) => {
                counts.failures += 1;
                counts
                    .first_failure
                    .get_or_insert_with(|| failure.to_string());
                // A pool that refuses at once must not keep this task from yielding.
                tokio::task::yield_now().await;
            }
        }
    }
}

impl CallerCounts {
    fn outcome(self, measured: Duration) -> Outcome {
        let answers = self.latencies.len() as u64;
        let latencies = Samples::of_times(self.latencies);
        Outcome {
            answers,
            failures: self.failures,
            first_failure: self.first_failure,
            requests: self.requests,
            seconds: measured.as_secs_f64(),
            p50_ms: latencies.median(),
            p99_ms: latencies.at(0.99),
            p999_ms: latencies.at(0.999),
            max_ms: latencies.at(1.0),
        }
    }
}
