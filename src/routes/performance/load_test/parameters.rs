//! The parameters of each scenario, with their limits and defaults.

use std::fmt::Display;
use std::ops::RangeInclusive;

use headroom_measure::{Pace, Thresholds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{BYTES_MAX, SOCKETS_MAX};
use crate::problem::{Problem, ProblemKind};

/// The most bytes of all blocks together. The rest of the account is for callers and counts.
const BLOCKS_BYTES_MAX: u64 = BYTES_MAX - (16 << 20);

/// Operations that are due each second in an open loop.
const RATES: RangeInclusive<f64> = 0.1..=100_000.0;

/// The most models of a load test.
pub(super) const MODELS_MAX: usize = 16;

/// Blocks of memory that are reserved in the budget, written, checked and freed, in a closed loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = LoadTestMemory)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Memory {
    /// Blocks of all callers together, 1 to 1,000,000.
    pub(super) operations: u64,
    /// Callers, each of which holds one block at a time, 1 to 64.
    pub(super) callers: u32,
    /// The size of a block, 4096 to 67,108,864. All callers together hold at most 251,658,240.
    pub(super) block_bytes: u64,
    /// How long the scenario may take, 0.1 to 600.
    pub(super) deadline_seconds: f64,
    /// What the figures should be.
    pub(super) thresholds: Thresholds,
}

/// Loads, hits and unloads of models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = LoadTestLazyLoading)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LazyLoading {
    /// Names of models (`silero-vad`) or of their versions (`silero-vad:1`), 1 to 16. By default, the first
    /// 16 that are known.
    pub(super) models: Option<Vec<String>>,
    /// How often each model is loaded, 1 to 100. One that was loaded before the load test is not unloaded,
    /// so it gives only hits.
    pub(super) rounds: u32,
    /// Leases on each model after each load, 1 to 100,000, in a closed loop.
    pub(super) hits: u64,
    /// Callers that want the leases, 1 to 64.
    pub(super) callers: u32,
    /// How long the scenario may take, 0.1 to 600.
    pub(super) deadline_seconds: f64,
    /// What the figures should be.
    pub(super) thresholds: LazyLoadingThresholds,
}

/// What the figures of lazy loading should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = LoadTestLazyLoadingThresholds)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LazyLoadingThresholds {
    /// From a request for a model that is not loaded to its lease.
    pub(super) cold_load: Thresholds,
    /// From a request for a loaded model to its lease.
    pub(super) hit: Thresholds,
    /// From a request to unload an idle model until its memory is free.
    pub(super) unload: Thresholds,
}

/// Selects by primary key through the server's own pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = LoadTestDatabase)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Database {
    /// Queries of all callers together, 1 to 10,000,000.
    pub(super) operations: u64,
    /// Callers, and so the most queries at once, 1 to 1000.
    pub(super) callers: u32,
    /// Rows of the table that is made for this, 1 to 100,000.
    pub(super) rows: u32,
    /// Queries that are due each second in an open loop, 0.1 to 100,000. `null`: a closed loop.
    pub(super) rate_per_second: Option<f64>,
    /// How long the scenario may take, 0.1 to 600. The first use of a private PostgreSQL starts it.
    pub(super) deadline_seconds: f64,
    /// What the figures should be.
    pub(super) thresholds: Thresholds,
}

/// GET requests to the server's own listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = LoadTestHttp)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Http {
    /// The path of a GET route without parameters.
    pub(super) path: String,
    /// Requests of all callers together, 1 to 10,000,000.
    pub(super) operations: u64,
    /// Callers with a connection each, and so the most requests at once, 1 to 500. A low limit of open files
    /// allows fewer.
    pub(super) callers: u32,
    /// Requests that are due each second in an open loop, 0.1 to 100,000. `null`: a closed loop.
    pub(super) rate_per_second: Option<f64>,
    /// How long the scenario may take, 0.1 to 600.
    pub(super) deadline_seconds: f64,
    /// What the figures should be.
    pub(super) thresholds: Thresholds,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            operations: 1000,
            callers: 4,
            block_bytes: 1 << 20,
            deadline_seconds: 30.0,
            thresholds: Thresholds::default(),
        }
    }
}

impl Default for LazyLoading {
    fn default() -> Self {
        Self {
            models: None,
            rounds: 3,
            hits: 100,
            callers: 4,
            deadline_seconds: 120.0,
            thresholds: LazyLoadingThresholds::default(),
        }
    }
}

impl Default for Database {
    fn default() -> Self {
        Self {
            operations: 10_000,
            callers: 500,
            rows: 10_000,
            rate_per_second: None,
            deadline_seconds: 120.0,
            thresholds: Thresholds::default(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            path: "/v2/health/live".into(),
            operations: 2000,
            callers: 50,
            rate_per_second: Some(500.0),
            deadline_seconds: 30.0,
            thresholds: Thresholds::default(),
        }
    }
}

/// Checks the parameters of the scenario of this name.
pub(super) struct Limits(pub(super) &'static str);

impl Limits {
    pub(super) fn check<T: PartialOrd + Display>(
        &self,
        parameter: &str,
        value: T,
        limits: RangeInclusive<T>,
    ) -> Result<(), Problem> {
        if limits.contains(&value) {
            return Ok(());
        }
        let (least, most) = limits.into_inner();
        let scenario = self.0;
        Err(invalid(format!(
            "scenarios.{scenario}.{parameter} is {value}; it can be {least} to {most}"
        )))
    }

    fn check_rate(&self, rate: Option<f64>) -> Result<(), Problem> {
        rate.map_or(Ok(()), |rate| self.check("rate_per_second", rate, RATES))
    }

    fn check_thresholds(&self, path: &str, thresholds: &Thresholds) -> Result<(), Problem> {
        if let Some(errors) = thresholds.errors_max {
            self.check(&format!("{path}.errors_max"), errors, 0..=10_000_000)?;
        }
        let Some(threshold) = thresholds.invalid() else {
            return Ok(());
        };
        let scenario = self.0;
        Err(invalid(format!(
            "scenarios.{scenario}.{path}.{threshold} must be a number of at least 0"
        )))
    }
}

impl Memory {
    pub(super) fn check(&self, limits: &Limits) -> Result<(), Problem> {
        limits.check("operations", self.operations, 1..=1_000_000)?;
        limits.check("callers", self.callers, 1..=64)?;
        limits.check("block_bytes", self.block_bytes, 4096..=(64 << 20))?;
        let together = u64::from(self.callers) * self.block_bytes;
        if together > BLOCKS_BYTES_MAX {
            return Err(invalid(format!(
                "scenarios.memory.callers times block_bytes is {together}; it can be at most \
                 {BLOCKS_BYTES_MAX}"
            )));
        }
        limits.check_thresholds("thresholds", &self.thresholds)
    }
}

impl LazyLoading {
    pub(super) fn check(&self, limits: &Limits) -> Result<(), Problem> {
        if let Some(models) = &self.models {
            limits.check(
                "models: the number of entries",
                models.len(),
                1..=MODELS_MAX,
            )?;
        }
        limits.check("rounds", self.rounds, 1..=100)?;
        limits.check("hits", self.hits, 1..=100_000)?;
        limits.check("callers", self.callers, 1..=64)?;
        let thresholds = &self.thresholds;
        limits.check_thresholds("thresholds.cold_load", &thresholds.cold_load)?;
        limits.check_thresholds("thresholds.hit", &thresholds.hit)?;
        limits.check_thresholds("thresholds.unload", &thresholds.unload)
    }
}

impl Database {
    pub(super) fn check(&self, limits: &Limits) -> Result<(), Problem> {
        limits.check("operations", self.operations, 1..=10_000_000)?;
        limits.check("callers", self.callers, 1..=1000)?;
        limits.check("rows", self.rows, 1..=100_000)?;
        limits.check_rate(self.rate_per_second)?;
        limits.check_thresholds("thresholds", &self.thresholds)
    }
}

impl Http {
    pub(super) fn check(&self, limits: &Limits) -> Result<(), Problem> {
        limits.check("operations", self.operations, 1..=10_000_000)?;
        limits.check("callers", self.callers, 1..=SOCKETS_MAX)?;
        limits.check_rate(self.rate_per_second)?;
        limits.check_thresholds("thresholds", &self.thresholds)?;
        let routes = crate::routes::table();
        // A stream of events has no end.
        let is_readable = |path: &str| !path.contains('{') && !path.ends_with("/events");
        let mut readable = routes.iter().filter(|route| route.method == "GET");
        if readable.any(|route| route.path == self.path && is_readable(route.path)) {
            return Ok(());
        }
        Err(invalid(format!(
            "scenarios.http.path is {:?}; it must be the path of a GET route without parameters \
             that ends, such as /v2/health/live or /api/performance/metrics",
            self.path
        )))
    }
}

/// The pace of a rate: an open loop, or a closed one without a rate.
pub(super) fn pace(rate_per_second: Option<f64>) -> Pace {
    rate_per_second.map_or(Pace::Closed, |per_second| Pace::Open { per_second })
}

pub(super) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::InvalidInput, detail)
}
