//! The loader's figures: counters of each resource, for its status, and the same for the metrics
//! recorder. Names come from the catalogue, so the number of series is bounded by it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::lazy::phase::Phase;

/// Why a loaded resource left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    /// Idle for longer than its TTL.
    Ttl,
    /// To make room for another load.
    Room,
    /// Memory is short.
    Pressure,
    /// Somebody asked for it.
    Request,
    /// What it depends on went.
    Dependency,
    /// The loader is stopping.
    Stop,
}

impl Reason {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Ttl => "ttl",
            Self::Room => "room",
            Self::Pressure => "pressure",
            Self::Request => "request",
            Self::Dependency => "dependency",
            Self::Stop => "stop",
        }
    }
}

/// One resource's counters. They begin with the loader's incarnation.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Counters {
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) waits: u64,
    pub(super) loads: u64,
    pub(super) failures: u64,
    pub(super) deaths: u64,
    pub(super) evictions: BTreeMap<Reason, u64>,
    pub(super) loads_done: u32,
    pub(super) load_time: Duration,
    pub(super) last_load_time: Option<Duration>,
}

impl Counters {
    /// The mean of all loads that came to a good end.
    pub(super) fn average_load_time(&self) -> Option<Duration> {
        self.load_time.checked_div(self.loads_done)
    }
}

/// Counts for one resource, here and in the recorder.
#[derive(Debug)]
pub(super) struct Meter {
    name: String,
    pub(super) kind: &'static str,
    pub(super) counters: Counters,
}

macro_rules! count {
    ($meter:expr, $metric:literal $(, $label:literal => $value:expr)*) => {
        metrics::counter!(
            $metric, "kind" => $meter.kind, "name" => $meter.name.clone()
            $(, $label => $value)*
        )
        .increment(1)
    };
}

impl Meter {
    pub(super) fn new(name: &str, kind: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            counters: Counters::default(),
        }
    }

    /// It was ready when asked for.
    pub(super) fn hit(&mut self) {
        self.counters.hits += 1;
        count!(self, "headroom_lazy_hits_total");
    }

    /// It was not ready when asked for.
    pub(super) fn miss(&mut self) {
        self.counters.misses += 1;
        count!(self, "headroom_lazy_misses_total");
    }

    /// Somebody has to wait for it.
    pub(super) fn wait(&mut self) {
        self.counters.waits += 1;
        count!(self, "headroom_lazy_waits_total");
    }

    pub(super) fn load_begins(&mut self) {
        self.counters.loads += 1;
        count!(self, "headroom_lazy_loads_total");
    }

    pub(super) fn load_failed(&mut self) {
        self.counters.failures += 1;
        count!(self, "headroom_lazy_load_failures_total");
    }

    pub(super) fn loaded(&mut self, took: Duration) {
        self.counters.loads_done = self.counters.loads_done.saturating_add(1);
        self.counters.load_time += took;
        self.counters.last_load_time = Some(took);
        metrics::histogram!(
            "headroom_lazy_load_seconds",
            "kind" => self.kind, "name" => self.name.clone()
        )
        .record(took.as_secs_f64());
    }

    /// It died while it was loaded.
    pub(super) fn died(&mut self) {
        self.counters.deaths += 1;
        count!(self, "headroom_lazy_deaths_total");
    }

    pub(super) fn evicted(&mut self, reason: Reason) {
        *self.counters.evictions.entry(reason).or_default() += 1;
        count!(self, "headroom_lazy_evictions_total", "reason" => reason.label());
    }
}

/// Publishes how many resources stand where.
pub(super) fn record_phases(phases: impl Iterator<Item = Phase>) {
    let all = [
        Phase::Cold,
        Phase::Loading,
        Phase::Ready,
        Phase::Draining,
        Phase::Failed,
    ];
    let mut counts = all.map(|phase| (phase, 0u32));
    for phase in phases {
        for (counted, count) in &mut counts {
            *count += u32::from(*counted == phase);
        }
    }
    for (phase, count) in counts {
        metrics::gauge!("headroom_lazy_resources", "phase" => phase.label()).set(f64::from(count));
    }
}
