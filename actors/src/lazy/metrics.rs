//! The loader's metrics, by resource, and the same counts for its status.

use std::time::Duration;

use super::phase::Phase;
use super::slot::Slot;
use super::status::Counts;
use crate::kernel::{LONG_TIMES, Label, Metric};

const HITS: Metric = Metric::counter(
    "headroom_lazy_hits_total",
    "Callers that found a resource ready.",
)
.labels(RESOURCE);
const MISSES: Metric =
    Metric::counter("headroom_lazy_misses_total", "Callers that did not.").labels(RESOURCE);
const WAITS: Metric = Metric::counter(
    "headroom_lazy_waits_total",
    "Callers that waited for a load.",
)
.labels(RESOURCE);
const LOADS: Metric = Metric::counter("headroom_lazy_loads_total", "Loads that began.")
    .labels(RESOURCE)
    .alert(
        "more than 6 per minute for 10 minutes, and half as many evictions for room or pressure: the \
         budget is too small (`HeadroomThrashing`)",
    );
const LOAD_FAILURES: Metric = Metric::counter(
    "headroom_lazy_load_failures_total",
    "Loads that failed or were refused.",
)
.labels(RESOURCE)
.alert("3 or more within 20 minutes: lazy-loader/status has the cause (`HeadroomLoadsFail`)");
const DEATHS: Metric = Metric::counter(
    "headroom_lazy_deaths_total",
    "Loaded resources that ended by themselves.",
)
.labels(RESOURCE)
.alert("3 or more within 15 minutes: it crashes; the log has the reason (`HeadroomResourcesDie`)");
const EVICTIONS: Metric = Metric::counter(
    "headroom_lazy_evictions_total",
    "Drains of loaded resources, by reason.",
)
.labels(&[
    KIND,
    NAME,
    Label::one_of(
        "reason",
        &[
            "ttl",
            "room",
            "pressure",
            "request",
            "replaced",
            "dependency",
            "stop",
        ],
    ),
]);
const LOAD_DURATION: Metric = Metric::histogram(
    "headroom_lazy_load_duration_seconds",
    "Time that a successful load took, without the wait for memory.",
    LONG_TIMES,
)
.labels(RESOURCE);
const RESOURCES: Metric = Metric::gauge("headroom_lazy_resources", "Resources in each phase.")
    .labels(&[Label::one_of(
        "phase",
        &["cold", "loading", "ready", "draining", "failed"],
    )]);

const KIND: Label = Label::described(
    "kind",
    "`model`, `process` (the zygote), `storage`, `scanner` or `chain`",
);
const NAME: Label = Label::cut("name", "a resource, such as `silero-vad:1`");
const RESOURCE: &[Label] = &[KIND, NAME];

/// The metrics of this module.
pub const METRICS: &[Metric] = &[
    RESOURCES,
    HITS,
    MISSES,
    WAITS,
    LOADS,
    LOAD_DURATION,
    LOAD_FAILURES,
    EVICTIONS,
    DEATHS,
];

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
    /// A changed resource was loaded in its place.
    Replaced,
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
            Self::Replaced => "replaced",
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
    /// Before anything is counted of the resource. A resource that is known and not used has no series.
    fn start_at_zero(&self) {
        let resource = [("kind", self.resource.kind), ("name", &*self.counted_as)];
        for metric in [HITS, MISSES, WAITS, LOADS, LOAD_FAILURES, DEATHS, EVICTIONS] {
            metric.start_at_zero(&resource);
        }
    }

    pub(super) fn count(&mut self, event: Event) {
        if self.counts == Counts::default() {
            self.start_at_zero();
        }
        let counts = &mut self.counts;
        let (count, metric) = match event {
            Event::Hit => (&mut counts.hits, HITS),
            Event::Miss => (&mut counts.misses, MISSES),
            Event::Wait => (&mut counts.waits, WAITS),
            Event::Load => (&mut counts.loads, LOADS),
            Event::LoadFailure => (&mut counts.failures, LOAD_FAILURES),
            Event::Death => (&mut counts.deaths, DEATHS),
        };
        *count += 1;
        let (kind, name) = (self.resource.kind, self.counted_as.clone());
        metrics::counter!(metric.name, "kind" => kind, "name" => name).increment(1);
    }

    pub(super) fn count_drain(&mut self, reason: UnloadReason) {
        let reason = reason.label();
        *self.counts.evictions.entry(reason).or_default() += 1;
        let (kind, name) = (self.resource.kind, self.counted_as.clone());
        metrics::counter!(EVICTIONS.name, "kind" => kind, "name" => name, "reason" => reason)
            .increment(1);
    }

    pub(super) fn record_load_time(&mut self, took: Duration) {
        self.load_times.record(took);
        let (kind, name) = (self.resource.kind, self.counted_as.clone());
        metrics::histogram!(LOAD_DURATION.name, "kind" => kind, "name" => name)
            .record(took.as_secs_f64());
    }
}

/// Publishes the number of resources in each phase.
pub(super) fn record_phases(phases: impl Iterator<Item = Phase> + Clone) {
    for phase in Phase::ALL {
        let count = phases.clone().filter(|it| *it == phase).count();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        metrics::gauge!(RESOURCES.name, "phase" => phase.label()).set(f64::from(count));
    }
}
