//! The status of the loader and of each resource, for operators.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::dry_run::IfLoaded;
use super::error::Excess;
use super::hit_rate::HitRates;
use super::load_times::LoadTimeQuantiles;
use super::phase::Phase;
use super::policy::PolicyKind;
use super::slot::Slot;
use crate::kernel::{Clock, LoadErrorKind, Reservation, Timestamp};

/// The counts of one resource. They start at 0 in each incarnation of the loader.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = ResourceCounts)]
pub struct Counts {
    /// Loads started.
    #[serde(rename = "loads_total")]
    pub loads: u64,
    /// How often a caller found it ready. The load of a dependent is a caller, too.
    #[serde(rename = "hits_total")]
    pub hits: u64,
    /// How often a caller found it not ready.
    #[serde(rename = "misses_total")]
    pub misses: u64,
    /// How often a caller had to wait for it.
    #[serde(rename = "waits_total")]
    pub waits: u64,
    /// Loads that failed.
    #[serde(rename = "failures_total")]
    pub failures: u64,
    /// How often it died while it was loaded.
    #[serde(rename = "deaths_total")]
    pub deaths: u64,
    /// How often it was drained, by reason: ttl, room (another load needed its memory), pressure,
    /// request, dependency, stop. The API calls every drain an eviction.
    #[serde(rename = "evictions_total")]
    pub evictions: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// How often callers have asked for it.
    pub fn uses(&self) -> u64 {
        self.hits + self.misses
    }
}

/// The status of one resource.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ResourceStatus {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// The names of the resources that it needs.
    pub depends_on: Vec<String>,
    /// The names of the resources that need it, loaded or not.
    pub dependents: Vec<String>,
    /// Its phase.
    pub phase: Phase,
    /// Since when it is in that phase.
    pub phase_since_at: Timestamp,
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
    /// When a caller can cause the next try; 0 for at once. `null` unless it has failed.
    pub next_try_in_seconds: Option<f64>,
    /// Its last use, or its last load if it was not used since. `null` if it was never loaded.
    pub last_use_at: Option<Timestamp>,
    /// How long it stays loaded after its last use. `null` for ever.
    pub ttl_seconds: Option<f64>,
    /// What is left of its TTL. `null` while it is not loaded or in use, and without a TTL.
    pub ttl_left_seconds: Option<f64>,
    /// Whether only a request or a stop unloads it.
    pub pinned: bool,
    /// Its place in the order of evictions, from 1. `null` if it cannot be evicted now.
    pub eviction_rank: Option<usize>,
    /// Whether it leaks, or uses far more than right after its load. It is then evicted first.
    pub suspect: bool,
    /// By how much it is too large for the budget. `null` if it fits, and while it is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub never_fits: Option<Excess>,
    /// What its next load will reserve.
    pub estimated_bytes: u64,
    /// What it has reserved; 0 when it is not loaded.
    pub reserved_bytes: u64,
    /// What its processes use; 0 when it is not loaded or has no processes.
    pub measured_bytes: u64,
    /// How long its loads took. `null` before the first completed load.
    pub load_times: Option<LoadTimeQuantiles>,
}

impl ResourceStatus {
    /// The status of `slot`, without what other slots say of it: its dependents and its rank.
    pub(super) fn new(slot: &Slot, never_fits: Option<Excess>, clock: &Clock) -> Self {
        let resource = &slot.resource;
        let entry = slot.reservation.as_ref().map(Reservation::entry);
        let seconds = |time: Duration| time.as_secs_f64();
        let left = |at: Instant| seconds(at.saturating_duration_since(Instant::now()));
        Self {
            name: resource.name.clone(),
            kind: resource.kind,
            depends_on: resource.depends_on.clone(),
            dependents: Vec::new(),
            phase: slot.phase(),
            phase_since_at: clock.time_of(slot.phase_since()),
            leases: slot.lease_count(),
            waiters: slot.waiting(),
            counts: slot.counts.clone(),
            last_error: slot.last_error.as_ref().map(ToString::to_string),
            last_fault: slot.last_error.as_ref().map(|error| error.kind),
            next_try_in_seconds: slot.retry_in().map(seconds),
            last_use_at: slot.last_use().map(|last_use| clock.time_of(last_use)),
            ttl_seconds: resource.ttl.map(seconds),
            ttl_left_seconds: slot.expires_at().map(left),
            pinned: resource.pinned,
            eviction_rank: None,
            suspect: slot.feedback.is_suspect(),
            never_fits,
            estimated_bytes: slot.estimated_bytes(),
            reserved_bytes: entry.map_or(0, |entry| entry.reserved()),
            measured_bytes: slot.measured_bytes(),
            load_times: slot.load_times.quantiles(),
        }
    }
}

/// The status of the loader.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LoaderStatus {
    /// The moment of this status.
    pub at: Timestamp,
    /// The start of the loader. All counts and rates begin there.
    pub started_at: Timestamp,
    /// Which idle resource is evicted first.
    pub policy: PolicyKind,
    /// How often callers found their resource ready. Loads of dependents do not count here.
    pub hit_rate: HitRates,
    /// Every resource, by name.
    pub resources: Vec<ResourceStatus>,
    /// The idle resources in the order in which they would be evicted, the first 20.
    pub next_evictions: Vec<NextEviction>,
    /// What the load of one resource would do, if the request names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_loaded: Option<IfLoaded>,
}

/// An idle resource that can be evicted.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NextEviction {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Bytes that its unload frees.
    pub bytes: u64,
    /// Why it is evicted before those that follow.
    pub reason: EvictionReason,
    /// Its last use, or its last load if it was not used since.
    pub last_use_at: Option<Timestamp>,
    /// The mean of its load times: what its next use would cost.
    pub reload_seconds: f64,
}

/// Why a resource is evicted before those that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvictionReason {
    /// It leaks, or uses far more than right after its load.
    Suspect,
    /// Its bytes save the least reload time, by its share of the uses (`gdsf`).
    LeastReloadTimePerByte,
    /// It was not used for the longest time (`lru`).
    LeastRecentlyUsed,
    /// Only resources before it in the list need it; after them it is the next by the policy.
    AfterItsDependents,
}
