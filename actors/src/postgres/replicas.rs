//! Reads on replicas.
//!
//! Nothing depends on a replica. If it is too far behind, unreachable, slow, promoted or missing, the
//! primary serves the call within the same deadline. So a replica gets only a part of the time, and only
//! its errors about the statement itself reach the caller.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::call::{Caller, Params, QueryOutput};
use super::connection::Connection;
use super::connector::{Connector, check_out};
use super::error::Error;
use super::fallback::FallbackReason;
use super::freshness::{FreshnessBound, Reading};
use super::pipelined;
use super::primary_wal::PrimaryWal;
use super::repeat::{Decision, Step, decide};
use super::server_info::{Replayed, replayed};
use super::transaction::Transaction;
use super::transaction_options::TransactionOptions;
use crate::kernel::pool::{Lease, Mode, PoolHandle};

/// The longest wait for a connection to a replica and for what it has replayed. A connect that takes longer
/// continues, and a later call can use its connection.
const READY_WITHIN: Duration = Duration::from_millis(500);

/// A replica gets one part in this many of a call's time. The rest is for the primary.
const TIME_PARTS: u32 = 2;

/// The replicas of a database, behind one pool.
#[derive(Clone)]
pub(super) struct Replicas {
    pool: PoolHandle<Connector>,
    /// The log that they replay.
    wal: Arc<PrimaryWal>,
}

impl Replicas {
    /// The replicas behind `pool`, of the primary behind `primary`.
    pub(super) fn new(pool: PoolHandle<Connector>, primary: PoolHandle<Connector>) -> Self {
        Self {
            pool,
            wal: PrimaryWal::new(primary),
        }
    }

    /// Runs a statement on a replica whose data is within `bound`.
    pub(super) async fn statement(
        &self,
        mode: Mode,
        sql: &str,
        params: Params<'_>,
        bound: FreshnessBound,
        caller: Caller,
    ) -> Result<Result<QueryOutput, Error>, FallbackReason> {
        let caller = caller.at_most(caller.remaining() / TIME_PARTS);
        let lease = self.lease(mode, bound, caller).await?;
        let output = pipelined::run(lease, sql, params, caller.deadline).await;
        let decision = |error| decide(Step::OnReplica { sql }, error, false);
        match output.as_ref().err().map(decision) {
            Some(Decision::OnPrimary(reason)) => Err(reason),
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
            Ok(Err(error)) => Err(FallbackReason::of_lease(&error)),
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
        let lease = lease.map_err(|error| FallbackReason::of_lease(&error))?;
        let (fresh, lease) = match lease.freshness.recent(bound) {
            Some(fresh) => (fresh, Some(lease)),
            None => self.check_freshness(lease, bound, caller.deadline).await,
        };
        match (fresh, lease) {
            (Ok(()), Some(lease)) => Ok(lease),
            (Err(reason), lease) => {
                // The URL may name servers that take writes.
                let is_promoted = reason == FallbackReason::Promoted;
                if let Some(lease) = lease.filter(|it| is_promoted && it.is_for_replicas()) {
                    lease.mark_broken();
                }
                Err(reason)
            }
            (Ok(()), None) => Err(FallbackReason::Lost),
        }
    }

    /// Compares a server's data with `bound`. Asks the server, and the primary, if there is no recent
    /// reading. The lease lasts until the server has answered, also when the caller leaves before; it is
    /// given back unless its connection is unfit.
    async fn check_freshness(
        &self,
        lease: Lease<Connection>,
        bound: FreshnessBound,
        deadline: Instant,
    ) -> (Result<(), FallbackReason>, Option<Lease<Connection>>) {
        let connection = Arc::clone(&lease);
        let tracker = &connection.freshness;
        let Ok(_asking) = timeout_at(deadline, tracker.asking.lock()).await else {
            return (Err(FallbackReason::Slow), Some(lease));
        };
        if let Some(freshness) = tracker.recent(bound) {
            return (freshness, Some(lease));
        }
        if timeout_at(deadline, self.wal.refresh(bound)).await.is_err() {
            return (Err(FallbackReason::Slow), Some(lease));
        }
        let asked_at = Instant::now();
        let sent = AtomicBool::new(true);
        let asking = replayed(&connection);
        let (replayed, lease) = pipelined::borrow(lease, deadline, &sent, asking).await;
        let fresh = replayed.map(|replayed| {
            let reading = match replayed {
                Replayed::IsPrimary => Reading::IsPrimary,
                Replayed::UpTo(position) => (self.wal.visible_until(position))
                    .map_or(Reading::Unknown, Reading::VisibleUntil),
                Replayed::Nothing => Reading::Unknown,
            };
            tracker.record(asked_at, reading, bound)
        });
        (
            fresh.unwrap_or_else(|error| Err(FallbackReason::of_lease(&error))),
            lease,
        )
    }
}
