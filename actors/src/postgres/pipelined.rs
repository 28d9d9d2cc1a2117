//! Work over a connection that several callers share.
//!
//! A caller may leave while the server works for it. Its lease then lasts until the server is done: until
//! then the connection is not idle, and what the caller began counts as begun on a shared connection. If
//! that takes long, the pool gives new callers another connection, and what nobody waits for is cancelled.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::call::{Params, QueryOutput};
use super::connection::Connection;
use super::error::Error;
use crate::kernel::pool::Lease;

/// How long the server may work on a statement without a caller before the connection counts as
/// blocked. Callers wait much longer than this, and most statements take less.
const BLOCKED_AFTER: Duration = Duration::from_millis(100);

/// How much longer the server may work on it while other callers wait behind it, before the connection
/// takes no new callers at all.
const BLOCKED_MAX: Duration = Duration::from_secs(2);

/// The SQLSTATE of statements within a transaction that has failed.
const FAILED_TRANSACTION: &str = "25P02";

/// Runs a statement over a shared connection.
pub(super) async fn run(
    lease: Lease<Connection>,
    sql: &str,
    params: Params<'_>,
    deadline: Instant,
) -> Result<QueryOutput, Error> {
    let connection = Arc::clone(&lease);
    let sent = AtomicBool::new(false);
    let within = deadline.saturating_duration_since(Instant::now());
    // It is large, and moves several times before it is polled.
    let work = Box::pin(connection.run_within(sql, params, &sent, within));
    with_lease(lease, deadline, &sent, work).await
}

/// Waits for `work` over the shared connection of `lease`, until `deadline`. `sent` tells whether the
/// server may have acted on it.
pub(super) async fn with_lease<T>(
    lease: Lease<Connection>,
    deadline: Instant,
    sent: &AtomicBool,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    borrow(lease, deadline, sent, work).await.0
}

/// As [`with_lease`], and also over a connection of one's own. Gives the lease back if nothing of the work
/// is left on its connection, and if that is fit for more.
pub(super) async fn borrow<T>(
    lease: Lease<Connection>,
    deadline: Instant,
    sent: &AtomicBool,
    work: impl Future<Output = Result<T, Error>>,
) -> (Result<T, Error>, Option<Lease<Connection>>) {
    let connection = Arc::clone(&lease);
    let mut used = LeftBehind(Some(SharedUse::new(lease)));
    let work = async {
        let _caller = connection.join().await?;
        work.await
    };
    let Ok(output) = timeout_at(deadline, work).await else {
        let sent = sent.load(Ordering::Relaxed);
        return (Err(Error::Deadline { sent }), None);
    };
    let output = output.map_err(|error| connection.explain(error));
    let is_fit = match &output {
        Ok(_) => true,
        Err(error) => {
            let in_transaction = error.sqlstate() == Some(FAILED_TRANSACTION);
            !in_transaction && !error.ends_connection() && !connection.was_demoted(error)
        }
    };
    // The driver returns an error before the server has told what it left of the session. Until then the use
    // goes on without its caller.
    let has_ended = !is_fit || connection.wire.is_settled();
    let used = used.0.take_if(|_| has_ended);
    (output, used.and_then(|used| used.end(is_fit)))
}

/// One user of a shared connection. Unless it says otherwise at its end, the server still works for it,
/// and the connection is unfit for others.
struct SharedUse(Option<Lease<Connection>>);

impl SharedUse {
    fn new(lease: Lease<Connection>) -> Self {
        lease.wire.begin_sharing();
        Self(Some(lease))
    }

    /// Ends it. Gives the lease back if its connection is fit for others.
    fn end(mut self, is_fit: bool) -> Option<Lease<Connection>> {
        let lease = self.0.take_if(|_| is_fit)?;
        lease.wire.end_sharing();
        Some(lease)
    }
}

impl Drop for SharedUse {
    fn drop(&mut self) {
        if let Some(lease) = self.0.take() {
            lease.mark_broken();
            lease.wire.end_sharing();
        }
    }
}

/// A use that goes on after its caller has left, until the server is done.
struct LeftBehind(Option<SharedUse>);

impl Drop for LeftBehind {
    fn drop(&mut self) {
        if let Some(used) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(keep_until_answered(used));
        }
    }
}

async fn keep_until_answered(used: SharedUse) {
    let Some(connection) = used.0.as_deref().map(Arc::clone) else {
        return;
    };
    // This also ends when the connection is lost.
    let mut answered = pin!(connection.ping());
    if let Ok(answer) = timeout(BLOCKED_AFTER, answered.as_mut()).await {
        used.end(answer.is_ok());
        return;
    }
    // The mark also ends when the runtime stops and drops this task.
    let blocked = connection.mark_blocked();
    let until = Instant::now() + BLOCKED_MAX;
    let is_fit = loop {
        if let Some(cleared) = connection.clear_if_unused().await {
            break cleared.is_ok();
        }
        if let Ok(answer) = timeout(BLOCKED_AFTER, answered.as_mut()).await {
            break answer.is_ok();
        }
        if Instant::now() >= until {
            break false;
        }
    };
    // Remove the mark before the lease ends: its end may hand the connection to a waiting caller.
    drop(blocked);
    used.end(is_fit);
}
