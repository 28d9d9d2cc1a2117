//! The metrics of the owners of chains.

use crate::kernel::{Label, Metric};

const CHAIN: Label = Label::described("chain", "the name of a chain in the settings");

const FAILOVERS: Metric = Metric::counter(
    "headroom_chain_failovers_total",
    "Calls that went to another provider because one had failed.",
)
.labels(&[CHAIN]);
const HEDGES: Metric = Metric::counter(
    "headroom_chain_hedges_total",
    "Calls that were sent a second time because the first took long.",
)
.labels(&[CHAIN]);
const DISSENTS: Metric = Metric::counter(
    "headroom_chain_dissents_total",
    "Answers that differed from those of the quorum.",
)
.labels(&[CHAIN])
.alert("an increase: the log names the provider");
const LOG_SPLITS: Metric = Metric::counter(
    "headroom_chain_log_splits_total",
    "Searches for logs that were split because a provider refused their range.",
)
.labels(&[CHAIN]);

const HEAD: Metric = Metric::gauge(
    "headroom_chain_head",
    "The number of the newest block that the providers agree on.",
)
.labels(&[CHAIN])
.alert("no change for many block times");

/// The metrics of this module.
pub const METRICS: &[Metric] = &[FAILOVERS, HEDGES, DISSENTS, LOG_SPLITS, HEAD];

/// The counters of a chain start with the server.
pub fn start_at_zero(chain: &str) {
    for counter in [FAILOVERS, HEDGES, DISSENTS, LOG_SPLITS] {
        metrics::counter!(counter.name, "chain" => chain.to_owned()).increment(0);
    }
}

pub(super) fn set_head(chain: &str, number: u64) {
    metrics::gauge!(HEAD.name, "chain" => chain.to_owned()).set(number as f64);
}

fn count(metric: &Metric, chain: &str) {
    metrics::counter!(metric.name, "chain" => chain.to_owned()).increment(1);
}

pub(super) fn failed_over(chain: &str) {
    count(&FAILOVERS, chain);
}

pub(super) fn hedged(chain: &str) {
    count(&HEDGES, chain);
}

pub(super) fn dissented(chain: &str) {
    count(&DISSENTS, chain);
}

pub(super) fn split(chain: &str) {
    count(&LOG_SPLITS, chain);
}
