//! The metrics of the model processes, by model.

use headroom_model_protocol::{DeniedAction, SandboxState};

use crate::kernel::{Label, Metric, SHORT_TIMES};

pub(super) const FORWARD: Metric = Metric::histogram(
    "headroom_model_forward_seconds",
    "Time that a run took in the model's process.",
    SHORT_TIMES,
)
.labels(MODEL);
const GROWTH: Metric = Metric::gauge(
    "headroom_model_growth_bytes",
    "What a process holds more than right after its load, as its last trim measured it; 0 after its \
     end. Processes that share a series are added up.",
)
.labels(&[
    NAME,
    Label::described("host", "`host-0` to one less than the model's instances"),
]);
const QUEUED: Metric = Metric::gauge(
    "headroom_model_queued_requests",
    "Requests that wait for a process of the model; models that share a series are added up.",
)
.labels(MODEL)
.alert("above 0 for minutes: more instances, or fewer requests");
const LEAKS: Metric = Metric::counter(
    "headroom_model_leaks_total",
    "Processes that were found to leak memory.",
)
.labels(MODEL)
.alert("an increase within an hour: the model leaks; it is replaced, and costs time (`HeadroomModelLeaks`)");
const PAST_ESTIMATE: Metric = Metric::counter(
    "headroom_model_past_estimate_total",
    "Processes that used far more memory than estimated.",
)
.labels(MODEL);
const RECYCLES: Metric = Metric::counter(
    "headroom_model_recycles_total",
    "Processes that were replaced between two requests.",
)
.labels(&[
    NAME,
    Label::one_of("reason", &["leak", "overgrown", "request"]),
]);
const OOM_KILLS: Metric = Metric::counter(
    "headroom_model_oom_kills_total",
    "Processes that the kernel killed because memory ran out.",
)
.labels(MODEL)
.alert(
    "any increase within 30 minutes: the model needs more memory than its estimate, or the machine is \
     too small (`HeadroomModelOomKills`)",
);
const CRASHES: Metric = Metric::counter(
    "headroom_model_crashes_total",
    "Processes that crashed or were killed, also while they loaded. Not counted: those that were killed because memory ran out.",
)
.labels(MODEL)
.alert(
    "3 or more within 15 minutes: its processes crash, or something kills them; the log has the reason of each exit \
     (`HeadroomModelCrashes`)",
);

const SANDBOX: Metric = Metric::gauge(
    "headroom_model_sandboxed_processes",
    "Processes that are loaded, by how much of their sandbox holds (`models.sandbox`); models that \
     share a series are added up.",
)
.labels(&[NAME, Label::one_of("sandbox", &["full", "partial", "off"])])
.alert("`partial` above 0: the log names what the system lacks");
const DENIED: Metric = Metric::counter(
    "headroom_model_denied_total",
    "Actions that the sandbox denied, by what the model tried: to open a file, to use the network, to \
     start a program, to reach another process, or another system call.",
)
.labels(&[
    NAME,
    Label::one_of(
        "action",
        &["file", "network", "program", "process", "system"],
    ),
])
.alert(
    "any increase within an hour: find out what the model does before it serves again, see docs/trust.md \
     (`HeadroomModelDenied`)",
);

const NAME: Label = Label::cut("name", "a model, such as `silero-vad:1`");
const MODEL: &[Label] = &[NAME];

/// The counters start with the first host of a model.
pub(super) fn start_at_zero(model: &str) {
    for metric in [LEAKS, PAST_ESTIMATE, RECYCLES, OOM_KILLS, CRASHES, DENIED] {
        metric.start_at_zero(&[("name", model)]);
    }
}

/// More in one report are not believed: a process that lies could overflow the counter.
const DENIED_MAX: u64 = 1 << 24;

/// The sandbox has denied a process some actions.
pub(super) fn count_denied(model: &str, action: DeniedAction, count: u64) {
    let labels = [
        ("name", model.to_owned()),
        ("action", action.label().to_owned()),
    ];
    metrics::counter!(DENIED.name, &labels).increment(count.min(DENIED_MAX));
}

/// A process leaks.
pub(super) fn count_leak(model: &str) {
    metrics::counter!(LEAKS.name, "name" => model.to_owned()).increment(1);
}

/// A process used far more memory than estimated.
pub(super) fn count_past_estimate(model: &str) {
    metrics::counter!(PAST_ESTIMATE.name, "name" => model.to_owned()).increment(1);
}

/// A process was replaced.
pub(super) fn count_recycle(model: &str, reason: &'static str) {
    metrics::counter!(RECYCLES.name, "name" => model.to_owned(), "reason" => reason).increment(1);
}

/// The kernel killed a process.
pub(super) fn count_oom_kill(model: &str) {
    metrics::counter!(OOM_KILLS.name, "name" => model.to_owned()).increment(1);
}

/// A process crashed, or was killed from outside.
pub(super) fn count_crash(model: &str) {
    metrics::counter!(CRASHES.name, "name" => model.to_owned()).increment(1);
}

/// What one actor adds to a gauge, as long as it exists. Many models can share the name `other`, so no actor may set the
/// value for all.
pub(super) struct SharedGauge {
    shared: metrics::Gauge,
    own: f64,
}

impl SharedGauge {
    /// The growth of one process, in bytes.
    pub(super) fn growth(model: &str, host: &str) -> Self {
        let labels = [("name", model.to_owned()), ("host", host.to_owned())];
        Self::within(metrics::gauge!(GROWTH.name, &labels))
    }

    /// The queue of one model.
    pub(super) fn queued(model: &str) -> Self {
        Self::within(metrics::gauge!(QUEUED.name, "name" => model.to_owned()))
    }

    fn within(shared: metrics::Gauge) -> Self {
        Self { shared, own: 0.0 }
    }

    pub(super) fn set(&mut self, value: u64) {
        let own = value as f64;
        self.shared.increment(own - self.own);
        self.own = own;
    }
}

impl Drop for SharedGauge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counts one process in [`SANDBOX`], as long as it exists.
pub(super) struct SandboxGauge {
    gauges: [metrics::Gauge; SandboxState::ALL.len()],
    current: Option<SandboxState>,
}

impl SandboxGauge {
    pub(super) fn new(model: &str) -> Self {
        let gauge = |state: SandboxState| {
            let labels = [
                ("name", model.to_owned()),
                ("sandbox", state.label().to_owned()),
            ];
            metrics::gauge!(SANDBOX.name, &labels)
        };
        Self {
            gauges: SandboxState::ALL.map(gauge),
            current: None,
        }
    }

    pub(super) fn set(&mut self, state: SandboxState) {
        self.clear();
        self.gauges[state as usize].increment(1.0);
        self.current = Some(state);
    }

    fn clear(&mut self) {
        if let Some(state) = self.current.take() {
            self.gauges[state as usize].decrement(1.0);
        }
    }
}

impl Drop for SandboxGauge {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The metrics of this module.
pub const METRICS: &[Metric] = &[
    FORWARD,
    QUEUED,
    GROWTH,
    LEAKS,
    PAST_ESTIMATE,
    RECYCLES,
    OOM_KILLS,
    CRASHES,
    SANDBOX,
    DENIED,
];

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::kernel::testing::counters::Counters;

    #[test]
    fn what_is_counted_is_declared_with_its_labels() {
        let counters = Counters::of(METRICS);
        metrics::with_local_recorder(&counters, || {
            start_at_zero("m:1");
            assert_eq!(counters.names().len(), 6);
            count_leak("m:1");
            count_past_estimate("m:1");
            count_oom_kill("m:1");
            count_crash("m:1");
            for reason in ["leak", "overgrown", "request"] {
                count_recycle("m:1", reason);
            }
            SharedGauge::growth("m:1", "host-0").set(1);
            SharedGauge::queued("m:1").set(1);
            SandboxGauge::new("m:1").set(SandboxState::Full);
            for action in DeniedAction::ALL {
                count_denied("m:1", action, 2);
                // Of a process that lies.
                count_denied("m:1", action, u64::MAX);
            }
        });
        for (metric, count) in [
            (LEAKS, 1),
            (PAST_ESTIMATE, 1),
            (OOM_KILLS, 1),
            (CRASHES, 1),
            (RECYCLES, 3),
            (DENIED, 5 * (2 + DENIED_MAX)),
        ] {
            assert_eq!(counters.get(metric.name), count, "{}", metric.name);
        }
    }

    #[test]
    fn processes_that_share_a_growth_gauge_are_added_up_until_they_end() {
        let shared = Arc::new(AtomicU64::new(0));
        let gauge = metrics::Gauge::from_arc(Arc::clone(&shared));
        let mut processes = [(); 2].map(|()| SharedGauge::within(gauge.clone()));
        let value = || f64::from_bits(shared.load(Relaxed));
        for (process, bytes) in processes.iter_mut().zip([300, 50]) {
            process.set(bytes * 2);
            process.set(bytes);
        }
        assert_eq!(value(), 350.0);
        let [first, last] = processes;
        drop(first);
        assert_eq!(value(), 50.0);
        drop(last);
        assert_eq!(value(), 0.0);
    }
}
