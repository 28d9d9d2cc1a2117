//! What a caller may ask of a load test: which scenarios, and for how long.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::parameters::{Database, Http, LazyLoading, Limits, Memory, invalid};
use crate::problem::Problem;

/// The longest time of a load test.
const DEADLINE_MAX: f64 = 1800.0;

/// The time of a load test beyond that of its scenarios.
const TO_REPORT: f64 = 30.0;

/// The longest time of a scenario, and the shortest.
const SCENARIO_SECONDS: RangeInclusive<f64> = 0.1..=600.0;

/// The body of a request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LoadTestRequest {
    /// How long the whole load test may take, 1 to 1800. By default, as long as its scenarios may take
    /// together.
    deadline_seconds: Option<f64>,
    /// The scenarios to run, in this order: memory, lazy_loading, database, http. By default, all that can
    /// run on this server.
    scenarios: Option<Scenarios>,
}

/// The scenarios to run, each with its parameters. `{}` stands for the defaults.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = LoadTestScenarios)]
#[serde(deny_unknown_fields)]
struct Scenarios {
    /// Blocks of memory.
    memory: Option<Memory>,
    /// Loads, hits and unloads of models.
    lazy_loading: Option<LazyLoading>,
    /// Selects by primary key.
    database: Option<Database>,
    /// Requests to the server's own listener.
    http: Option<Http>,
}

/// One scenario with its parameters.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Scenario {
    Memory(Memory),
    LazyLoading(Box<LazyLoading>),
    Database(Database),
    Http(Http),
}

impl Scenario {
    /// Its name in requests and reports.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::LazyLoading(_) => "lazy_loading",
            Self::Database(_) => "database",
            Self::Http(_) => "http",
        }
    }

    fn deadline_seconds(&self) -> f64 {
        match self {
            Self::Memory(memory) => memory.deadline_seconds,
            Self::LazyLoading(lazy_loading) => lazy_loading.deadline_seconds,
            Self::Database(database) => database.deadline_seconds,
            Self::Http(http) => http.deadline_seconds,
        }
    }

    /// How long it may take.
    pub(super) fn deadline(&self) -> Duration {
        Duration::try_from_secs_f64(self.deadline_seconds()).unwrap_or_default()
    }

    /// Checks the parameters.
    fn check(&self) -> Result<(), Problem> {
        let scenario = self.name();
        let limits = Limits(scenario);
        limits.check(
            "deadline_seconds",
            self.deadline_seconds(),
            SCENARIO_SECONDS,
        )?;
        match self {
            Self::Memory(memory) => memory.check(&limits),
            Self::LazyLoading(lazy_loading) => lazy_loading.check(&limits),
            Self::Database(database) => database.check(&limits),
            Self::Http(http) => http.check(&limits),
        }
    }
}

/// A load test that may be run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) scenarios: Vec<Scenario>,
    /// Whether the caller has named the scenarios. Otherwise those that cannot run are left out.
    pub(super) is_selection: bool,
    /// How long all of it may take.
    pub(super) deadline: Duration,
}

impl Plan {
    /// Checks a request, and fills in the defaults.
    pub(super) fn new(request: LoadTestRequest) -> Result<Self, Problem> {
        let is_selection = request.scenarios.is_some();
        let scenarios = match request.scenarios {
            None => vec![
                Scenario::Memory(Memory::default()),
                Scenario::LazyLoading(Box::default()),
                Scenario::Database(Database::default()),
                Scenario::Http(Http::default()),
            ],
            Some(Scenarios {
                memory,
                lazy_loading,
                database,
                http,
            }) => {
                let scenarios = [
                    memory.map(Scenario::Memory),
                    lazy_loading.map(|it| Scenario::LazyLoading(Box::new(it))),
                    database.map(Scenario::Database),
                    http.map(Scenario::Http),
                ];
                scenarios.into_iter().flatten().collect()
            }
        };
        if scenarios.is_empty() {
            return Err(invalid(
                "scenarios has at least one of: memory, lazy_loading, database, http; without \
                 scenarios, all run that can",
            ));
        }
        scenarios.iter().try_for_each(Scenario::check)?;
        let together: f64 = scenarios.iter().map(Scenario::deadline_seconds).sum();
        let together = (together + TO_REPORT).min(DEADLINE_MAX);
        let seconds = request.deadline_seconds.unwrap_or(together);
        if !(1.0..=DEADLINE_MAX).contains(&seconds) {
            let detail = format!("deadline_seconds is {seconds}; it can be 1 to {DEADLINE_MAX}");
            return Err(invalid(detail));
        }
        Ok(Self {
            scenarios,
            is_selection,
            deadline: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
        })
    }

    /// What the load test does, in a sentence.
    pub(super) fn describe(&self) -> String {
        let names: Vec<_> = self.scenarios.iter().map(Scenario::name).collect();
        format!("put load on {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests;
