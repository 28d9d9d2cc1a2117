//! The metrics of the requests to each model, which are counted in the figures.

use headroom_actors::kernel::{Label, Metric, SHORT_TIMES};

use super::exposition::Exposition;
use crate::figures::ModelFigures;
use crate::figures::models::OUTCOMES;

const NAME: Label = Label::described(
    "name",
    "a model that is known and has had requests, such as `silero-vad:1`",
);

const REQUESTS: Metric = Metric::counter(
    "headroom_model_requests_total",
    "Requests to run a model that was found, by class of status.",
)
.labels(&[NAME, Label::one_of("outcome", &OUTCOMES)])
.alert("a share of 5xx above 5 % for 5 minutes (`HeadroomModelErrors`)");
const REQUEST_DURATION: Metric = Metric::histogram(
    "headroom_model_request_duration_seconds",
    "Time from the tensors of a request to its outputs, with the wait for a load and for other requests. \
     The bounds are exact to a sixteenth.",
    SHORT_TIMES,
)
.labels(&[NAME])
.alert(
    "on average more than 1 s above `headroom_model_forward_seconds` for 10 minutes: the model is overloaded or loaded \
     again and again (`HeadroomModelSlow`)",
);

/// The metrics of this module.
pub const METRICS: &[Metric] = &[REQUESTS, REQUEST_DURATION];

/// Writes the metrics of the models that are known.
pub(super) fn write(
    exposition: &mut Exposition,
    figures: &ModelFigures,
    is_known: impl Fn(&str) -> bool,
) {
    let mut totals = figures.totals();
    totals.retain(|total| is_known(&total.name));
    let mut family = exposition.family(&REQUESTS);
    for total in &totals {
        for (outcome, count) in OUTCOMES.iter().zip(total.outcomes) {
            let labels = [("name", &*total.name), ("outcome", outcome)];
            family.sample(&labels, count as f64);
        }
    }
    let mut family = exposition.family(&REQUEST_DURATION);
    for total in &totals {
        let latencies = &total.latencies;
        let buckets = SHORT_TIMES.iter().copied();
        let buckets = buckets.zip(latencies.counts_up_to(SHORT_TIMES));
        let (count, sum) = (latencies.count(), latencies.sum_seconds());
        family.histogram(&[("name", &*total.name)], buckets, count, sum);
    }
}
