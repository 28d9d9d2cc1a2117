//! A pool's figures. Each is kept once, for the pool's status and for the metrics recorder.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge, histogram};

use super::histogram::Durations;
use super::status::CloseReason;
use crate::kernel::{Label, Metric, SHORT_TIMES};

const CONNECTIONS: Metric =
    Metric::gauge("headroom_pool_connections", "Open connections.").labels(POOL);
const IDLE: Metric = Metric::gauge(
    "headroom_pool_idle_connections",
    "Open connections without a lease.",
)
.labels(POOL);
const OPENING: Metric = Metric::gauge(
    "headroom_pool_opening_connections",
    "Connections that are being opened.",
)
.labels(POOL);
const RETIRING: Metric = Metric::gauge(
    "headroom_pool_retiring_connections",
    "Closed connections that the server has not let go of. They count against the maximum.",
)
.labels(POOL);
const WAITING: Metric = Metric::gauge(
    "headroom_pool_waiting_callers",
    "Callers that wait for a connection.",
)
.labels(POOL)
.alert("above 0 for minutes: too few connections, or leases last too long");
const CIRCUIT_OPEN: Metric = Metric::gauge(
    "headroom_pool_circuit_open",
    "1 while the circuit in front of the server is open, else 0.",
)
.labels(POOL)
.alert("1 for 2 minutes: the server cannot be reached (`HeadroomPoolDown`)");
const OPENED: Metric =
    Metric::counter("headroom_pool_opened_total", "Connections opened.").labels(POOL);
const CLOSED: Metric =
    Metric::counter("headroom_pool_closed_total", "Connections closed.").labels(&[
        NAME,
        Label::one_of(
            "reason",
            &[
                "lifetime", "idle", "broken", "check", "pressure", "shutdown",
            ],
        ),
    ]);
const CHECKOUTS: Metric =
    Metric::counter("headroom_pool_checkouts_total", "Leases granted.").labels(POOL);
const REUSED: Metric = Metric::counter(
    "headroom_pool_reused_total",
    "Leases on a connection that had been leased before.",
)
.labels(POOL);
const REFUSED: Metric = Metric::counter(
    "headroom_pool_refused_total",
    "Checkouts refused at once: the queue was full, the circuit was open, or there was no server.",
)
.labels(POOL);
const TIMED_OUT: Metric = Metric::counter(
    "headroom_pool_timed_out_total",
    "Checkouts whose deadline passed while they waited.",
)
.labels(POOL);
const CONNECT_FAILURES: Metric = Metric::counter(
    "headroom_pool_connect_failures_total",
    "Connects that failed.",
)
.labels(POOL);
const LEAKS: Metric = Metric::counter(
    "headroom_pool_leaks_total",
    "Leases that lasted too long. The pool's status names the places that hold them.",
)
.labels(POOL);
const WAIT: Metric = Metric::histogram(
    "headroom_pool_wait_seconds",
    "Time that callers waited for their lease.",
    SHORT_TIMES,
)
.labels(POOL);
const USE: Metric = Metric::histogram(
    "headroom_pool_use_seconds",
    "Time that leases lasted.",
    SHORT_TIMES,
)
.labels(POOL);
const CONNECT: Metric = Metric::histogram(
    "headroom_pool_connect_seconds",
    "Time that successful connects took.",
    SHORT_TIMES,
)
.labels(POOL);

const NAME: Label = Label::one_of(
    "pool",
    &[
        "postgres",
        "postgres-replicas",
        "redis-primary",
        "redis-cache",
        "redis-pubsub",
    ],
);
const POOL: &[Label] = &[NAME];

/// The metrics of all pools.
pub const METRICS: &[Metric] = &[
    CONNECTIONS,
    IDLE,
    OPENING,
    RETIRING,
    WAITING,
    CIRCUIT_OPEN,
    OPENED,
    CLOSED,
    CONNECT_FAILURES,
    CHECKOUTS,
    REUSED,
    REFUSED,
    TIMED_OUT,
    LEAKS,
    WAIT,
    USE,
    CONNECT,
];

/// The weight of the newest value in a moving average is one part of this many.
const AVERAGE_OVER: u32 = 8;

/// An exponentially weighted moving average.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Average(Option<Duration>);

impl Average {
    pub(super) fn record(&mut self, value: Duration) {
        self.0 = Some(match self.0 {
            Some(old) => (old * (AVERAGE_OVER - 1) + value) / AVERAGE_OVER,
            None => value,
        });
    }

    /// The average; zero before the first value.
    pub(super) fn get(self) -> Duration {
        self.0.unwrap_or_default()
    }
}

/// A counter.
pub(super) struct Count {
    value: u64,
    metric: Counter,
}

impl Count {
    fn new(metric: Counter) -> Self {
        Self { value: 0, metric }
    }

    pub(super) fn increment(&mut self) {
        self.add(1);
    }

    pub(super) fn add(&mut self, number: u64) {
        self.value += number;
        self.metric.increment(number);
    }

    pub(super) fn get(&self) -> u64 {
        self.value
    }
}

/// The figures of one pool. [`super::PoolStatus`] describes them.
pub(super) struct Figures {
    pub(super) name: String,
    pub(super) opened: Count,
    closed: BTreeMap<CloseReason, Count>,
    pub(super) checkouts: Count,
    pub(super) reused: Count,
    pub(super) refused: Count,
    pub(super) timed_out: Count,
    pub(super) failed: Count,
    pub(super) retries: u64,
    pub(super) leaks: Count,
    pub(super) wait: Durations,
    pub(super) usage: Durations,
    pub(super) connect: Durations,
    /// How long exclusive leases lasted lately.
    pub(super) average_use: Average,
    /// How long connects took lately.
    pub(super) average_connect: Average,
    // What the metrics show of the current state.
    pub(super) size: Gauge,
    pub(super) idle: Gauge,
    pub(super) waiting: Gauge,
    pub(super) opening: Gauge,
    pub(super) retiring: Gauge,
    pub(super) circuit_open: Gauge,
}

impl Figures {
    pub(super) fn new(name: &str) -> Self {
        let pool = || [("pool", name.to_owned())];
        let count = |metric: Metric| Count::new(counter!(metric.name, &pool()));
        let gauge = |metric: Metric| gauge!(metric.name, &pool());
        let durations = |metric: Metric| Durations::new(histogram!(metric.name, &pool()));
        let closed = CloseReason::ALL.map(|reason| {
            let labels = [
                ("pool", name.to_owned()),
                ("reason", reason.label().to_owned()),
            ];
            let metric = counter!(CLOSED.name, &labels);
            (reason, Count::new(metric))
        });
        Self {
            name: name.to_owned(),
            opened: count(OPENED),
            closed: closed.into(),
            checkouts: count(CHECKOUTS),
            reused: count(REUSED),
            refused: count(REFUSED),
            timed_out: count(TIMED_OUT),
            failed: count(CONNECT_FAILURES),
            retries: 0,
            leaks: count(LEAKS),
            wait: durations(WAIT),
            usage: durations(USE),
            connect: durations(CONNECT),
            average_use: Average::default(),
            average_connect: Average::default(),
            size: gauge(CONNECTIONS),
            idle: gauge(IDLE),
            waiting: gauge(WAITING),
            opening: gauge(OPENING),
            retiring: gauge(RETIRING),
            circuit_open: gauge(CIRCUIT_OPEN),
        }
    }

    pub(super) fn count_closed(&mut self, reason: CloseReason) {
        if let Some(count) = self.closed.get_mut(&reason) {
            count.increment();
        }
    }

    /// The closed connections by reason, without reasons that did not occur.
    pub(super) fn closed(&self) -> BTreeMap<CloseReason, u64> {
        let closed = self.closed.iter();
        let closed = closed.map(|(reason, count)| (*reason, count.get()));
        closed.filter(|(_, count)| *count > 0).collect()
    }
}
