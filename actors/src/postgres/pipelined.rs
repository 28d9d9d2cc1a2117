//! One statement over a connection that several callers share.

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

/// How much longer the server may work on it before the connection is closed. A connection whose
/// server is unreachable is closed after the same time.
const BLOCKED_MAX: Duration = Duration::from_secs(2);

/// Runs a statement over a shared connection. If the caller leaves while the server still works,
/// the lease lasts until the server is done: until then the connection is not idle. If that takes
/// long, the pool gives new statements another connection.
pub(super) async fn run(
    lease: Lease<Connection>,
    sql: &str,
    params: Params<'_>,
    deadline: Instant,
) -> Result<QueryOutput, Error> {
    let connection = Arc::clone(&lease);
    let mut kept = KeptLease(Some(lease));
    let sent = AtomicBool::new(false);
    let Ok(output) = timeout_at(deadline, connection.run(sql, params, &sent)).await else {
        let sent = sent.load(Ordering::Relaxed);
        return Err(Error::Deadline { sent });
    };
    if let Some(lease) = kept.0.take()
        && let Err(error) = &output
        && (error.ends_connection() || connection.was_demoted(error))
    {
        lease.mark_broken();
    }
    output
}

/// Keeps the lease of a statement that is dropped before its answer until the server is done.
struct KeptLease(Option<Lease<Connection>>);

impl Drop for KeptLease {
    fn drop(&mut self) {
        if let Some(lease) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(keep_until_answered(lease));
        }
    }
}

async fn keep_until_answered(lease: Lease<Connection>) {
    let connection = Arc::clone(&lease);
    // This also ends when the connection is lost.
    let mut answered = pin!(connection.ping());
    if timeout(BLOCKED_AFTER, answered.as_mut()).await.is_ok() {
        return;
    }
    // The mark also ends when the runtime stops and drops this task.
    let blocked = connection.mark_blocked();
    if timeout(BLOCKED_MAX, answered).await.is_err() {
        lease.mark_broken();
    }
    // Remove the mark before the lease ends: its end may hand the connection to a waiting caller.
    drop(blocked);
}
