//! The room's metrics, all in one place.

use std::time::Duration;

use super::history::{Deed, GcReason};
use super::ledger::Ledger;
use crate::kernel::pressure::Level;

/// Writes what a reading found.
#[allow(clippy::cast_precision_loss)]
pub(super) fn reading(ledger: &Ledger, used: u64, level: Level, took: Duration) {
    metrics::gauge!("headroom_memory_budget_bytes").set(ledger.budget() as f64);
    metrics::gauge!("headroom_memory_usage_bytes").set(used as f64);
    metrics::gauge!("headroom_memory_reserved_bytes").set(ledger.reserved_total() as f64);
    metrics::gauge!("headroom_memory_free_bytes").set(ledger.free() as f64);
    metrics::gauge!("headroom_memory_level").set(f64::from(level as u8));
    metrics::counter!("headroom_memory_samples_total").increment(1);
    metrics::histogram!("headroom_memory_sample_seconds").record(took.as_secs_f64());
}

/// Counts a change of the level.
pub(super) fn level_change(to: Level) {
    metrics::counter!("headroom_memory_level_changes_total", "to" => to.label()).increment(1);
}

/// Counts a claim that was refused.
pub(super) fn refusal() {
    metrics::counter!("headroom_memory_refusals_total").increment(1);
}

/// Counts what was done to give memory back.
pub(super) fn actions(deeds: &[Deed]) {
    for deed in deeds {
        let by = subscriber(&deed.by);
        let action = &deed.action;
        metrics::counter!("headroom_memory_reclaim_actions_total", "by" => by).increment(1);
        metrics::counter!("headroom_memory_reclaim_promised_bytes_total", "by" => by)
            .increment(action.promised_bytes);
        metrics::counter!("headroom_memory_reclaim_gained_bytes_total", "by" => by)
            .increment(action.gained_bytes());
    }
}

/// Counts a purge of allocators.
pub(super) fn gc(reason: GcReason, deeds: &[Deed]) {
    metrics::counter!("headroom_memory_gc_total", "reason" => reason.label()).increment(1);
    actions(deeds);
}

/// A label with few values: every host subscribes under a name of its own.
fn subscriber(name: &str) -> &'static str {
    match name {
        "memory" => "memory",
        "lazy-loader" => "lazy-loader",
        _ => "hosts",
    }
}
