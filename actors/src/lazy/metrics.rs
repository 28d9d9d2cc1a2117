//! The loader's metrics, by resource, and the same counts for its status. Names come from the
//! catalogue, so the number of series is bounded.

use std::time::Duration;

use super::phase::Phase;
use super::slot::Slot;

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

/// What is counted of a resource.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// A caller found it ready.
    Hit,
    /// A caller found it not ready.
    Miss,
    /// A caller waits for it.
    Wait,
    Load,
    LoadFailure,
    /// It died while it was loaded.
    Death,
}

impl Slot {
    pub(super) fn count(&mut self, event: Event) {
        let counts = &mut self.counts;
        let (count, metric) = match event {
            Event::Hit => (&mut counts.hits, "headroom_lazy_hits_total"),
            Event::Miss => (&mut counts.misses, "headroom_lazy_misses_total"),
            Event::Wait => (&mut counts.waits, "headroom_lazy_waits_total"),
            Event::Load => (&mut counts.loads, "headroom_lazy_loads_total"),
            Event::LoadFailure => (&mut counts.failures, "headroom_lazy_load_failures_total"),
            Event::Death => (&mut counts.deaths, "headroom_lazy_deaths_total"),
        };
        *count += 1;
        let (kind, name) = (self.resource.kind, self.resource.name.clone());
        metrics::counter!(metric, "kind" => kind, "name" => name).increment(1);
    }

    pub(super) fn count_drain(&mut self, reason: UnloadReason) {
        let reason = reason.label();
        *self.counts.evictions.entry(reason).or_default() += 1;
        let (kind, name) = (self.resource.kind, self.resource.name.clone());
        let metric = "headroom_lazy_evictions_total";
        metrics::counter!(metric, "kind" => kind, "name" => name, "reason" => reason).increment(1);
    }

    pub(super) fn record_load_time(&mut self, took: Duration) {
        self.load_times.record(took);
        let (kind, name) = (self.resource.kind, self.resource.name.clone());
        metrics::histogram!("headroom_lazy_load_seconds", "kind" => kind, "name" => name)
            .record(took.as_secs_f64());
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
