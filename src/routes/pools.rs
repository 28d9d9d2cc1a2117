//! `GET /api/pools`: a summary of every pool. `GET /api/pools/{pool}`: one pool with all counters.
//!
//! `POST /api/pools/{pool}/probe`: uses the pool like any caller, which opens it if it is cold, and
//! returns what its server reports about itself.

use std::time::Instant;

use actix_web::{Responder, web};
use headroom_actors::kernel::private_server::ServerState;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::pools::{Health, Kind, Pool, PoolReport, ServerOrigin};
use crate::problem::{Problem, ProblemKind};

/// A summary of one pool.
#[derive(Serialize, ToSchema)]
#[schema(as = PoolSummary)]
struct Summary {
    /// Its name.
    name: &'static str,
    /// What it connects to.
    kind: Kind,
    /// Who runs the server.
    server: ServerOrigin,
    /// Its health.
    health: Health,
    /// Open connections.
    size: u32,
    /// Open connections that nobody uses.
    idle: u32,
    /// Open connections that are leased, checked or cleaned.
    in_use: u32,
    /// Callers that wait.
    waiting: u32,
    /// The least connections that it keeps once it is open.
    connections_min: u32,
    /// The most connections that it opens.
    connections_max: u32,
}

/// Every pool.
#[derive(Serialize, ToSchema)]
struct Pools {
    /// All pools.
    pools: Vec<Summary>,
}

pub(super) fn list_docs() -> Docs {
    Docs::new("A summary of every pool")
        .answer::<Pools>(200, "The pools.")
        .example(json!({ "pools": [{
            "name": "postgres", "kind": "postgres", "server": "embedded", "health": "healthy",
            "size": 5, "idle": 4, "in_use": 1, "waiting": 0, "connections_min": 5, "connections_max": 30,
        }] }))
        .calls_actors()
}

pub(super) async fn list(handles: RequestHandles) -> Result<impl Responder, Problem> {
    let mut pools = Vec::new();
    for pool in handles.pools.iter() {
        let report = pool.report(handles.left()).await?;
        let status = &report.connections;
        let (connections_min, connections_max) = pool.bounds;
        pools.push(Summary {
            name: pool.name,
            kind: pool.kind(),
            server: (&pool.origin).into(),
            health: report.health(pool.need),
            size: status.size,
            idle: status.idle,
            in_use: status.in_use,
            waiting: status.waiting,
            connections_min,
            connections_max,
        });
    }
    Ok(web::Json(Pools { pools }))
}

/// One pool with all counters.
#[derive(Serialize, ToSchema)]
#[schema(as = PoolDetails)]
struct Details {
    /// Its name.
    name: &'static str,
    /// What it connects to.
    kind: Kind,
    /// Who runs the server.
    server: ServerOrigin,
    /// The state of the private server, if it is one.
    private_server: Option<ServerState>,
    /// Its health.
    health: Health,
    #[serde(flatten)]
    report: PoolReport,
}

pub(super) fn one_docs() -> Docs {
    Docs::new("One pool with all counters")
        .variable("pool", "The name of a pool.", "postgres")
        .answer::<Details>(200, "The pool.")
        .calls_actors()
}

pub(super) async fn one(
    handles: RequestHandles,
    name: web::Path<String>,
) -> Result<impl Responder, Problem> {
    let pool = find(&handles, &name)?;
    let report = pool.report(handles.left()).await?;
    Ok(web::Json(Details {
        name: pool.name,
        kind: pool.kind(),
        server: (&pool.origin).into(),
        private_server: pool.private_server(),
        health: report.health(pool.need),
        report,
    }))
}

/// A pool that was used.
#[derive(Serialize, ToSchema)]
#[schema(as = ProbedPool)]
struct Probed {
    /// Its name.
    name: &'static str,
    /// Includes the time to open a connection, if none was open.
    took_seconds: f64,
    /// What the server reports about itself.
    server: Value,
}

pub(super) fn probe_docs() -> Docs {
    Docs::new("Use a pool like any caller, and show what its server reports about itself")
        .text("A cold pool is opened, and its private server started.")
        .variable("pool", "The name of a pool.", "postgres")
        .answer::<Probed>(200, "The server answered.")
        .example(json!({
            "name": "redis-cache", "took_seconds": 0.143,
            "server": { "version": "7.0.15", "role": "master", "clients": 1, "latency_seconds": 0.0005 },
        }))
        .calls_actors()
        .problems(&[ProblemKind::NotReady])
}

pub(super) async fn probe(
    handles: RequestHandles,
    name: web::Path<String>,
) -> Result<impl Responder, Problem> {
    let pool = find(&handles, &name)?;
    let began = Instant::now();
    pool.touch(handles.left()).await?;
    let server = pool.facts(handles.left()).await?;
    Ok(web::Json(Probed {
        name: pool.name,
        took_seconds: began.elapsed().as_secs_f64(),
        server,
    }))
}

fn find<'handles>(
    handles: &'handles RequestHandles,
    name: &str,
) -> Result<&'handles Pool, Problem> {
    let found = handles.pools.iter().find(|pool| pool.name == name);
    found.ok_or_else(Problem::not_found)
}
