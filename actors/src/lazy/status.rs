//! The status of each resource, for operators.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::error::Excess;
use super::phase::Phase;
use super::slot::Slot;
use crate::kernel::{LoadErrorKind, Reservation};

/// The counts of one resource. They start at 0 in each incarnation of the loader.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Loads started.
    pub loads: u64,
    /// How often a caller found it ready.
    pub hits: u64,
    /// How often a caller found it not ready.
    pub misses: u64,
    /// How often a caller had to wait for it.
    pub waits: u64,
    /// Loads that failed.
    pub failures: u64,
    /// How often it died while it was loaded.
    pub deaths: u64,
    /// How often it was drained, by reason: ttl, room (another load needed its memory), pressure,
    /// request, dependency, stop. The API calls every drain an eviction.
    pub evictions: BTreeMap<&'static str, u64>,
}

/// The status of one resource. Times are in seconds, relative to the moment of the request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResourceStatus {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// The names of its dependencies.
    pub depends_on: Vec<String>,
    /// Its phase.
    pub phase: Phase,
    /// How long it has been in that phase.
    pub in_phase_for_seconds: f64,
    /// Leases on it, those of loaded dependents included.
    pub leases: usize,
    /// Callers that wait for it.
    pub waiters: usize,
    /// What has happened to it.
    #[serde(flatten)]
    pub counts: Counts,
    /// Its last failure.
    pub last_error: Option<String>,
    /// The kind of its last failure.
    pub last_fault: Option<LoadErrorKind>,
    /// When a caller can cause the next try; 0 for at once. `None` unless it has failed.
    pub next_try_in_seconds: Option<f64>,
    /// Time since its last use, or since its load if it was not used. `None` if it was never loaded.
    pub last_use_seconds_ago: Option<f64>,
    /// How long it stays loaded after its last use. `None` for ever.
    pub ttl_seconds: Option<f64>,
    /// Whether only a request or a stop unloads it.
    pub pinned: bool,
    /// By how much it is too large for the budget. `None` if it fits, and while it is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub never_fits: Option<Excess>,
    /// What its next load will reserve.
    pub estimated_bytes: u64,
    /// What it has reserved; 0 when it is not loaded.
    pub reserved_bytes: u64,
    /// What its processes use; 0 when it is not loaded or has no processes.
    pub measured_bytes: u64,
    /// How long its last load took.
    pub last_load_seconds: Option<f64>,
    /// How long its loads took on average.
    pub average_load_seconds: Option<f64>,
}

impl ResourceStatus {
    pub(super) fn new(slot: &Slot, never_fits: Option<Excess>) -> Self {
        let resource = &slot.resource;
        let entry = slot.reservation.as_ref().map(Reservation::entry);
        let seconds = |time: Duration| time.as_secs_f64();
        Self {
            name: resource.name.clone(),
            kind: resource.kind,
            depends_on: resource.depends_on.clone(),
            phase: slot.phase(),
            in_phase_for_seconds: seconds(slot.time_in_phase()),
            leases: slot.lease_count(),
            waiters: slot.waiting(),
            counts: slot.counts.clone(),
            last_error: slot.last_error.as_ref().map(ToString::to_string),
            last_fault: slot.last_error.as_ref().map(|error| error.kind),
            next_try_in_seconds: slot.retry_in().map(seconds),
            last_use_seconds_ago: slot.last_use().map(|last_use| seconds(last_use.elapsed())),
            ttl_seconds: resource.ttl.map(seconds),
            pinned: resource.pinned,
            never_fits,
            estimated_bytes: slot.estimated_bytes(),
            reserved_bytes: entry.map_or(0, |entry| entry.reserved()),
            measured_bytes: entry.map_or(0, |entry| entry.measured()),
            last_load_seconds: slot.load_times.last.map(seconds),
            average_load_seconds: slot.load_times.average().map(seconds),
        }
    }
}
