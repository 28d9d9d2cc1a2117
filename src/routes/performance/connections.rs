//! `GET /api/performance/connections/stats`: the counters of every pool.
//!
//! `GET /api/performance/connections/health`: the health of each pool. If a pool has open connections,
//! the response includes what its server reports about itself. The request opens no connection and starts
//! no server, and succeeds while every server is down or hangs: what does not answer in 40 ms is shown with
//! its last answer.

use actix_web::{Responder, web};
use futures_util::future::join_all;
use headroom_actors::kernel::Timestamp;
use headroom_actors::kernel::pool::CircuitStatus;
use headroom_actors::kernel::private_server::ServerState;
use serde::Serialize;
use utoipa::ToSchema;

use crate::handles::RequestHandles;
use crate::last_answers::{LastAnswers, PoolAnswers};
use crate::last_known::{ANSWER_WITHIN, Answer};
use crate::openapi::Docs;
use crate::pools::{Health, Pool, PoolReport};
use crate::routes::NoParameters;
use crate::server_facts::ServerReport;

/// The counters of every pool.
#[derive(Serialize, ToSchema)]
#[schema(as = ConnectionStats)]
struct Stats {
    /// The moment of the request.
    at: Timestamp,
    /// Every pool.
    pools: Vec<PoolStats>,
}

/// The counters of one pool.
#[derive(Serialize, ToSchema)]
#[schema(as = StatsOfPool)]
struct PoolStats {
    /// The pool's name.
    name: &'static str,
    /// What its actor says.
    #[serde(flatten)]
    counters: Answer<PoolReport>,
}

pub(in crate::routes) fn stats_docs() -> Docs {
    Docs::new("The counters of every pool")
        .query::<NoParameters>()
        .answer::<Stats>(
            200,
            "The pools. One that does not answer is shown with its last answer.",
        )
}

pub(in crate::routes) async fn stats(
    handles: RequestHandles,
    last: web::Data<LastAnswers>,
    _: web::Query<NoParameters>,
) -> impl Responder {
    let at = Timestamp::now();
    let pools = handles.pools.iter().zip(&last.pools);
    let pools = pools.map(async |(pool, last)| PoolStats {
        name: pool.name,
        counters: ask(pool, last).await,
    });
    let pools = join_all(pools).await;
    web::Json(Stats { at, pools })
}

/// The health of every pool.
#[derive(Serialize, ToSchema)]
#[schema(as = ConnectionHealth)]
struct Report {
    /// The moment of the request.
    at: Timestamp,
    /// The health of the worst pool.
    status: Health,
    /// Every pool.
    pools: Vec<PoolHealth>,
}

/// The health of one pool.
#[derive(Serialize, ToSchema)]
#[schema(as = HealthOfPool)]
struct PoolHealth {
    /// The pool's name.
    name: &'static str,
    /// Whether it can be used.
    status: Health,
    /// What its actor says.
    #[serde(flatten)]
    pool: Answer<Seen>,
    /// The state of the private server, if it is one.
    private_server: Option<ServerState>,
    /// What its server reports about itself. `null` if no connection is open to ask it.
    server: Option<Answer<ServerReport>>,
}

/// What a pool's actor says about its health.
#[derive(Serialize, ToSchema)]
#[schema(as = CircuitOfPool)]
struct Seen {
    /// Whether connections are opened.
    circuit: CircuitStatus,
    /// The error of the last connect that failed.
    last_error: Option<String>,
}

pub(in crate::routes) fn health_docs() -> Docs {
    Docs::new("The health of each pool")
        .text(
            "The request opens no connection, starts no server, and succeeds while every server is down. A \
             server that does not report in 40 ms is shown with its last report.",
        )
        .query::<NoParameters>()
        .answer::<Report>(200, "The pools.")
}

pub(in crate::routes) async fn health(
    handles: RequestHandles,
    last: web::Data<LastAnswers>,
    _: web::Query<NoParameters>,
) -> impl Responder {
    let at = Timestamp::now();
    let pools = handles.pools.iter().zip(&last.pools);
    let pools = join_all(pools.map(|(pool, last)| look(pool, last))).await;
    let worst = pools.iter().map(|pool| pool.status).max();
    web::Json(Report {
        at,
        status: worst.unwrap_or(Health::Cold),
        pools,
    })
}

async fn look(pool: &Pool, last: &PoolAnswers) -> PoolHealth {
    let server = last.facts.read(pool, ANSWER_WITHIN);
    let (report, server) = futures_util::future::join(ask(pool, last), server).await;
    PoolHealth {
        name: pool.name,
        status: judge(pool, &report, &server, last),
        pool: report.map(|report| Seen {
            circuit: report.connections.circuit,
            last_error: report.connections.last_error.clone(),
        }),
        private_server: pool.private_server(),
        server: Some(server).filter(has_facts),
    }
}

async fn ask(pool: &Pool, last: &PoolAnswers) -> Answer<PoolReport> {
    let report = pool.report(ANSWER_WITHIN);
    last.report.or_answer(report, ANSWER_WITHIN).await
}

/// A pool whose actor does not answer cannot be used. One whose server does not report in time is at
/// best degraded.
fn judge(
    pool: &Pool,
    report: &Answer<PoolReport>,
    server: &Answer<ServerReport>,
    last: &PoolAnswers,
) -> Health {
    let Some(report) = report.value().filter(|_| report.is_answered()) else {
        return pool.need.unusable();
    };
    let health = report.health(pool.need);
    match !server.is_answered() && last.facts.is_failing() {
        true => health.max(Health::Degraded),
        false => health,
    }
}

/// Whether a server has reported, or should have.
fn has_facts(server: &Answer<ServerReport>) -> bool {
    !server.is_answered() || server.value().is_some_and(|report| report.facts.is_some())
}
