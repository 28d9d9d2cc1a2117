//! What operators see of each resource.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::time::Instant;

use super::error::Excess;
use super::slot::{Slot, State};
use crate::kernel::LoadErrorKind;
use crate::lazy::phase::Phase;

/// Where one resource stands. Times are in seconds before or after the moment of asking.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResourceStatus {
    /// Its name.
    pub name: String,
    /// What sort of thing it is.
    pub kind: &'static str,
    /// What it depends on.
    pub depends_on: Vec<String>,
    /// Where it stands.
    pub phase: Phase,
    /// For how long.
    pub in_phase_for_seconds: f64,
    /// Leases on it, those of loaded resources that depend on it included.
    pub leases: usize,
    /// Callers that wait for it.
    pub waiters: usize,
    /// Loads begun.
    pub loads: u64,
    /// Times it was ready when asked for.
    pub hits: u64,
    /// Times it was not.
    pub misses: u64,
    /// Times somebody had to wait for it.
    pub waits: u64,
    /// Loads that failed.
    pub failures: u64,
    /// Times it died while it was loaded.
    pub deaths: u64,
    /// Times it left, by reason: ttl, room, pressure, request, dependency, stop.
    pub evictions: BTreeMap<&'static str, u64>,
    /// Its last failure.
    pub last_error: Option<String>,
    /// Whose fault that was.
    pub last_fault: Option<LoadErrorKind>,
    /// When a caller may cause the next try; 0 when at once. Missing unless it has failed.
    pub next_try_in_seconds: Option<f64>,
    /// Time since its last use, or since its load if it was not used; missing if it never was
    /// loaded.
    pub last_use_seconds_ago: Option<f64>,
    /// How long it stays loaded after its last use; for ever when missing.
    pub ttl_seconds: Option<f64>,
    /// Whether it stays loaded until somebody asks for the unload.
    pub pinned: bool,
    /// By how much it is too large for the budget; missing when it is not, and while it is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub never_fits: Option<Excess>,
    /// What its next load will reserve.
    pub estimated_bytes: u64,
    /// What it has reserved; 0 when it is not loaded.
    pub reserved_bytes: u64,
    /// What its processes really use; 0 when it is not loaded or has none.
    pub measured_bytes: u64,
    /// How long its last load took.
    pub last_load_seconds: Option<f64>,
    /// How long its loads took on average.
    pub average_load_seconds: Option<f64>,
}

impl ResourceStatus {
    pub(super) fn of(slot: &Slot, never_fits: Option<Excess>) -> Self {
        let resource = &slot.resource;
        let counters = &slot.meter.counters;
        let entry = slot.reservation().map(|it| it.entry());
        let last_use = slot.held().map(|held| held.uses.last()).or(slot.last_use);
        let next_try = match slot.state() {
            State::Failed { failure, .. } => Some(failure.retry_in().as_secs_f64()),
            _ => None,
        };
        Self {
            name: resource.name.clone(),
            kind: resource.kind,
            depends_on: resource.depends_on.clone(),
            phase: slot.phase(),
            in_phase_for_seconds: slot.in_phase_for().as_secs_f64(),
            leases: slot.held().map_or(0, |held| held.uses.held()),
            waiters: slot.waiting(),
            loads: counters.loads,
            hits: counters.hits,
            misses: counters.misses,
            waits: counters.waits,
            failures: counters.failures,
            deaths: counters.deaths,
            evictions: counters
                .evictions
                .iter()
                .map(|(reason, count)| (reason.label(), *count))
                .collect(),
            last_error: slot.last_error.as_ref().map(ToString::to_string),
            last_fault: slot.last_error.as_ref().map(|error| error.kind),
            next_try_in_seconds: next_try,
            last_use_seconds_ago: last_use
                .map(|at| Instant::now().saturating_duration_since(at).as_secs_f64()),
            ttl_seconds: resource.ttl.map(|ttl| ttl.as_secs_f64()),
            pinned: resource.pinned,
            never_fits,
            estimated_bytes: slot.estimate(),
            reserved_bytes: entry.map_or(0, |entry| entry.reserved()),
            measured_bytes: entry.map_or(0, |entry| entry.measured()),
            last_load_seconds: counters.last_load_time.map(|time| time.as_secs_f64()),
            average_load_seconds: counters.average_load_time().map(|time| time.as_secs_f64()),
        }
    }
}
