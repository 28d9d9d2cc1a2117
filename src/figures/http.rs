//! The requests of the main listener: how many, with what status, and how long they took.
//!
//! A request is counted on its worker thread, with a few additions to memory that few other threads
//! write to ([`HttpCounter`]). What is counted moves to the sums when somebody collects it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::http::StatusCode;
use headroom_actors::kernel::{Merge, Rolling};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::latency::{Latencies, LatencyCounter};
use super::{Windows, recent};
use crate::route_class::RouteClass;

/// Counters at most. With more threads, several share one, so that histograms do not grow with the
/// machine.
const COUNTERS_MAX: usize = 8;

/// What can become of a request, as labels of metrics: the class of the status that was sent, or
/// `abandoned` if the client went away before.
pub const OUTCOMES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", ABANDONED];
const ABANDONED: &str = "abandoned";

/// The statuses that answers have, as labels of metrics. One that is none of them counts as `other`.
pub const STATUSES: [&str; CODES.len() + 1] = [
    "101", "200", "201", "202", "204", "206", "304", "400", "403", "404", "405", "408", "409",
    "410", "412", "413", "415", "416", "417", "421", "422", "423", "429", "431", "460", "500",
    "503", "504", "507", "other",
];
const CODES: [u16; 29] = [
    101, 200, 201, 202, 204, 206, 304, 400, 403, 404, 405, 408, 409, 410, 412, 413, 415, 416, 417,
    421, 422, 423, 429, 431, 460, 500, 503, 504, 507,
];

/// The classes of routes, and one for requests that matched no route.
const CLASSES: usize = RouteClass::ALL.len() + 1;
const UNMATCHED: usize = RouteClass::ALL.len();

/// Where the requests of one or few threads are counted. It shares no cache line with other counters.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct HttpCounter {
    in_flight: AtomicI64,
    classes: [ClassCounter; CLASSES],
}

#[derive(Debug, Default)]
struct ClassCounter {
    outcomes: [AtomicU64; OUTCOMES.len()],
    /// Never reset: only their sum since the start is shown.
    statuses: [AtomicU64; STATUSES.len()],
    latencies: LatencyCounter,
}

impl HttpCounter {
    /// A request has begun. It must end with one of the other calls.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// A request was answered. `class` is `None` if no route matched.
    pub fn answered(&self, class: Option<RouteClass>, status: StatusCode, latency: Duration) {
        self.in_flight.fetch_sub(1, Relaxed);
        let counter = &self.classes[number(class)];
        let outcome = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(count) = counter.outcomes[..OUTCOMES.len() - 1].get(outcome) {
            count.fetch_add(1, Relaxed);
        }
        let known = CODES.binary_search(&status.as_u16());
        if let Some(count) = counter.statuses.get(known.unwrap_or(CODES.len())) {
            count.fetch_add(1, Relaxed);
        }
        counter.latencies.record(latency);
    }

    /// The client of a request went away before it was answered.
    pub fn abandoned(&self, class: Option<RouteClass>) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.classes[number(class)].outcomes[OUTCOMES.len() - 1].fetch_add(1, Relaxed);
    }

    /// Moves what was counted to `sums`.
    fn drain_into(&self, sums: &mut Sums) {
        for (counter, sum) in self.classes.iter().zip(&mut sums.0) {
            for (count, sum) in counter.outcomes.iter().zip(&mut sum.outcomes) {
                *sum += count.swap(0, Relaxed);
            }
            counter.latencies.drain_into(&mut sum.latencies);
        }
    }
}

fn number(class: Option<RouteClass>) -> usize {
    class.map_or(UNMATCHED, |class| class as usize)
}

/// Every class, in the order of their numbers.
fn classes() -> impl Iterator<Item = Option<RouteClass>> {
    RouteClass::ALL.map(Some).into_iter().chain([None])
}

/// The name of a class in answers.
fn label(class: Option<RouteClass>) -> &'static str {
    class.map_or("unmatched", RouteClass::label)
}

/// What was counted of some requests.
#[derive(Debug, Clone, Default)]
struct Sum {
    outcomes: [u64; OUTCOMES.len()],
    latencies: Latencies,
}

impl Merge for Sum {
    fn merge(&mut self, other: &Self) {
        for (sum, other) in self.outcomes.iter_mut().zip(&other.outcomes) {
            sum.merge(other);
        }
        self.latencies.merge(&other.latencies);
    }
}

/// What was counted of the requests of each class.
#[derive(Debug, Clone, Default)]
struct Sums([Sum; CLASSES]);

impl Sums {
    fn all(&self) -> Sum {
        let mut all = Sum::default();
        for sum in &self.0 {
            all.merge(sum);
        }
        all
    }
}

impl Merge for Sums {
    fn merge(&mut self, other: &Self) {
        for (sum, other) in self.0.iter_mut().zip(&other.0) {
            sum.merge(other);
        }
    }
}

/// The figures of all requests.
#[derive(Debug)]
pub struct HttpFigures {
    counters: Vec<Arc<HttpCounter>>,
    next: AtomicUsize,
    collected: Mutex<Collected>,
}

#[derive(Debug)]
struct Collected {
    began: Instant,
    since_start: Sums,
    recent: Rolling<Sums>,
}

impl HttpFigures {
    /// Figures without requests, for `workers` threads.
    pub fn new(workers: usize) -> Self {
        let counters = 0..workers.clamp(1, COUNTERS_MAX);
        Self {
            counters: counters.map(|_| Arc::default()).collect(),
            next: AtomicUsize::new(0),
            collected: Mutex::new(Collected {
                began: Instant::now(),
                since_start: Sums::default(),
                recent: recent(),
            }),
        }
    }

    /// The counter for one more thread.
    pub fn counter(&self) -> Arc<HttpCounter> {
        let next = self.next.fetch_add(1, Relaxed) % self.counters.len();
        Arc::clone(&self.counters[next])
    }

    /// Takes what was counted since the last call into the sums.
    pub fn collect(&self) {
        drop(self.collected());
    }

    fn collected(&self) -> MutexGuard<'_, Collected> {
        let collected = self.collected.lock();
        let mut collected = collected.unwrap_or_else(PoisonError::into_inner);
        let mut fresh = Sums::default();
        for counter in &self.counters {
            counter.drain_into(&mut fresh);
        }
        collected.since_start.merge(&fresh);
        collected.recent.add(&fresh);
        collected
    }

    /// Requests in progress.
    pub fn in_flight(&self) -> i64 {
        let counters = self.counters.iter();
        let in_flight: i64 = counters.map(|it| it.in_flight.load(Relaxed)).sum();
        // Another thread may end a request between two reads.
        in_flight.max(0)
    }

    /// The figures now.
    pub fn status(&self) -> HttpStatus {
        let collected = self.collected();
        HttpStatus {
            in_flight: self.in_flight(),
            since_start: Traffic::of(&collected.since_start, collected.began.elapsed()),
            recent: Windows::of(|window| {
                let window = collected.recent.last(window);
                Traffic::of(&window.sum, window.covers)
            }),
        }
    }

    /// The answers since the server started: for each class of route, the number of each of [`STATUSES`].
    pub fn statuses(&self) -> Vec<(&'static str, [u64; STATUSES.len()])> {
        let statuses = classes().map(|class| {
            let mut counts = [0; STATUSES.len()];
            for counter in &self.counters {
                let statuses = &counter.classes[number(class)].statuses;
                for (sum, count) in counts.iter_mut().zip(statuses) {
                    *sum += count.load(Relaxed);
                }
            }
            (label(class), counts)
        });
        statuses.collect()
    }

    /// The requests since the server started, by class of route.
    pub fn totals(&self) -> Vec<ClassTotals> {
        let sums = self.collected().since_start.clone();
        let totals = classes().zip(sums.0).map(|(class, sum)| ClassTotals {
            class: label(class),
            outcomes: OUTCOMES.into_iter().zip(sum.outcomes).collect(),
            latencies: sum.latencies,
        });
        totals.collect()
    }
}

/// The requests of one class of routes since the server started.
#[derive(Debug, Clone)]
pub struct ClassTotals {
    /// The class.
    pub class: &'static str,
    /// How many requests had each outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// How long those took that were answered.
    pub latencies: Latencies,
}

/// The requests of the main listener.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HttpStatus {
    /// Requests in progress, this one included.
    pub in_flight: i64,
    /// Since the server started.
    pub since_start: Traffic,
    /// In the last minutes.
    #[serde(flatten)]
    pub recent: Windows<Traffic>,
}

/// The requests of some time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Traffic {
    /// The time.
    pub covers_seconds: f64,
    /// Requests that ended, for each second of it.
    pub requests_per_second: f64,
    /// All requests.
    #[serde(flatten)]
    pub all: Requests,
    /// The requests of each class of routes: `status`, `work`, `control`, and `unmatched` for requests
    /// that no route matched.
    pub classes: BTreeMap<&'static str, Requests>,
}

/// Requests that ended. Latencies reach from a request's head to its response's head. They are up to a
/// hundredth too large, and null without requests.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Requests {
    /// How many there were.
    pub requests_total: u64,
    /// How many of them were answered with a status of 500 or more.
    pub errors_total: u64,
    /// How many there were by class of status: `1xx` to `5xx`, and `abandoned` for those whose client
    /// went away before the response.
    pub outcomes_total: BTreeMap<&'static str, u64>,
    /// Half of the latencies are not greater.
    pub p50_ms: Option<f64>,
    /// 90 % of the latencies are not greater.
    pub p90_ms: Option<f64>,
    /// 99 % of the latencies are not greater.
    pub p99_ms: Option<f64>,
    /// The greatest latency.
    pub max_ms: Option<f64>,
}

impl Traffic {
    fn of(sums: &Sums, covers: Duration) -> Self {
        let all = Requests::of(&sums.all());
        let seconds = covers.as_secs_f64();
        Self {
            covers_seconds: seconds,
            requests_per_second: if seconds > 0.0 {
                all.requests_total as f64 / seconds
            } else {
                0.0
            },
            all,
            classes: classes()
                .zip(&sums.0)
                .map(|(class, sum)| (label(class), Requests::of(sum)))
                .collect(),
        }
    }
}

impl Requests {
    fn of(sum: &Sum) -> Self {
        let outcomes: BTreeMap<_, _> = OUTCOMES.into_iter().zip(sum.outcomes).collect();
        let quantile = |quantile| sum.latencies.quantile_ms(quantile);
        Self {
            requests_total: sum.outcomes.iter().sum(),
            errors_total: outcomes["5xx"],
            outcomes_total: outcomes,
            p50_ms: quantile(0.50),
            p90_ms: quantile(0.90),
            p99_ms: quantile(0.99),
            max_ms: quantile(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::problem::ProblemKind;

    const MS: Duration = Duration::from_millis(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn requests(traffic: &Traffic, class: Option<RouteClass>) -> &Requests {
        &traffic.classes[label(class)]
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_counts_in_its_class_its_outcome_and_its_windows() {
        let figures = HttpFigures::new(2);
        let counters = [figures.counter(), figures.counter()];
        for counter in &counters {
            counter.begin();
            counter.answered(Some(RouteClass::Work), StatusCode::OK, 20 * MS);
        }
        counters[0].begin();
        counters[0].answered(
            Some(RouteClass::Status),
            StatusCode::SERVICE_UNAVAILABLE,
            MS,
        );
        counters[1].begin();
        counters[1].abandoned(Some(RouteClass::Control));
        counters[1].begin();
        let status = figures.status();
        assert_eq!(status.in_flight, 1);
        let traffic = &status.since_start;
        assert_eq!(
            (traffic.all.requests_total, traffic.all.errors_total),
            (4, 1)
        );
        assert_eq!(traffic.all.outcomes_total["abandoned"], 1);
        let work = requests(traffic, Some(RouteClass::Work));
        assert_eq!(work.outcomes_total["2xx"], 2);
        assert!(work.p50_ms.is_some_and(|ms| (20.0..20.2).contains(&ms)));
        assert_eq!(requests(traffic, Some(RouteClass::Control)).p50_ms, None);
        assert_eq!(requests(traffic, None).requests_total, 0);
        assert_eq!(status.recent.last_1_minute.all, traffic.all);

        advance(2 * MINUTE).await;
        let status = figures.status();
        assert_eq!(status.recent.last_1_minute.all.requests_total, 0);
        assert_eq!(status.recent.last_5_minutes.all.requests_total, 4);
        advance(4 * MINUTE).await;
        let status = figures.status();
        assert_eq!(status.recent.last_5_minutes.all.requests_total, 0);
        assert_eq!(status.recent.last_15_minutes.all.requests_total, 4);
        advance(10 * MINUTE).await;
        let status = figures.status();
        assert_eq!(status.recent.last_15_minutes.all.requests_total, 0);
        assert_eq!(status.since_start.all.requests_total, 4);
        assert_eq!(status.since_start.covers_seconds, 960.0);
        assert_eq!(status.since_start.requests_per_second, 4.0 / 960.0);
    }

    #[test]
    fn every_status_of_a_problem_is_counted_by_itself_and_others_together() {
        let mut labels: Vec<_> = CODES.iter().map(ToString::to_string).collect();
        labels.push("other".to_owned());
        assert!(CODES.is_sorted());
        assert_eq!(labels, STATUSES);
        let figures = HttpFigures::new(1);
        let counter = figures.counter();
        for kind in ProblemKind::ALL {
            let status = kind.status();
            assert!(STATUSES.contains(&status.as_str()), "{status}");
            counter.begin();
            counter.answered(None, status, MS);
        }
        counter.begin();
        counter.answered(None, StatusCode::IM_A_TEAPOT, MS);
        let statuses = figures.statuses();
        let (class, counts) = statuses.last().unwrap();
        assert_eq!(*class, "unmatched");
        assert_eq!(counts[STATUSES.len() - 1], 1);
        assert_eq!(
            counts.iter().sum::<u64>(),
            ProblemKind::ALL.len() as u64 + 1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn many_workers_share_few_counters_and_unused_classes_cost_no_histogram() {
        let figures = HttpFigures::new(64);
        assert_eq!(figures.counters.len(), COUNTERS_MAX);
        for _ in 0..64 {
            figures.counter().begin();
        }
        assert_eq!(figures.in_flight(), 64);
        assert!(
            size_of::<HttpCounter>() <= 2048,
            "{}",
            size_of::<HttpCounter>()
        );
    }
}
