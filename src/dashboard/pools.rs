//! The connection pools in the status: one line each.

use headroom_actors::kernel::pool::CircuitState;
use headroom_actors::kernel::private_server::ServerState;
use serde::Serialize;
use utoipa::ToSchema;

use super::short;
use crate::last_known::Answer;
use crate::pools::{Health, Kind, Need, Pool, PoolReport, ServerOrigin};

/// One pool.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = StatusPool)]
pub struct PoolState {
    /// Its name.
    pub name: &'static str,
    /// The kind of its server.
    pub kind: Kind,
    /// Who runs its server.
    pub server: ServerOrigin,
    /// The state of the private server, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_server: Option<ServerState>,
    /// The least connections that it keeps open.
    pub connections_min: u32,
    /// The most connections that it opens.
    pub connections_max: u32,
    /// What its actor says.
    #[serde(flatten)]
    pub figures: Answer<PoolFigures>,
}

/// The figures of one pool. Counts start at 0 with each incarnation of its actor.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StatusPoolFigures)]
pub struct PoolFigures {
    /// Whether it can be used.
    pub health: Health,
    /// Open connections.
    pub size: u32,
    /// Open connections that nobody uses.
    pub idle: u32,
    /// Open connections that are leased, checked or cleaned.
    pub in_use: u32,
    /// Callers that wait.
    pub waiting: u32,
    /// Closed connections that the server has not let go of. They count against the maximum.
    pub retiring: u32,
    /// Whether connections are opened.
    pub circuit: CircuitState,
    /// Time since the first of the connects that failed in a row. Missing if the last one succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_for_seconds: Option<f64>,
    /// The time until the next connect, if it has to wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try_in_seconds: Option<f64>,
    /// Leases granted.
    pub checkouts_total: u64,
    /// Checkouts that were refused, or whose deadline passed.
    pub refused_total: u64,
    /// Connects that failed.
    pub failed_total: u64,
    /// The share of checkouts that got a connection which had been leased before, 0 to 1.
    pub reuse_ratio: f64,
    /// Half of the callers waited no longer for their lease.
    pub wait_p50_ms: f64,
    /// 99 % of the callers waited no longer for their lease.
    pub wait_p99_ms: f64,
    /// Why the last failed connect failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Whether it cannot be used now, also if its callers do without it.
    #[serde(skip)]
    pub is_unusable: bool,
}

impl PoolFigures {
    fn new(report: &PoolReport, need: Need) -> Self {
        let status = &report.connections;
        let of_subscriber = report.subscriber.as_ref().filter(|_| report.is_deaf());
        let of_subscriber = of_subscriber.and_then(|it| it.last_error.as_ref());
        let last_error = of_subscriber.or(status.last_error.as_ref());
        Self {
            health: report.health(need),
            size: status.size,
            idle: status.idle,
            in_use: status.in_use,
            waiting: status.waiting,
            retiring: status.retiring,
            circuit: status.circuit.state,
            failing_for_seconds: status.circuit.failing_for_seconds,
            next_try_in_seconds: status.circuit.next_try_seconds,
            checkouts_total: status.checkouts,
            refused_total: status.refused.saturating_add(status.timed_out),
            failed_total: status.failed,
            reuse_ratio: status.reuse_rate,
            wait_p50_ms: status.wait.p50_seconds * 1e3,
            wait_p99_ms: status.wait.p99_seconds * 1e3,
            last_error: last_error.cloned().map(short),
            is_unusable: report.is_unusable(),
        }
    }
}

impl PoolState {
    pub(super) fn new(pool: &Pool, report: Answer<PoolReport>) -> Self {
        let (connections_min, connections_max) = pool.bounds;
        Self {
            name: pool.name,
            kind: pool.kind(),
            server: (&pool.origin).into(),
            private_server: pool.private_server(),
            connections_min,
            connections_max,
            figures: report.map(|report| PoolFigures::new(report, pool.need)),
        }
    }
}
