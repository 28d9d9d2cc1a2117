//! Callers that each ask, wait for the answer, and ask again: what every peer in Rust is measured
//! with. The peers in JavaScript have the same in `peers/node/closed_loop.js`.

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
    #[error("the answer is not the one of the key")]
    Wrong,
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    /// For `map_err`.
    #[expect(clippy::needless_pass_by_value, reason = "as map_err has it")]
    pub(super) fn of(error: impl ToString) -> Self {
        Self::Refused(error.to_string())
    }
}

/// `Ok` if `is_right`.
pub(super) fn right(is_right: bool) -> Result<(), Failure> {
    is_right.then_some(()).ok_or(Failure::Wrong)
}

/// What one caller saw.
#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    requests: u64,
    failures: u64,
    first_failure: Option<String>,
}

/// Asks as `plan` says; `begun` is called when the measured time begins.
pub(super) async fn run<F, Fut>(plan: &Plan, begun: impl FnOnce(), ask: F) -> Result<Outcome, Error>
where
    F: Fn(i64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let begin = Instant::now() + Duration::from_millis(plan.warm_up_ms);
    let end = begin + Duration::from_millis(plan.measured_ms);
    let mut callers = JoinSet::new();
    for caller in 0..plan.callers {
        let random = Random::new(plan.seed.wrapping_add(caller));
        callers.spawn(call(random, plan.keys, begin..end, ask.clone()));
    }
    tokio::time::sleep_until(begin.into()).await;
    begun();
    let mut all = Seen::default();
    while let Some(seen) = callers.join_next().await {
        let died = |error| Error::Program(format!("a caller died: {error}"));
        let seen = seen.map_err(died)?;
        all.latencies.extend(seen.latencies);
        all.requests += seen.requests;
        all.failures += seen.failures;
        all.first_failure = all.first_failure.or(seen.first_failure);
    }
    Ok(all.outcome(end - begin))
}

async fn call<F, Fut>(
    mut random: Random,
    keys: u32,
    measured: std::ops::Range<Instant>,
    ask: F,
) -> Seen
where
    F: Fn(i64) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let mut seen = Seen::default();
    loop {
        let asked = Instant::now();
        if asked >= measured.end {
            return seen;
        }
        // Below the number of keys, so it fits.
        let key = 1 + (random.next() % u64::from(keys)) as i64;
        let answer = ask(key).await;
        let answered = Instant::now();
        match answer {
            Ok(()) => {
                seen.requests += 1;
                if measured.contains(&answered) {
                    seen.latencies.push(answered - asked);
                }
            }
            Err(failure) => {
                seen.failures += 1;
                seen.first_failure
                    .get_or_insert_with(|| failure.to_string());
                // A pool that refuses at once must not be asked in a loop without an end.
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Seen {
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
