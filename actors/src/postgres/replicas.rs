//! Reads on replicas.
//!
//! Nothing depends on a replica. If it is too far behind, unreachable, slow, promoted or missing, the
//! primary serves the call within the same deadline. So a replica gets only a part of the time, and only
//! its errors about the statement itself reach the caller.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::call::{Caller, Params, QueryOutput};
use super::connection::Connection;
use super::connector::{Connector, check_out};
use super::error::Error;
use super::freshness::{Freshness, FreshnessBound};
use super::pipelined;
use super::repeat::may_run_on_another_server;
use super::server_info::replica_lag;
use super::transaction::{Transaction, TransactionOptions};
use crate::kernel::Handle;
use crate::kernel::pool::{Lease, Mode, Pool};

/// The longest wait for a connection to a replica and for its lag. A connect that takes longer
/// continues, and a later call can use its connection.
const READY_WITHIN: Duration = Duration::from_millis(500);

/// A replica gets one part in this many of a call's time. The rest is for the primary.
const TIME_PARTS: u32 = 2;

/// The replicas of a database.
pub(super) struct Replicas {
    pub(super) pool: Handle<Pool<Connector>>,
    /// They serve reads while they are at most this far behind.
    pub(super) lag_max: Duration,
}

/// Why the primary serves a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FallbackReason {
    /// The pool gave no connection; the error's label.
    Checkout(&'static str),
    /// The replica is too far behind, or cannot say how far.
    Lag,
    /// The replica was promoted.
    Promoted,
    /// No answer in the replica's part of the time.
    Slow,
    /// The connection was lost.
    Lost,
    /// The replica cancelled the statement, because the statement was in the way of changes from
    /// the primary.
    Conflict,
}

impl FallbackReason {
    /// Why the primary serves the call after `error`; `None` when the primary would return the same
    /// error.
    fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Checkout(error) => Some(Self::Checkout(error.label())),
            Error::Deadline { .. } => Some(Self::Slow),
            Error::Lost { .. } | Error::Protocol(_) => Some(Self::Lost),
            error if error.is_serialization_failure() || error.is_stale_statement() => {
                Some(Self::Conflict)
            }
            Error::Server(_)
            | Error::Aborted
            | Error::Rows { .. }
            | Error::Invalid(_)
            | Error::Schema(_) => None,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Checkout(label) => label,
            Self::Lag => "lag",
            Self::Promoted => "promoted",
            Self::Slow => "slow",
            Self::Lost => "lost",
            Self::Conflict => "conflict",
        }
    }
}

impl Replicas {
    /// Runs a statement on a replica whose data is within `bound`.
    pub(super) async fn statement(
        &self,
        sql: &str,
        params: Params<'_>,
        bound: FreshnessBound,
        caller: Caller,
    ) -> Result<Result<QueryOutput, Error>, FallbackReason> {
        let caller = caller.at_most(caller.remaining() / TIME_PARTS);
        let lease = self.lease(Mode::Shared, bound, caller).await?;
        let output = pipelined::run(lease, sql, params, caller.deadline).await;
        match output.as_ref().err().and_then(FallbackReason::of) {
            Some(reason) if may_run_on_another_server(sql) => Err(reason),
            _ => Ok(output),
        }
    }

    /// Begins a transaction on a replica whose data is within `bound`.
    pub(super) async fn begin(
        &self,
        options: TransactionOptions,
        bound: FreshnessBound,
        caller: Caller,
    ) -> Result<Transaction, FallbackReason> {
        let early = caller.at_most(caller.remaining() / TIME_PARTS);
        let lease = self.lease(Mode::Exclusive, bound, early).await?;
        let begun = Transaction::begin(lease, options, caller.deadline);
        match timeout_at(early.at_most(READY_WITHIN).deadline, begun).await {
            Ok(Ok(transaction)) => Ok(transaction),
            Ok(Err(error)) => Err(FallbackReason::of(&error).unwrap_or(FallbackReason::Lost)),
            Err(_) => Err(FallbackReason::Slow),
        }
    }

    async fn lease(
        &self,
        mode: Mode,
        bound: FreshnessBound,
        caller: Caller,
    ) -> Result<Lease<Connection>, FallbackReason> {
        let caller = caller.at_most(READY_WITHIN);
        let lease = check_out(&self.pool, mode, caller).await;
        let lease =
            lease.map_err(|error| FallbackReason::of(&error).unwrap_or(FallbackReason::Lost))?;
        let connection = &*lease;
        let freshness = timeout_at(caller.deadline, freshness(connection, bound)).await;
        let reason = match freshness {
            Ok(Ok(Freshness::Fresh)) => return Ok(lease),
            Ok(Ok(Freshness::Stale)) => return Err(FallbackReason::Lag),
            // The URL may name servers that take writes.
            Ok(Ok(Freshness::IsPrimary)) if !connection.is_for_replicas() => {
                return Err(FallbackReason::Promoted);
            }
            Ok(Ok(Freshness::IsPrimary)) => FallbackReason::Promoted,
            Ok(Err(_)) => FallbackReason::Lost,
            Err(_) => FallbackReason::Slow,
        };
        // The connection is lost, or its server is not a replica any more.
        lease.mark_broken();
        Err(reason)
    }
}

/// Compares a server's data with `bound`. Asks the server if there is no recent reading.
async fn freshness(
    connection: &Arc<Connection>,
    bound: FreshnessBound,
) -> Result<Freshness, Error> {
    let tracker = &connection.freshness;
    if let Some(freshness) = tracker.recent(bound) {
        return Ok(freshness);
    }
    let _asking = tracker.asking.lock().await;
    if let Some(freshness) = tracker.recent(bound) {
        return Ok(freshness);
    }
    let asked_at = Instant::now();
    let lag = replica_lag(connection).await?;
    Ok(tracker.record(asked_at, lag, bound))
}

/// Counts a read by the server that serves it.
pub(super) fn count_read(fallback: Option<FallbackReason>) {
    let (served_by, reason) = match fallback {
        None => ("replica", "fresh"),
        Some(reason) => ("primary", reason.label()),
    };
    metrics::counter!(
        "headroom_postgres_reads_total",
        "served_by" => served_by,
        "reason" => reason
    )
    .increment(1);
}
