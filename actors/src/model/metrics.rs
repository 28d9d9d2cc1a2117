//! The metrics of the model processes, by model.

use crate::kernel::{Label, Metric, SHORT_TIMES};

pub(super) const FORWARD: Metric = Metric::histogram(
    "headroom_model_forward_seconds",
    "Time that a run took in the model's process.",
    SHORT_TIMES,
)
.labels(MODEL);
pub(super) const GROWTH: Metric = Metric::gauge(
    "headroom_model_growth_bytes",
    "What a process holds more than right after its load, as its last trim measured it; 0 after its \
     end.",
)
.labels(&[
    NAME,
    Label::described("host", "`host-0` to one less than the model's instances"),
]);
pub(super) const LEAKS: Metric = Metric::counter(
    "headroom_model_leaks_total",
    "Processes that were found to leak memory.",
)
.labels(MODEL)
.alert("any increase: the model leaks; it is replaced, and costs time (`HeadroomModelLeaks`)");
pub(super) const PAST_ESTIMATE: Metric = Metric::counter(
    "headroom_model_past_estimate_total",
    "Processes that used far more memory than estimated.",
)
.labels(MODEL);
pub(super) const RECYCLES: Metric = Metric::counter(
    "headroom_model_recycles_total",
    "Processes that were replaced between two requests.",
)
.labels(&[
    NAME,
    Label::one_of("reason", &["leak", "overgrown", "request"]),
]);
pub(super) const OOM_KILLS: Metric = Metric::counter(
    "headroom_model_oom_kills_total",
    "Processes that the kernel killed because memory ran out.",
)
.labels(MODEL)
.alert("any increase: the model needs more memory than its estimate, or the machine is too small");

const NAME: Label = Label::cut("name", "a model, such as `silero-vad:1`");
const MODEL: &[Label] = &[NAME];

/// The metrics of this module.
pub const METRICS: &[Metric] = &[FORWARD, GROWTH, LEAKS, PAST_ESTIMATE, RECYCLES, OOM_KILLS];
