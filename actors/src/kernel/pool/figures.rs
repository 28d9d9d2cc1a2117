//! A pool's figures: for its status, and the same for the metrics recorder.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Counter, Gauge};

use super::histogram::Histogram;
use super::status::CloseReason;

/// How much the newest value weighs in an average: one part of this.
const AVERAGE_OVER: u32 = 8;

/// An average that forgets.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Average(Option<Duration>);

impl Average {
    pub(super) fn record(&mut self, value: Duration) {
        self.0 = Some(match self.0 {
            Some(old) => (old * (AVERAGE_OVER - 1) + value) / AVERAGE_OVER,
            None => value,
        });
    }

    pub(super) fn get(self) -> Option<Duration> {
        self.0
    }
}

/// Counts what happens in one pool.
pub(super) struct Figures {
    name: String,
    counters: Counters,
    gauges: Gauges,
    pub(super) opened: u64,
    pub(super) closed: BTreeMap<CloseReason, u64>,
    pub(super) checkouts: u64,
    pub(super) reused: u64,
    pub(super) refused: u64,
    pub(super) timed_out: u64,
    pub(super) failed: u64,
    pub(super) retries: u64,
    pub(super) leaks: u64,
    pub(super) wait: Histogram,
    pub(super) usage: Histogram,
    pub(super) connect: Histogram,
    pub(super) recent_use: Average,
    pub(super) recent_connect: Average,
}

struct Counters {
    opened: Counter,
    closed: BTreeMap<CloseReason, Counter>,
    checkouts: Counter,
    reused: Counter,
    refused: Counter,
    timed_out: Counter,
    failed: Counter,
    leaks: Counter,
    wait: metrics::Histogram,
    usage: metrics::Histogram,
    connect: metrics::Histogram,
}

struct Gauges {
    size: Gauge,
    idle: Gauge,
    waiting: Gauge,
    opening: Gauge,
    circuit_open: Gauge,
}

/// What the gauges show.
pub(super) struct Reading {
    pub(super) size: usize,
    pub(super) idle: usize,
    pub(super) waiting: usize,
    pub(super) opening: usize,
    pub(super) circuit_open: bool,
}

impl Figures {
    pub(super) fn new(name: &str) -> Self {
        macro_rules! counter {
            ($metric:literal) => {
                metrics::counter!($metric, "pool" => name.to_owned())
            };
        }
        macro_rules! gauge {
            ($metric:literal) => {
                metrics::gauge!($metric, "pool" => name.to_owned())
            };
        }
        macro_rules! histogram {
            ($metric:literal) => {
                metrics::histogram!($metric, "pool" => name.to_owned())
            };
        }
        let closed = CloseReason::ALL.into_iter().map(|reason| {
            let labels = [
                ("pool", name.to_owned()),
                ("reason", reason.label().to_owned()),
            ];
            let counter = metrics::counter!("headroom_pool_closed_total", &labels);
            (reason, counter)
        });
        Self {
            name: name.to_owned(),
            counters: Counters {
                opened: counter!("headroom_pool_opened_total"),
                closed: closed.collect(),
                checkouts: counter!("headroom_pool_checkouts_total"),
                reused: counter!("headroom_pool_reused_total"),
                refused: counter!("headroom_pool_refused_total"),
                timed_out: counter!("headroom_pool_timed_out_total"),
                failed: counter!("headroom_pool_connect_failures_total"),
                leaks: counter!("headroom_pool_leaks_total"),
                wait: histogram!("headroom_pool_wait_seconds"),
                usage: histogram!("headroom_pool_use_seconds"),
                connect: histogram!("headroom_pool_connect_seconds"),
            },
            gauges: Gauges {
                size: gauge!("headroom_pool_connections"),
                idle: gauge!("headroom_pool_idle"),
                waiting: gauge!("headroom_pool_waiting"),
                opening: gauge!("headroom_pool_opening"),
                circuit_open: gauge!("headroom_pool_circuit_open"),
            },
            opened: 0,
            closed: BTreeMap::new(),
            checkouts: 0,
            reused: 0,
            refused: 0,
            timed_out: 0,
            failed: 0,
            retries: 0,
            leaks: 0,
            wait: Histogram::default(),
            usage: Histogram::default(),
            connect: Histogram::default(),
            recent_use: Average::default(),
            recent_connect: Average::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn opened(&mut self, took: Duration) {
        self.opened += 1;
        self.connect.record(took);
        self.recent_connect.record(took);
        self.counters.opened.increment(1);
        self.counters.connect.record(took.as_secs_f64());
    }

    pub(super) fn closed(&mut self, reason: CloseReason) {
        *self.closed.entry(reason).or_default() += 1;
        if let Some(counter) = self.counters.closed.get(&reason) {
            counter.increment(1);
        }
    }

    pub(super) fn granted(&mut self, waited: Duration, reused: bool) {
        self.checkouts += 1;
        self.wait.record(waited);
        self.counters.checkouts.increment(1);
        self.counters.wait.record(waited.as_secs_f64());
        if reused {
            self.reused += 1;
            self.counters.reused.increment(1);
        }
    }

    pub(super) fn returned(&mut self, held: Duration, exclusive: bool) {
        self.usage.record(held);
        if exclusive {
            self.recent_use.record(held);
        }
        self.counters.usage.record(held.as_secs_f64());
    }

    pub(super) fn refused(&mut self) {
        self.refused += 1;
        self.counters.refused.increment(1);
    }

    pub(super) fn timed_out(&mut self) {
        self.timed_out += 1;
        self.counters.timed_out.increment(1);
    }

    pub(super) fn failed(&mut self) {
        self.failed += 1;
        self.counters.failed.increment(1);
    }

    pub(super) fn leaked(&mut self) {
        self.leaks += 1;
        self.counters.leaks.increment(1);
    }

    #[allow(clippy::cast_precision_loss)]
    pub(super) fn read(&self, reading: &Reading) {
        let gauges = &self.gauges;
        gauges.size.set(reading.size as f64);
        gauges.idle.set(reading.idle as f64);
        gauges.waiting.set(reading.waiting as f64);
        gauges.opening.set(reading.opening as f64);
        gauges
            .circuit_open
            .set(f64::from(u8::from(reading.circuit_open)));
    }
}
