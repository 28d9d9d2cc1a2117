//! The job of a load test: it runs the scenarios one after the other, and reports what came of each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headroom_actors::jobs::{JobContext, WorkResult};
use headroom_actors::kernel::private_server::ServerState;
use headroom_actors::lazy::{Phase, ResourceStatus, Status};

use super::report::{EndedBy, Report, ScenarioReport};
use super::request::{Plan, Scenario};
use super::run::{CannotRun, Measured, Run};
use super::watch::{MemoryFigures, UNITS, watch};
use super::{LoadTestDeps, database, http, lazy_loading, memory};
use crate::handles::Handles;

/// How long the loader may take to give its status.
const STATUS_WITHIN: Duration = Duration::from_secs(1);

/// Runs the scenarios of `plan`. When the job is cancelled, the scenario under way ends at once, and no
/// further one begins.
pub(super) async fn load_test(
    handles: Handles,
    deps: Arc<LoadTestDeps>,
    plan: Plan,
    job: JobContext,
) -> WorkResult {
    job.set_total(plan.scenarios.len() as u64 * UNITS);
    let before = loaded(&handles).await;
    let (mut reports, mut left_out) = (Vec::new(), BTreeMap::new());
    for scenario in plan.scenarios {
        let name = scenario.name();
        if job.is_cancelled() {
            left_out.insert(name, "the job ended before".to_owned());
            continue;
        }
        let step = job.begin_step(name);
        let run = Run::new(handles.clone(), Arc::clone(&deps), job.clone());
        match run_one(scenario, &run, plan.is_selection).await {
            Ok(report) => {
                let summary = report.summary();
                match report.has_passed() {
                    true => step.succeed(summary),
                    false => step.fail(summary),
                }
                reports.push(report);
            }
            Err(CannotRun(reason)) => {
                step.succeed(format!("left out: {reason}"));
                left_out.insert(name, reason);
            }
        }
    }
    let mut left_loaded = loaded(&handles).await;
    left_loaded.retain(|name, _| !before.contains_key(name));
    let report = Report::new(reports, left_out, left_loaded, job.is_cut_short());
    Ok(serde_json::to_value(report).map_err(|error| error.to_string())?)
}

/// Runs one scenario. If it cannot run, that is an error only where it was not asked for by name.
async fn run_one(
    scenario: Scenario,
    run: &Run,
    is_asked_for: bool,
) -> Result<ScenarioReport, CannotRun> {
    let began = Instant::now();
    let (measured, memory) = measure(&scenario, run).await;
    let (measured, error) = match measured {
        Ok(measured) => (measured, None),
        Err(CannotRun(reason)) if is_asked_for => (Measured::default(), Some(reason)),
        Err(cannot_run) => return Err(cannot_run),
    };
    let ended_by = match (error, run.ended_by()) {
        (Some(reason), _) => (EndedBy::Error, Some(reason)),
        (None, Some((ended_by, reason))) => (ended_by, Some(reason)),
        (None, None) => (EndedBy::Operations, None),
    };
    let took = began.elapsed().as_secs_f64();
    Ok(ScenarioReport::new(
        scenario, measured, ended_by, took, memory,
    ))
}

async fn measure(scenario: &Scenario, run: &Run) -> (Result<Measured, CannotRun>, MemoryFigures) {
    let work = async {
        match scenario {
            Scenario::Memory(parameters) => memory::run(parameters, run).await,
            Scenario::LazyLoading(parameters) => lazy_loading::run(parameters, run).await,
            Scenario::Database(parameters) => database::run(parameters, run).await,
            Scenario::Http(parameters) => http::run(parameters, run).await,
        }
    };
    watch(run, scenario.deadline(), work).await
}

/// What is loaded, with the time of its unload.
async fn loaded(handles: &Handles) -> BTreeMap<String, String> {
    let resources = handles.loader.ask(Status, STATUS_WITHIN).await;
    let resources = resources.unwrap_or_default().into_iter();
    let ready = resources.filter(|resource| resource.phase == Phase::Ready);
    let mut loaded: BTreeMap<_, _> = ready.map(|it| (it.name.clone(), unload_of(&it))).collect();
    for pool in handles.pools.iter() {
        if let Some(ServerState::Running { .. }) = pool.private_server() {
            let server = format!("private server of the pool {}", pool.name);
            loaded.insert(server, "when this server stops".into());
        }
    }
    loaded
}

fn unload_of(resource: &ResourceStatus) -> String {
    match resource.ttl_seconds {
        Some(seconds) => format!("when it was idle for {seconds} s, or memory is short"),
        None if resource.pinned => "when an operator unloads it".into(),
        None => "when memory is short".into(),
    }
}
