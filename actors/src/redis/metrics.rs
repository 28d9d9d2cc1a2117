//! The metrics of the cache and of the subscriber. Those of the pools are the kernel's.

use crate::kernel::{Label, Metric};

pub(super) const CACHE_HITS: Metric = Metric::counter(
    "headroom_redis_cache_hits_total",
    "Reads of the cache that found a value.",
);
pub(super) const CACHE_MISSES: Metric = Metric::counter(
    "headroom_redis_cache_misses_total",
    "Reads of the cache that found none, or failed.",
);
pub(super) const CACHE_FAILURES: Metric = Metric::counter(
    "headroom_redis_cache_failures_total",
    "Reads, writes and removals in the cache that failed.",
)
.labels(&[Label::one_of(
    "error",
    &[
        "full",
        "timed_out",
        "circuit_open",
        "connect",
        "draining",
        "owner",
        "unsent",
        "unsupported",
        "deadline",
        "lost",
        "no_node",
        "server",
        "type",
    ],
)]);
pub(super) const SUBSCRIBER_CONNECTED: Metric = Metric::gauge(
    "headroom_redis_subscriber_connected",
    "1 while the subscribed connection is up, else 0; absent before the first listener.",
);
pub(super) const SUBSCRIBER_CONNECTS: Metric = Metric::counter(
    "headroom_redis_subscriber_connects_total",
    "Times that the subscribed connection was opened.",
);
pub(super) const SUBSCRIBER_MESSAGES: Metric = Metric::counter(
    "headroom_redis_subscriber_messages_total",
    "Messages received on the subscribed connection.",
);
pub(super) const SUBSCRIBER_DROPPED: Metric = Metric::counter(
    "headroom_redis_subscriber_dropped_total",
    "Messages that a listener did not get because there was no room for more; it is told that some are missing.",
);

/// The metrics of this module.
pub const METRICS: &[Metric] = &[
    CACHE_HITS,
    CACHE_MISSES,
    CACHE_FAILURES,
    SUBSCRIBER_CONNECTED,
    SUBSCRIBER_CONNECTS,
    SUBSCRIBER_MESSAGES,
    SUBSCRIBER_DROPPED,
];

/// The counters start with the server.
pub fn start_at_zero() {
    for metric in [
        CACHE_HITS,
        CACHE_MISSES,
        CACHE_FAILURES,
        SUBSCRIBER_CONNECTS,
        SUBSCRIBER_MESSAGES,
        SUBSCRIBER_DROPPED,
    ] {
        metric.start_at_zero(&[]);
    }
}
