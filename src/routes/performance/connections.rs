//! `GET /api/performance/connections/stats`: the counters of every pool.
//!
//! `GET /api/performance/connections/health`: the health of each pool. If a pool has open connections,
//! the response includes what its server reports about itself. The request opens no connection and starts
//! no server, and succeeds while every server is down.

use std::time::{Duration, Instant};

use actix_web::{Responder, web};
use futures_util::future::{join_all, try_join_all};
use headroom_actors::kernel::pool::{CircuitStatus, PoolStatus};
use headroom_actors::kernel::private_server::ServerState;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::pools::{Health, Pool};
use crate::problem::Problem;

/// How long a server may take to report about itself. A slower one counts as degraded.
const INFO_WITHIN: Duration = Duration::from_secs(1);

#[derive(Serialize, ToSchema)]
#[schema(as = ConnectionStats)]
struct Stats {
    pools: Vec<PoolStatus>,
}

pub(in crate::routes) fn stats_docs() -> Docs {
    Docs::new("The counters of every pool")
        .answer::<Stats>(200, "The pools.")
        .calls_actors()
}

pub(in crate::routes) async fn stats(handles: RequestHandles) -> Result<impl Responder, Problem> {
    let pools = handles.pools.iter();
    let pools = try_join_all(pools.map(|pool| pool.status(handles.left()))).await?;
    Ok(web::Json(Stats { pools }))
}

#[derive(Serialize, ToSchema)]
#[schema(as = ConnectionHealth)]
struct Report {
    /// The health of the worst pool.
    status: Health,
    pools: Vec<PoolHealth>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = HealthOfPool)]
struct PoolHealth {
    name: &'static str,
    status: Health,
    circuit: Option<CircuitStatus>,
    /// The error of the last connect that failed.
    last_error: Option<String>,
    /// The state of the private server, if it is one.
    private_server: Option<ServerState>,
    /// How long the server took to report about itself.
    latency_seconds: Option<f64>,
    server: Value,
}

pub(in crate::routes) fn health_docs() -> Docs {
    Docs::new("The health of each pool")
        .text("The request opens no connection, starts no server, and succeeds while every server is down.")
        .answer::<Report>(200, "The pools.")
}

pub(in crate::routes) async fn health(handles: RequestHandles) -> impl Responder {
    let pools = handles.pools.iter();
    let pools = join_all(pools.map(|pool| look(pool, handles.left()))).await;
    let worst = pools.iter().map(|pool| pool.status).max();
    web::Json(Report {
        status: worst.unwrap_or(Health::Cold),
        pools,
    })
}

async fn look(pool: &Pool, within: Duration) -> PoolHealth {
    let mut found = PoolHealth {
        name: pool.name,
        status: Health::Down,
        circuit: None,
        last_error: None,
        private_server: pool.private_server(),
        latency_seconds: None,
        server: Value::Null,
    };
    let status = match pool.status(within).await {
        Ok(status) => status,
        Err(error) => {
            found.last_error = Some(error.to_string());
            return found;
        }
    };
    found.status = Health::of(&status);
    found.circuit = Some(status.circuit);
    found.last_error = status.last_error;
    let began = Instant::now();
    match pool.facts(INFO_WITHIN.min(within)).await {
        Ok(Value::Null) => {}
        Ok(facts) => {
            found.latency_seconds = Some(began.elapsed().as_secs_f64());
            found.server = facts;
        }
        Err(error) => {
            found.status = found.status.max(Health::Degraded);
            found.last_error = Some(error.detail);
        }
    }
    found
}
