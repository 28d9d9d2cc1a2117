//! A pool's figures. Each is kept once, for the pool's status and for the metrics recorder.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge, histogram};

use super::histogram::Durations;
use super::status::CloseReason;

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
        self.value += 1;
        self.metric.increment(1);
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
    pub(super) circuit_open: Gauge,
}

impl Figures {
    pub(super) fn new(name: &str) -> Self {
        let pool = || [("pool", name.to_owned())];
        let count = |metric: &'static str| Count::new(counter!(metric, &pool()));
        let gauge = |metric: &'static str| gauge!(metric, &pool());
        let durations = |metric: &'static str| Durations::new(histogram!(metric, &pool()));
        let closed = CloseReason::ALL.map(|reason| {
            let labels = [
                ("pool", name.to_owned()),
                ("reason", reason.label().to_owned()),
            ];
            let metric = counter!("headroom_pool_closed_total", &labels);
            (reason, Count::new(metric))
        });
        Self {
            name: name.to_owned(),
            opened: count("headroom_pool_opened_total"),
            closed: closed.into(),
            checkouts: count("headroom_pool_checkouts_total"),
            reused: count("headroom_pool_reused_total"),
            refused: count("headroom_pool_refused_total"),
            timed_out: count("headroom_pool_timed_out_total"),
            failed: count("headroom_pool_connect_failures_total"),
            retries: 0,
            leaks: count("headroom_pool_leaks_total"),
            wait: durations("headroom_pool_wait_seconds"),
            usage: durations("headroom_pool_use_seconds"),
            connect: durations("headroom_pool_connect_seconds"),
            average_use: Average::default(),
            average_connect: Average::default(),
            size: gauge("headroom_pool_connections"),
            idle: gauge("headroom_pool_idle"),
            waiting: gauge("headroom_pool_waiting"),
            opening: gauge("headroom_pool_opening"),
            circuit_open: gauge("headroom_pool_circuit_open"),
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
