//! The section on the connection pools: one line each. A pool that does not answer leaves the lines of
//! the others.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use headroom_actors::kernel::AskError;
use headroom_actors::kernel::pool::CircuitState;
use serde::Serialize;
use utoipa::ToSchema;

use super::shown::Shown;
use super::{Parts, Section};
use crate::last_answers::LastAnswers;
use crate::last_known::ANSWER_WITHIN;
use crate::pools::{Health, Kind, Pool, PoolReport};

/// What is left of the section's time after its pools were asked.
const RESERVE: Duration = Duration::from_millis(5);

pub(super) struct Pools {
    pools: Arc<[Pool]>,
    last: Arc<LastAnswers>,
}

/// The connection pools.
#[derive(Serialize, ToSchema)]
#[schema(as = PoolsSection)]
pub(super) struct Snapshot {
    /// Every pool.
    pools: Vec<Line>,
}

/// One pool.
#[derive(Serialize, ToSchema)]
#[schema(as = PoolLine)]
struct Line {
    /// Its name.
    name: &'static str,
    #[serde(flatten)]
    figures: ShownFigures,
}

/// Without parameters of its own: the derive would want to write the schema of `Figures` into it.
type ShownFigures = Shown<Figures>;

/// The figures of one pool. Counts start at zero with each incarnation of its actor.
#[derive(Serialize, ToSchema)]
#[schema(as = PoolFigures)]
struct Figures {
    /// What it connects to.
    kind: Kind,
    /// Whether it can be used.
    health: Health,
    /// Open connections.
    size: u32,
    /// Open connections that nobody uses.
    idle: u32,
    /// Open connections that are leased, checked or cleaned.
    in_use: u32,
    /// Callers that wait.
    waiting: u32,
    /// Whether connections are opened.
    circuit: CircuitState,
    /// Leases granted.
    checkouts_total: u64,
    /// Checkouts that were refused.
    refused_total: u64,
    /// Checkouts whose deadline passed.
    timed_out_total: u64,
    /// Connects that failed.
    failed_total: u64,
    /// The share of checkouts that got a connection which had been leased before, 0 to 1.
    reuse_ratio: f64,
    /// 99 % of the callers waited no longer for their lease.
    wait_p99_ms: f64,
}

impl Figures {
    fn new(pool: &Pool, report: &PoolReport) -> Self {
        let status = &report.connections;
        Self {
            kind: pool.kind(),
            health: report.health(pool.need),
            size: status.size,
            idle: status.idle,
            in_use: status.in_use,
            waiting: status.waiting,
            circuit: status.circuit.state,
            checkouts_total: status.checkouts,
            refused_total: status.refused,
            timed_out_total: status.timed_out,
            failed_total: status.failed,
            reuse_ratio: status.reuse_rate,
            wait_p99_ms: status.wait.p99_seconds * 1e3,
        }
    }
}

impl Section for Pools {
    const NAME: &'static str = "pools";
    type Answer = Snapshot;

    fn of(parts: &Parts<'_>) -> Self {
        Self {
            pools: Arc::clone(&parts.handles.pools),
            last: Arc::clone(parts.last_answers),
        }
    }

    async fn snapshot(&self) -> Result<Snapshot, AskError> {
        let within = ANSWER_WITHIN.saturating_sub(RESERVE);
        let pools = self.pools.iter().zip(&self.last.pools);
        let lines = pools.map(move |(pool, last)| async move {
            let report = last.report.or_answer(pool.report(within), within).await;
            Line {
                name: pool.name,
                figures: report.map(|report| Figures::new(pool, report)).into(),
            }
        });
        let pools = join_all(lines).await;
        Ok(Snapshot { pools })
    }
}
