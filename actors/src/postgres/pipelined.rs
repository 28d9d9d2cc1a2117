//! Single statements over connections that many share.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Row;

use super::connection::{Answer, Connection};
use super::database::{Caller, Database, Params};
use super::error::Error;
use super::repeat::{Failed, may_repeat};
use crate::kernel::pool::{Lease, Mode};

/// How long a server may go on with what nobody waits for any more, before no new caller is put
/// behind it. Much less than callers wait, and more than most statements take.
const HELD_UP_AFTER: Duration = Duration::from_millis(100);

/// After how much longer the connection is given up. One that is_primary nowhere is found in the same way.
const UNANSWERED_MAX: Duration = Duration::from_secs(2);

impl Database {
    /// One statement over a shared connection, sent again where [`may_repeat`] says so. `only_reads` is
    /// the word of its caller.
    pub(super) async fn statement(
        &self,
        sql: &str,
        params: Params<'_>,
        only_reads: bool,
        caller: Caller,
    ) -> Result<Answer, Error> {
        self.ready(caller).await?;
        let mut tries = 1;
        loop {
            let lease = self.check_out(Mode::Shared, caller).await?;
            let connection = Arc::clone(lease.connection());
            let error = match attempt(lease, sql, params, caller.deadline).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let failed = Failed::Statement { sql, only_reads };
            // A server that was demoted was left by closing the connection.
            let again = may_repeat(failed, &error, connection.was_demoted(&error));
            drop(connection);
            if !again || !self.may_retry(tries, caller).await {
                return Err(error);
            }
            tries += 1;
        }
    }
}

/// Runs a statement over a shared connection. If the caller goes away or its deadline passes while the
/// server works on it, the lease is kept until the server is done, so that the connection does not pass
/// for an idle one; and if that takes long, nobody new gets the connection meanwhile.
pub(super) async fn attempt(
    lease: Lease<Connection>,
    sql: &str,
    params: Params<'_>,
    deadline: Instant,
) -> Result<Answer, Error> {
    let mut using = Using { lease: Some(lease) };
    let Some(lease) = &using.lease else {
        return Err(Error::Deadline { sent: false });
    };
    let sent = AtomicBool::new(false);
    let answer = timeout_at(deadline, lease.connection().run(sql, params, &sent)).await;
    let Ok(answer) = answer else {
        let sent = sent.load(Ordering::Relaxed);
        return Err(Error::Deadline { sent });
    };
    if let Err(error) = &answer
        && (error.ends_connection() || lease.connection().was_demoted(error))
    {
        lease.mark_broken();
    }
    using.lease = None;
    answer
}

struct Using {
    lease: Option<Lease<Connection>>,
}

impl Drop for Using {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(outlive(lease));
        }
    }
}

/// Keeps the lease until the server is done with what it was taken for, or for as long as that may take.
async fn outlive(lease: Lease<Connection>) {
    let connection = Arc::clone(lease.connection());
    // An end of the connection is an end of the wait too.
    let mut settled = pin!(connection.settled());
    if timeout(HELD_UP_AFTER, settled.as_mut()).await.is_ok() {
        return;
    }
    let held_up = connection.hold_up();
    if timeout(UNANSWERED_MAX, settled).await.is_err() {
        lease.mark_broken();
    }
    // Before the lease ends: whoever waits may have the connection then.
    drop(held_up);
}

/// The only row.
pub(super) fn one(rows: Vec<Row>) -> Result<Row, Error> {
    match <[Row; 1]>::try_from(rows) {
        Ok([row]) => Ok(row),
        Err(rows) => Err(Error::Rows {
            expected: "one",
            found: rows.len(),
        }),
    }
}

/// The only row, if there is one.
pub(super) fn at_most_one(mut rows: Vec<Row>) -> Result<Option<Row>, Error> {
    match rows.len() {
        0 | 1 => Ok(rows.pop()),
        found => Err(Error::Rows {
            expected: "at most one",
            found,
        }),
    }
}
