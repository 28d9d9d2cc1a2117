//! The metrics of the memory module.

use super::history::{ActionRecord, CollectionReason};
use super::ledger::Ledger;
use super::probe::{Health, Scope};
use super::sampler::SourceReport;
use super::status::label;
use crate::kernel::pressure::Level;

/// Records a reading.
#[allow(clippy::cast_precision_loss)]
pub(super) fn reading(ledger: &Ledger, used: u64, level: Level, report: &SourceReport) {
    metrics::gauge!("headroom_memory_budget_bytes").set(ledger.budget as f64);
    metrics::gauge!("headroom_memory_usage_bytes").set(used as f64);
    metrics::gauge!("headroom_memory_reserved_bytes").set(ledger.reserved_total() as f64);
    metrics::gauge!("headroom_memory_free_bytes").set(ledger.free() as f64);
    metrics::gauge!("headroom_memory_level").set(f64::from(level as u8));
    metrics::counter!("headroom_memory_samples_total").increment(1);
    metrics::histogram!("headroom_memory_sample_seconds").record(report.reading_seconds);
    if let Some(allocator) = &report.allocator {
        let parts = [
            ("allocated", allocator.allocated),
            ("active", allocator.active),
            ("metadata", allocator.metadata),
            ("resident", allocator.resident),
            ("retained", allocator.retained),
        ];
        for (part, bytes) in parts {
            metrics::gauge!("headroom_memory_allocator_bytes", "part" => part).set(bytes as f64);
        }
    }
    if let Some(group) = &report.group {
        metrics::gauge!("headroom_memory_group_bytes").set(group.current as f64);
    }
    if let Some(stalls) = &report.stalls {
        let share = stalls.some_avg10 / 100.0;
        metrics::gauge!("headroom_memory_stall_ratio", "scope" => label(stalls.scope)).set(share);
    }
    if let Some(kills) = &report.kernel_kills {
        metrics::counter!("headroom_memory_kernel_kills_total", "scope" => label(kills.scope))
            .absolute(kills.count);
    }
    for status in &report.sources {
        let is_healthy = matches!(status.health, Health::Healthy | Health::Absent);
        metrics::gauge!("headroom_memory_source_healthy", "source" => label(status.source))
            .set(f64::from(u8::from(is_healthy)));
    }
}

/// Counts a change of the level.
pub(super) fn level_change(to: Level) {
    metrics::counter!("headroom_memory_level_changes_total", "to" => to.label()).increment(1);
}

/// Counts a reservation that was refused.
pub(super) fn refusal() {
    metrics::counter!("headroom_memory_refusals_total").increment(1);
}

/// Counts the actions of subscribers.
pub(super) fn actions(records: &[ActionRecord]) {
    for record in records {
        let by = subscriber(&record.by);
        let action = &record.action;
        metrics::counter!("headroom_memory_reclaim_actions_total", "by" => by).increment(1);
        metrics::counter!("headroom_memory_reclaim_promised_bytes_total", "by" => by)
            .increment(action.promised_bytes);
        metrics::counter!("headroom_memory_reclaim_gained_bytes_total", "by" => by)
            .increment(action.gained_bytes());
    }
}

/// Counts a purge of allocators.
pub(super) fn gc(reason: CollectionReason, records: &[ActionRecord]) {
    metrics::counter!("headroom_memory_gc_total", "reason" => label(reason)).increment(1);
    actions(records);
}

/// A label with few values, since every host subscribes under its own name.
fn subscriber(name: &str) -> &'static str {
    match name {
        "memory" => "memory",
        "lazy-loader" => "lazy-loader",
        _ => "hosts",
    }
}

/// Counts a stall.
pub(super) fn stall(scope: Scope) {
    metrics::counter!("headroom_memory_stalls_total", "scope" => label(scope)).increment(1);
}

/// Counts the outcome of an alert.
pub(super) fn alert(outcome: &'static str) {
    metrics::counter!("headroom_memory_alerts_total", "outcome" => outcome).increment(1);
}
