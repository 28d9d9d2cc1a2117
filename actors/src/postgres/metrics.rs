//! The metrics of the database. Those of the pools are the kernel's.

use crate::kernel::{Label, Metric};

pub(super) const RETRIES: Metric = Metric::counter(
    "headroom_postgres_retries_total",
    "Statements and transactions that were tried again.",
)
.labels(&[Label::one_of("pool", &["postgres", "postgres-replicas"])]);

pub(super) const PREPARED_AGAIN: Metric = Metric::counter(
    "headroom_postgres_prepared_again_total",
    "Cached statements that the server refused as out of date, and that were prepared and sent again.",
);

pub(super) const READS: Metric = Metric::counter(
    "headroom_postgres_reads_total",
    "Reads that may go to replicas, by the server that served them and why.",
)
.labels(&[
    Label::one_of("served_by", &["replica", "primary"]),
    Label::one_of(
        "reason",
        &[
            "fresh",
            "lag",
            "promoted",
            "slow",
            "lost",
            "conflict",
            "full",
            "timed_out",
            "circuit_open",
            "connect",
            "draining",
            "owner",
        ],
    ),
])
.alert("a rising share of the primary: the replicas lag or are down");

pub(super) const LOST_CONNECTIONS: Metric = Metric::counter(
    "headroom_postgres_lost_connections_total",
    "Connections that were ended without an answer from the server, which may still have them.",
);

pub(super) const NOTIFICATIONS_DROPPED: Metric = Metric::counter(
    "headroom_postgres_notifications_dropped_total",
    "Notifications of the server that found the queue of their listener full.",
);

/// The metrics of this module.
pub const METRICS: &[Metric] = &[
    RETRIES,
    PREPARED_AGAIN,
    READS,
    LOST_CONNECTIONS,
    NOTIFICATIONS_DROPPED,
];

/// The counters start with the server. That of the reads does not: it is about a share, and only if there are replicas.
pub fn start_at_zero() {
    for metric in [
        RETRIES,
        PREPARED_AGAIN,
        LOST_CONNECTIONS,
        NOTIFICATIONS_DROPPED,
    ] {
        metric.start_at_zero(&[]);
    }
}
