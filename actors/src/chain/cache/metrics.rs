//! The metrics of the parts that keep and share answers.

use std::sync::Arc;

use metrics::{Counter, Gauge};

use crate::kernel::{Label, Metric};

const CHAIN: Label = Label::described("chain", "The name of a chain of the settings.");

const HITS: Metric = Metric::counter(
    "headroom_chain_cache_hits_total",
    "Calls of a chain that were answered with a kept answer.",
)
.labels(&[CHAIN]);
const MISSES: Metric = Metric::counter(
    "headroom_chain_cache_misses_total",
    "Calls of a chain that could have been answered with a kept answer, but there was none that still held.",
)
.labels(&[CHAIN]);
const BYTES: Metric = Metric::gauge(
    "headroom_chain_cache_bytes",
    "Memory of the answers that are kept of a chain.",
)
.labels(&[CHAIN]);
const EVICTIONS: Metric = Metric::counter(
    "headroom_chain_cache_evictions_total",
    "Kept answers of a chain that were removed: for want of space, because memory is short, or because they no longer held.",
)
.labels(&[CHAIN, Label::one_of("reason", &["space", "pressure", "stale"])]);
const SHARED: Metric = Metric::counter(
    "headroom_chain_shared_calls_total",
    "Calls of a chain that waited for the answer to an equal call instead of being sent.",
)
.labels(&[CHAIN]);
const REORGS: Metric = Metric::counter(
    "headroom_chain_reorganisations_total",
    "Times that blocks of a chain were replaced by others.",
)
.labels(&[CHAIN]);

/// The metrics of these parts.
pub const METRICS: &[Metric] = &[HITS, MISSES, BYTES, EVICTIONS, SHARED, REORGS];

/// Why an answer is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Space,
    Pressure,
    Stale,
}

/// What the cache of one chain counts.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) hits: Counter,
    pub(super) misses: Counter,
    pub(super) bytes: Gauge,
    space: Counter,
    pressure: Counter,
    stale: Counter,
    pub(super) reorgs: Counter,
}

impl Counts {
    pub(super) fn of(chain: &Arc<str>) -> Self {
        let counter = |metric: Metric| metrics::counter!(metric.name, "chain" => Arc::clone(chain));
        let evictions = |reason| metrics::counter!(EVICTIONS.name, "chain" => Arc::clone(chain), "reason" => reason);
        Self {
            hits: counter(HITS),
            misses: counter(MISSES),
            bytes: metrics::gauge!(BYTES.name, "chain" => Arc::clone(chain)),
            space: evictions("space"),
            pressure: evictions("pressure"),
            stale: evictions("stale"),
            reorgs: counter(REORGS),
        }
    }

    pub(super) fn removed(&self, reason: Reason) {
        match reason {
            Reason::Space => self.space.increment(1),
            Reason::Pressure => self.pressure.increment(1),
            Reason::Stale => self.stale.increment(1),
        }
    }
}

/// The counter of calls that share the answer to another one.
pub fn shared_calls(chain: &Arc<str>) -> Counter {
    metrics::counter!(SHARED.name, "chain" => Arc::clone(chain))
}
