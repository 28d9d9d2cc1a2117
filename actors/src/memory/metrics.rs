//! The metrics of the memory module.

use super::history::{ActionRecord, CollectionReason};
use super::ledger::Ledger;
use super::probe::{Health, Scope};
use super::sampler::SourceReport;
use super::status::label;
use crate::kernel::pressure::Level;
use crate::kernel::{Label, Metric, PRIVATE_SERVER, SHORT_TIMES};

const BUDGET: Metric = Metric::gauge(
    "headroom_memory_budget_bytes",
    "What the server and all of its processes may use together.",
);
const USAGE: Metric = Metric::gauge(
    "headroom_memory_usage_bytes",
    "What they use, by the source that memory/stats names.",
);
const RESERVED: Metric = Metric::gauge(
    "headroom_memory_reserved_bytes",
    "What is reserved for loads, loaded resources, private servers and buffers.",
);
const FREE: Metric = Metric::gauge(
    "headroom_memory_free_bytes",
    "What can still be reserved; 0 if more is used than the budget allows.",
)
.alert("near 0 for hours while loads are refused: the budget is too small for the work");
const LEVEL: Metric = Metric::gauge(
    "headroom_memory_level",
    "How short memory is: 0 normal, 1 elevated, 2 high, 3 critical, 4 exhausted.",
)
.alert("3 or more for 5 minutes: clean-ups do not help (`HeadroomMemoryCritical`)");
const READINGS: Metric = Metric::counter("headroom_memory_readings_total", "Readings of memory.");
const READING_DURATION: Metric = Metric::histogram(
    "headroom_memory_reading_duration_seconds",
    "Time that a reading of memory took.",
    SHORT_TIMES,
);
const ALLOCATOR: Metric = Metric::gauge(
    "headroom_memory_allocator_bytes",
    "The server's own allocator. The parts overlap: allocated is within active, and active and \
     metadata are within resident; retained has no memory behind it.",
)
.labels(&[Label::one_of(
    "part",
    &["allocated", "active", "metadata", "resident", "retained"],
)]);
const GROUP: Metric = Metric::gauge(
    "headroom_memory_group_bytes",
    "The control group's own figure, which includes file pages; absent without a control group.",
);
const STALL_RATIO: Metric = Metric::gauge(
    "headroom_memory_stall_ratio",
    "Share of the last 10 s in which tasks waited for memory, 0 to 1 (PSI); absent where the kernel \
     has no such figure.",
)
.labels(SCOPE)
.alert("above 0.1 for 5 minutes: the machine or the group is short of memory (`HeadroomMemoryStalls`)");
const KERNEL_KILLS: Metric = Metric::counter(
    "headroom_memory_kernel_kills_total",
    "Processes that the kernel killed because memory ran out, since the group or the machine began.",
)
.labels(SCOPE)
.alert("an increase within 10 minutes, in the group (`HeadroomKernelKills`)");
const SOURCE_HEALTHY: Metric = Metric::gauge(
    "headroom_memory_source_healthy",
    "1 if a source of memory figures works or does not exist here, 0 if it fails.",
)
.labels(&[Label::one_of(
    "source",
    &[
        "configured",
        "cgroup_v2",
        "cgroup_v1",
        "processes",
        "machine",
        "allocator",
        "stalls",
        "stall_trigger",
        "kernel_kills",
    ],
)])
.alert("0 for minutes: the level rests on a worse source; the log has the cause");
const LEVEL_CHANGES: Metric = Metric::counter(
    "headroom_memory_level_changes_total",
    "Changes of the level, by the level that began.",
)
.labels(&[Label::one_of(
    "to",
    &["normal", "elevated", "high", "critical", "exhausted"],
)]);
const REFUSALS: Metric = Metric::counter(
    "headroom_memory_refusals_total",
    "Reservations that were refused, by what they were for: a kind of resource, private servers, or an \
     account of buffers. Most are repeated after an eviction or a new reading.",
)
.labels(&[Label::one_of("holder", &HOLDERS)]);
const RECLAIM_ACTIONS: Metric = Metric::counter(
    "headroom_memory_reclaim_actions_total",
    "What subscribers did to give memory back.",
)
.labels(BY);
const RECLAIM_PROMISED: Metric = Metric::counter(
    "headroom_memory_reclaim_promised_bytes_total",
    "What these actions were expected to give back.",
)
.labels(BY);
const RECLAIM_GAINED: Metric = Metric::counter(
    "headroom_memory_reclaim_gained_bytes_total",
    "What these actions gave back, as measured.",
)
.labels(BY);
const COLLECTIONS: Metric = Metric::counter(
    "headroom_memory_collections_total",
    "Collections of slack, by what caused them.",
)
.labels(&[Label::one_of(
    "reason",
    &["request", "schedule", "release", "stall"],
)]);
const STALLS: Metric = Metric::counter(
    "headroom_memory_stalls_total",
    "Notifications of the kernel that tasks stalled for memory.",
)
.labels(SCOPE);
const ALERTS: Metric = Metric::counter(
    "headroom_memory_alerts_total",
    "Alerts for the webhook of `[memory.alerts]`, by what became of them.",
)
.labels(&[Label::one_of("outcome", &["sent", "failed", "dropped"])])
.alert("an increase of failed or dropped: the webhook does not get its alerts");

/// What memory is reserved for. All else counts as `other`.
const HOLDERS: [&str; 15] = [
    "model",
    "process",
    "storage",
    "scanner",
    "chain",
    PRIVATE_SERVER,
    "request_bodies",
    "tensors",
    "answers",
    "answer_text",
    "uploads",
    "chains",
    "load_test",
    "unread_answers",
    "other",
];

const SCOPE: &[Label] = &[Label::one_of("scope", &["group", "machine"])];
const BY: &[Label] = &[Label::one_of(
    "by",
    &["memory", "lazy-loader", "hosts", "pools"],
)];

/// The metrics of this module.
pub const METRICS: &[Metric] = &[
    BUDGET,
    USAGE,
    RESERVED,
    FREE,
    LEVEL,
    LEVEL_CHANGES,
    READINGS,
    READING_DURATION,
    SOURCE_HEALTHY,
    ALLOCATOR,
    GROUP,
    STALL_RATIO,
    STALLS,
    KERNEL_KILLS,
    REFUSALS,
    COLLECTIONS,
    RECLAIM_ACTIONS,
    RECLAIM_PROMISED,
    RECLAIM_GAINED,
    ALERTS,
];

/// The counters start with the server. That of the kernel's kills does not: it begins with what the kernel has counted.
pub(super) fn start_at_zero() {
    for metric in [
        LEVEL_CHANGES,
        READINGS,
        STALLS,
        REFUSALS,
        COLLECTIONS,
        RECLAIM_ACTIONS,
        RECLAIM_PROMISED,
        RECLAIM_GAINED,
    ] {
        metric.start_at_zero(&[]);
    }
}

/// Records a reading.
pub(super) fn reading(ledger: &Ledger, used: u64, level: Level, report: &SourceReport) {
    metrics::gauge!(BUDGET.name).set(ledger.budget as f64);
    metrics::gauge!(USAGE.name).set(used as f64);
    metrics::gauge!(RESERVED.name).set(ledger.reserved_total() as f64);
    metrics::gauge!(FREE.name).set(ledger.free() as f64);
    metrics::gauge!(LEVEL.name).set(f64::from(level as u8));
    metrics::counter!(READINGS.name).increment(1);
    sources(report);
}

/// Records what the sources of a reading report.
pub(super) fn sources(report: &SourceReport) {
    metrics::histogram!(READING_DURATION.name).record(report.reading_seconds);
    if let Some(allocator) = &report.allocator {
        let parts = [
            ("allocated", allocator.allocated),
            ("active", allocator.active),
            ("metadata", allocator.metadata),
            ("resident", allocator.resident),
            ("retained", allocator.retained),
        ];
        for (part, bytes) in parts {
            metrics::gauge!(ALLOCATOR.name, "part" => part).set(bytes as f64);
        }
    }
    if let Some(group) = &report.group {
        metrics::gauge!(GROUP.name).set(group.current as f64);
    }
    if let Some(stalls) = &report.stalls {
        let share = stalls.some_avg10 / 100.0;
        metrics::gauge!(STALL_RATIO.name, "scope" => label(stalls.scope)).set(share);
    }
    if let Some(kills) = &report.kernel_kills {
        metrics::counter!(KERNEL_KILLS.name, "scope" => label(kills.scope)).absolute(kills.count);
    }
    for status in &report.sources {
        let is_healthy = matches!(status.health, Health::Healthy | Health::Absent);
        metrics::gauge!(SOURCE_HEALTHY.name, "source" => label(status.source))
            .set(f64::from(u8::from(is_healthy)));
    }
}

/// Counts a change of the level.
pub(super) fn level_change(to: Level) {
    metrics::counter!(LEVEL_CHANGES.name, "to" => to.label()).increment(1);
}

/// Counts a reservation that was refused, by its kind or by the account of its buffers.
pub(super) fn refusal(holder: &str) {
    let mut known = HOLDERS.into_iter();
    let holder = known.find(|known| *known == holder).unwrap_or("other");
    metrics::counter!(REFUSALS.name, "holder" => holder).increment(1);
}

/// Counts the actions of subscribers.
pub(super) fn actions(records: &[ActionRecord]) {
    for record in records {
        let by = subscriber(&record.by);
        let action = &record.action;
        metrics::counter!(RECLAIM_ACTIONS.name, "by" => by).increment(1);
        metrics::counter!(RECLAIM_PROMISED.name, "by" => by).increment(action.promised_bytes);
        metrics::counter!(RECLAIM_GAINED.name, "by" => by).increment(action.gained_bytes());
    }
}

/// Counts a purge of allocators.
pub(super) fn gc(reason: CollectionReason, records: &[ActionRecord]) {
    metrics::counter!(COLLECTIONS.name, "reason" => label(reason)).increment(1);
    actions(records);
}

/// A label with few values, since every host and every pool subscribes under its own name.
fn subscriber(name: &str) -> &'static str {
    match name {
        "memory" => "memory",
        "lazy-loader" => "lazy-loader",
        // `<model>:<version>/<host>`
        host if host.contains('/') => "hosts",
        _ => "pools",
    }
}

/// Counts a stall.
pub(super) fn stall(scope: Scope) {
    metrics::counter!(STALLS.name, "scope" => label(scope)).increment(1);
}

/// The counter of alerts starts with their sender.
pub(super) fn start_alerts_at_zero() {
    ALERTS.start_at_zero(&[]);
}

/// Counts the outcome of an alert.
pub(super) fn alert(outcome: &'static str) {
    metrics::counter!(ALERTS.name, "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::MetricKind;
    use crate::kernel::testing::counters::Counters;

    #[test]
    fn what_is_counted_is_declared_with_its_labels() {
        let counters = Counters::of(METRICS);
        metrics::with_local_recorder(&counters, || {
            for holder in HOLDERS {
                refusal(holder);
            }
            refusal("anything");
            for scope in [Scope::Group, Scope::Machine] {
                stall(scope);
            }
            for level in Level::ALL {
                level_change(level);
            }
            for outcome in ["sent", "failed", "dropped"] {
                alert(outcome);
            }
        });
        assert_eq!(counters.get(REFUSALS.name), 16);
        assert_eq!(counters.get(STALLS.name), 2);
        assert_eq!(counters.get(ALERTS.name), 3);
    }

    #[test]
    fn counters_start_at_zero() {
        let counters = Counters::of(METRICS);
        metrics::with_local_recorder(&counters, start_at_zero);
        let all = METRICS.iter().filter(|it| it.kind == MetricKind::Counter);
        let all = all.filter(|it| ![KERNEL_KILLS, ALERTS].contains(it));
        let names: Vec<_> = all.map(|metric| metric.name.to_owned()).collect();
        assert_eq!(counters.names(), names.into_iter().collect());
    }

    #[test]
    fn alerts_start_at_zero_with_each_outcome() {
        let counters = Counters::of(METRICS);
        metrics::with_local_recorder(&counters, start_alerts_at_zero);
        assert!(counters.names().contains(ALERTS.name));
        assert_eq!(counters.get(ALERTS.name), 0);
    }
}
