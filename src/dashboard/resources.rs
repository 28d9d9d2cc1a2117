//! The resources of the loader in the status.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use headroom_actors::kernel::{LoadErrorKind, Timestamp};
use headroom_actors::lazy::{HitRates, LoaderStatus, Phase, PolicyKind, ResourceStatus};
use serde::Serialize;
use utoipa::ToSchema;

use super::{keep_first, short};
use crate::figures::{ModelFigures, ModelRequests};

/// What the loader has loaded and can load. Counts start at 0 in each incarnation of the loader.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = StatusResources)]
pub struct Resources {
    /// How many are in each phase.
    pub phases: BTreeMap<&'static str, u64>,
    /// Which idle resource is evicted first.
    pub policy: PolicyKind,
    /// How often callers found their resource ready.
    pub hit_rate: HitRates,
    /// The resources: those that have failed, load or drain first, then those that are loaded, then the
    /// others, each by name; at most 200.
    pub resources: Vec<Resource>,
    /// Further ones, which are not listed. `GET /api/performance/lazy-loader/status` has all.
    pub not_listed: usize,
}

/// One resource.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = StatusResource)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its phase.
    pub phase: Phase,
    /// Since when it is in that phase.
    pub phase_since_at: Timestamp,
    /// What its processes use; 0 when it is not loaded.
    pub measured_bytes: u64,
    /// What it has reserved; 0 when it is not loaded.
    pub reserved_bytes: u64,
    /// What its next load will reserve.
    pub estimated_bytes: u64,
    /// Leases on it, those of loaded dependents included.
    pub leases: usize,
    /// Callers that wait for it.
    pub waiters: usize,
    /// How often a caller found it ready.
    pub hits_total: u64,
    /// How often a caller found it not ready.
    pub misses_total: u64,
    /// Loads started.
    pub loads_total: u64,
    /// Loads that failed.
    pub failures_total: u64,
    /// How often it was drained, for any reason.
    pub evictions_total: u64,
    /// Half of its loads took no longer. Missing before the first completed load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_p50_seconds: Option<f64>,
    /// 99 % of its loads took no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_p99_seconds: Option<f64>,
    /// Its last use, or its last load if it was not used since. Missing if it was never loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_use_at: Option<Timestamp>,
    /// What is left of its TTL. Missing while it is not loaded or in use, and without a TTL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_left_seconds: Option<f64>,
    /// Requests that had outputs of it since the server started. Of 500 models; beyond that, the one that was
    /// not used for the longest time begins anew.
    pub requests_total: u64,
    /// Half of these requests took no longer, from when the body was read and parsed to the outputs; the wait
    /// for a load is part of that. Of the last 5 minutes, or of all if there was none in that time; up to a sixteenth too
    /// large. Missing before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_p50_ms: Option<f64>,
    /// 99 % of these requests took no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_p99_ms: Option<f64>,
    /// Its place in the order of evictions, from 1. Missing if it cannot be evicted now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction_rank: Option<usize>,
    /// Whether only a request or a stop unloads it.
    pub pinned: bool,
    /// Whether it leaks, or uses far more than right after its load.
    pub suspect: bool,
    /// Whether it is too large for the budget.
    pub never_fits: bool,
    /// The kind of its last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_fault: Option<LoadErrorKind>,
    /// Its last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When a caller can cause the next try; 0 for at once. Missing unless it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try_in_seconds: Option<f64>,
}

/// Resources that are listed.
const LISTED_MAX: usize = 200;

impl Resources {
    pub(super) fn new(status: &LoaderStatus, figures: &ModelFigures) -> Self {
        let mut phases: BTreeMap<_, _> = Phase::ALL.map(|phase| (phase.label(), 0)).into();
        for resource in &status.resources {
            *phases.entry(resource.phase.label()).or_default() += 1;
        }
        let mut all: Vec<_> = status.resources.iter().collect();
        // They are sorted by name already, and this keeps the order of equals.
        all.sort_by_key(|resource| Reverse(interest(resource)));
        let not_listed = keep_first(&mut all, LISTED_MAX);
        let resources = all.into_iter().map(|resource| {
            let requests = figures.requests(&resource.name);
            Resource::new(resource, requests)
        });
        Self {
            phases,
            policy: status.policy,
            hit_rate: status.hit_rate,
            resources: resources.collect(),
            not_listed,
        }
    }

    /// With at most the first `count` resources.
    pub(super) fn first(mut self, count: usize) -> Self {
        self.not_listed += keep_first(&mut self.resources, count);
        self
    }
}

/// How much an operator wants to see a resource.
fn interest(resource: &ResourceStatus) -> u8 {
    match resource.phase {
        Phase::Failed => 4,
        Phase::Loading | Phase::Draining => 3,
        Phase::Ready => 2,
        Phase::Cold => u8::from(resource.last_use_at.is_some()),
    }
}

impl Resource {
    fn new(status: &ResourceStatus, requests: Option<ModelRequests>) -> Self {
        Self {
            name: status.name.clone(),
            kind: status.kind,
            phase: status.phase,
            phase_since_at: status.phase_since_at,
            measured_bytes: status.measured_bytes,
            reserved_bytes: status.reserved_bytes,
            estimated_bytes: status.estimated_bytes,
            leases: status.leases,
            waiters: status.waiters,
            hits_total: status.counts.hits,
            misses_total: status.counts.misses,
            loads_total: status.counts.loads,
            failures_total: status.counts.failures,
            evictions_total: status.counts.evictions.values().sum(),
            load_p50_seconds: status.load_times.map(|times| times.p50_seconds),
            load_p99_seconds: status.load_times.map(|times| times.p99_seconds),
            last_use_at: status.last_use_at,
            ttl_left_seconds: status.ttl_left_seconds,
            requests_total: requests.map_or(0, |requests| requests.total),
            request_p50_ms: requests.map(|requests| requests.p50_ms),
            request_p99_ms: requests.map(|requests| requests.p99_ms),
            eviction_rank: status.eviction_rank,
            pinned: status.pinned,
            suspect: status.suspect,
            never_fits: status.never_fits.is_some(),
            last_fault: status.last_fault,
            last_error: status.last_error.clone().map(short),
            next_try_in_seconds: status.next_try_in_seconds,
        }
    }
}
