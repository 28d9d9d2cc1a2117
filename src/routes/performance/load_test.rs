//! `POST /api/performance/load-test`: puts load on this server, and measures what comes of it. Only where
//! `server.profile` is `development`.
//!
//! The body selects scenarios with their parameters and thresholds (`request.rs`, `parameters.rs`). The answer is a 202 with
//! a job (`job.rs`), whose result has figures and verdicts (`report.rs`). Only one load test runs at once.
//! Each scenario has a file: `memory.rs`, `lazy_loading.rs`, `database.rs`, `http.rs`.

mod database;
mod http;
mod job;
mod lazy_loading;
mod memory;
mod parameters;
mod report;
mod request;
mod run;
mod thread;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use headroom_actors::jobs::{JobKind, Start};
use headroom_actors::kernel::Buffers;
use headroom_actors::kernel::pressure::PressureReader;
use headroom_actors::memory::Overview;
use serde_json::json;

use crate::body::{BodyBudget, read_json};
use crate::handles::{Handles, RequestHandles};
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};
use crate::routes::wait::{self, WaitQuery};
use crate::settings::values::Profile;
use request::{LoadTestRequest, Plan};

pub(super) const LOAD_TEST: JobKind = JobKind::exclusive("load-test");

/// The most bytes that a load test may hold in this process.
pub const BYTES_MAX: u64 = 256 << 20;

/// The most connections that a load test may open to its own server.
pub const SOCKETS_MAX: u32 = 500;

/// What load tests need beside the actors' handles.
pub struct LoadTestDeps {
    /// What the server is for.
    pub profile: Profile,
    /// The server's own listener, as a client on this machine reaches it.
    pub address: SocketAddr,
    /// How many connections the limit of descriptors allows it to open there, at most [`SOCKETS_MAX`].
    pub sockets_max: usize,
    /// The account for what a load test holds, of [`BYTES_MAX`].
    pub account: Arc<dyn Buffers>,
    /// The pressure, at whose level critical a scenario ends.
    pub pressure: PressureReader,
    /// The usage of memory.
    pub memory: Overview,
}

pub(in crate::routes) fn start_docs() -> Docs {
    let example = json!({ "scenarios": {
        "database": { "callers": 500, "thresholds": { "p99_ms": 10, "errors_max": 0 } },
        "http": {},
    }});
    let docs = Docs::new("Put load on this server, and judge the figures")
        .text(
            "Only where `server.profile` is `development`. `{}` runs every scenario that can run. The \
             job's result has figures and verdicts; docs/load-tests.md explains them. One load test \
             runs at a time.",
        )
        .body::<LoadTestRequest>(example)
        .problems(&[
            ProblemKind::Forbidden,
            ProblemKind::Conflict,
            ProblemKind::NotReady,
        ]);
    wait::documented(docs)
}

pub(in crate::routes) async fn start(
    request: HttpRequest,
    payload: web::Payload,
    bodies: web::Data<BodyBudget>,
    handles: RequestHandles,
    deps: web::Data<LoadTestDeps>,
    query: web::Query<WaitQuery>,
) -> Result<HttpResponse, Problem> {
    if deps.profile != Profile::Development {
        return Err(not_allowed());
    }
    let parse = |body: &[u8]| Plan::new(read_json::<LoadTestRequest>(body)?);
    let (wait, plan) = wait::read(&request, payload, &bodies, &query, &handles, parse).await?;
    let (description, deadline) = (plan.describe(), plan.deadline);
    let (actors, deps) = (Handles::clone(&handles), deps.into_inner());
    let start = Start::new(LOAD_TEST, description, deadline, |job| {
        job::load_test(actors, deps, plan, job)
    });
    let job = handles.jobs.ask(start, handles.left()).await??;
    Ok(wait::respond(job, wait, &handles).await)
}

fn not_allowed() -> Problem {
    let detail = "load tests run only on a development server: start it with --profile development, \
                  or set server.profile = \"development\" (HEADROOM__SERVER__PROFILE=development)";
    Problem::new(ProblemKind::Forbidden, detail).with("setting", "server.profile")
}
