//! The loader's metrics, by resource, and the same counts for its status. Names come from the
//! catalogue, so the number of series is bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use super::phase::Phase;

/// Why a loaded resource was drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnloadReason {
    /// It was idle for longer than its TTL.
    Ttl,
    /// Another load needed its memory.
    Load,
    /// Memory was short.
    Pressure,
    /// A caller asked for the unload.
    Request,
    /// A dependency was drained, or died.
    Dependency,
    /// The loader is stopping.
    Stop,
}

impl UnloadReason {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Ttl => "ttl",
            // The label is part of the metrics' interface.
            Self::Load => "room",
            Self::Pressure => "pressure",
            Self::Request => "request",
            Self::Dependency => "dependency",
            Self::Stop => "stop",
        }
    }
}

/// One resource's counters. They start at 0 in each incarnation of the loader.
#[derive(Debug)]
pub(super) struct ResourceMetrics {
    name: String,
    pub(super) kind: &'static str,
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) waits: u64,
    pub(super) loads: u64,
    pub(super) failures: u64,
    pub(super) deaths: u64,
    /// By the label of the reason.
    pub(super) evictions: BTreeMap<&'static str, u64>,
    pub(super) last_load_time: Option<Duration>,
    completed_loads: u32,
    total_load_time: Duration,
}

macro_rules! count {
    ($resource:expr, $metric:literal $(, $label:literal => $value:expr)*) => {
        metrics::counter!(
            $metric, "kind" => $resource.kind, "name" => $resource.name.clone()
            $(, $label => $value)*
        )
        .increment(1)
    };
}

impl ResourceMetrics {
    pub(super) fn new(name: &str, kind: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            hits: 0,
            misses: 0,
            waits: 0,
            loads: 0,
            failures: 0,
            deaths: 0,
            evictions: BTreeMap::new(),
            last_load_time: None,
            completed_loads: 0,
            total_load_time: Duration::ZERO,
        }
    }

    /// The mean of all completed loads.
    pub(super) fn average_load_time(&self) -> Option<Duration> {
        self.total_load_time.checked_div(self.completed_loads)
    }

    /// A caller found the resource ready.
    pub(super) fn hit(&mut self) {
        self.hits += 1;
        count!(self, "headroom_lazy_hits_total");
    }

    /// A caller found the resource not ready.
    pub(super) fn miss(&mut self) {
        self.misses += 1;
        count!(self, "headroom_lazy_misses_total");
    }

    /// A caller waits for the resource.
    pub(super) fn wait(&mut self) {
        self.waits += 1;
        count!(self, "headroom_lazy_waits_total");
    }

    pub(super) fn load_started(&mut self) {
        self.loads += 1;
        count!(self, "headroom_lazy_loads_total");
    }

    pub(super) fn load_failed(&mut self) {
        self.failures += 1;
        count!(self, "headroom_lazy_load_failures_total");
    }

    pub(super) fn loaded(&mut self, took: Duration) {
        self.completed_loads = self.completed_loads.saturating_add(1);
        self.total_load_time += took;
        self.last_load_time = Some(took);
        metrics::histogram!(
            "headroom_lazy_load_seconds",
            "kind" => self.kind, "name" => self.name.clone()
        )
        .record(took.as_secs_f64());
    }

    /// The resource died while it was loaded.
    pub(super) fn died(&mut self) {
        self.deaths += 1;
        count!(self, "headroom_lazy_deaths_total");
    }

    pub(super) fn drained(&mut self, reason: UnloadReason) {
        *self.evictions.entry(reason.label()).or_default() += 1;
        count!(self, "headroom_lazy_evictions_total", "reason" => reason.label());
    }
}

/// Publishes the number of resources in each phase.
pub(super) fn record_phases(phases: impl Iterator<Item = Phase> + Clone) {
    for phase in Phase::ALL {
        let count = phases.clone().filter(|it| *it == phase).count();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        metrics::gauge!("headroom_lazy_resources", "phase" => phase.label()).set(f64::from(count));
    }
}
