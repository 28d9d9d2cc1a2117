//! The metrics of providers.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};
use tokio::time::Instant;

use super::figures::Class;
use super::shared::Shared;
use crate::kernel::{Label, Metric, SHORT_TIMES};

const CHAIN: Label = Label::described("chain", "the name of a configured chain");
const PROVIDER: Label = Label::described("provider", "the name of one of its providers");

const CALLS: Metric = Metric::counter(
    "headroom_chain_provider_calls_total",
    "Calls that a provider was sent, by what they ended with. Errors of callers are no failures of the provider.",
)
.labels(&[
    CHAIN,
    PROVIDER,
    Label::one_of(
        "outcome",
        &[
            "result",
            "caller_error",
            "connect",
            "timeout",
            "torn",
            "status",
            "throttled",
            "invalid",
            "provider_error",
            "lacking",
        ],
    ),
]);
const REQUESTS: Metric = Metric::counter(
    "headroom_chain_provider_requests_total",
    "Requests that a provider was sent. One request can have several calls.",
)
.labels(&[CHAIN, PROVIDER]);
const SECONDS: Metric = Metric::histogram(
    "headroom_chain_provider_request_seconds",
    "Time from a request to the end of its answer.",
    SHORT_TIMES,
)
.labels(&[CHAIN, PROVIDER]);
const IN_FLIGHT: Metric = Metric::gauge(
    "headroom_chain_provider_in_flight",
    "Calls that a provider has now.",
)
.labels(&[CHAIN, PROVIDER]);
const HEAD: Metric = Metric::gauge(
    "headroom_chain_provider_head",
    "The number of a provider's newest block, as it last told it.",
)
.labels(&[CHAIN, PROVIDER]);
const USABLE: Metric = Metric::gauge(
    "headroom_chain_provider_usable",
    "1 if a provider may be sent calls, otherwise 0. A provider that nobody uses keeps its last value.",
)
.labels(&[CHAIN, PROVIDER])
.alert("0 for 10 minutes: `GET /api/chains/{chain}/providers` tells why it is not used");

/// The metrics of this module.
pub const METRICS: &[Metric] = &[CALLS, REQUESTS, SECONDS, IN_FLIGHT, HEAD, USABLE];

/// The metrics of one provider.
pub(super) struct Meters {
    calls: Vec<Counter>,
    requests: Counter,
    seconds: Histogram,
    in_flight: Gauge,
    head: Gauge,
    usable: Gauge,
}

impl Meters {
    /// The counters start with the provider.
    pub(super) fn new(chain: &str, provider: &str) -> Self {
        let labels = [
            ("chain", chain.to_owned()),
            ("provider", provider.to_owned()),
        ];
        let calls = Class::ALL.iter().map(|class| {
            let [chain, provider] = labels.clone();
            let labels = [chain, provider, ("outcome", class.label().to_owned())];
            let counter = metrics::counter!(CALLS.name, &labels);
            counter.increment(0);
            counter
        });
        Self {
            calls: calls.collect(),
            requests: metrics::counter!(REQUESTS.name, &labels),
            seconds: metrics::histogram!(SECONDS.name, &labels),
            in_flight: metrics::gauge!(IN_FLIGHT.name, &labels),
            head: metrics::gauge!(HEAD.name, &labels),
            usable: metrics::gauge!(USABLE.name, &labels),
        }
    }

    pub(super) fn call(&self, class: Class) {
        if let Some(counter) = self.calls.get(class as usize) {
            counter.increment(1);
        }
    }

    pub(super) fn request(&self) {
        self.requests.increment(1);
    }

    pub(super) fn took(&self, took: Duration) {
        self.seconds.record(took.as_secs_f64());
    }

    pub(super) fn in_flight(&self, calls: u32) {
        self.in_flight.set(f64::from(calls));
    }

    #[expect(clippy::cast_precision_loss, reason = "far fewer blocks")]
    pub(super) fn head(&self, number: u64) {
        self.head.set(number as f64);
    }

    pub(super) fn state(&self, shared: &Shared) {
        let unused = shared.state().unused(Instant::now());
        self.usable.set(f64::from(u8::from(unused.is_none())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::LabelValues;

    #[test]
    fn each_class_is_a_declared_value_of_the_label() {
        let LabelValues::OneOf(declared) = CALLS.labels[2].values else {
            panic!();
        };
        let labels: Vec<_> = Class::ALL.iter().map(|class| class.label()).collect();
        assert_eq!(labels, declared);
    }
}
