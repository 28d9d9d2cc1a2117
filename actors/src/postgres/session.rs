//! A connection of one's own without a transaction.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::call::{Caller, Params, QueryOutput};
use super::connection::Connection;
use super::connector::check_out;
use super::database::Database;
use super::error::Error;
use super::first_word::prepares;
use super::pooler::check_session;
use super::repeat::{Decision, Step, decide};
use crate::kernel::pool::{Lease, Mode};

impl Database {
    /// Takes a connection to the primary for what needs a session of its own and no transaction: settings,
    /// temporary tables, advisory locks, prepared statements, `vacuum`. `within` is the longest time for all
    /// of it: the checkout and every statement.
    ///
    /// A view for calls that only read gives one too, which refuses nothing.
    ///
    /// # Errors
    /// [`Error::NeedsSession`] through a pooler. See [`Error`] for the others.
    #[track_caller]
    pub fn exclusive(
        &self,
        within: Duration,
    ) -> impl Future<Output = Result<Session, Error>> + Send + '_ {
        self.session(Caller::new(within))
    }

    async fn session(&self, caller: Caller) -> Result<Session, Error> {
        check_session("a session of one's own", self.settings())?;
        self.ready(caller).await?;
        let mut tries = 1;
        loop {
            let lease = check_out(self.pool(), Mode::Exclusive, caller).await?;
            match Session::begin(lease, caller.deadline).await {
                Err(error)
                    if decide(Step::Begin, &error, false) == Decision::Repeat
                        && self.may_retry(tries, caller).await =>
                {
                    tries += 1;
                }
                other => return other,
            }
        }
    }
}

/// A connection of one's own, without a transaction. Each statement commits by itself, unless one begins a
/// transaction. When the session is dropped, the server's work for it is cancelled, an open transaction
/// is rolled back, and what the session has set is reset before the connection gets another user:
/// settings, temporary tables, advisory locks and `LISTEN`. If it has sent a `PREPARE`, the connection is
/// closed instead.
///
/// No statement is repeated.
#[must_use = "a dropped session ends"]
pub struct Session {
    lease: Lease<Connection>,
    deadline: Instant,
}

impl Session {
    async fn begin(lease: Lease<Connection>, deadline: Instant) -> Result<Self, Error> {
        lease.mark_dirty();
        let session = Self { lease, deadline };
        // A connection that was lost while it was idle is found out before the caller's first statement.
        let sent = AtomicBool::new(false);
        // What the last shared user left of the session's timeout goes with it.
        let (lease, ping) = (&session.lease, session.lease.ping());
        let ping = lease.timeout.send(&lease.client, Duration::MAX, ping);
        session.run(&sent, ping).await?;
        Ok(session)
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<QueryOutput, Error> {
        keep_if_prepared(&self.lease, sql);
        let sent = AtomicBool::new(false);
        let output = self.run(&sent, self.lease.run(sql, params, &sent)).await?;
        self.lease.statements.session_ran(sql, params);
        Ok(output)
    }

    /// Runs statements without parameters and without output, separated by semicolons. The server runs
    /// them as one transaction, unless they begin or end one themselves.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn batch(&self, sql: &str) -> Result<(), Error> {
        keep_if_prepared(&self.lease, sql);
        let sent = AtomicBool::new(true);
        let done = self.run(&sent, self.lease.batch(sql)).await;
        // What was committed before a failure lasts.
        self.lease.statements.session_ran(sql, &[]);
        done
    }

    /// Waits for `work` until the deadline.
    async fn run<T>(
        &self,
        sent: &AtomicBool,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if self.deadline <= Instant::now() {
            return Err(Error::Deadline { sent: false });
        }
        let running = Running(&self.lease);
        let Ok(done) = timeout_at(self.deadline, work).await else {
            let sent = sent.load(Ordering::Relaxed);
            return Err(Error::Deadline { sent });
        };
        std::mem::forget(running);
        let done = done.map_err(|error| self.lease.explain(error));
        if let Err(error) = &done
            && (error.ends_connection() || self.lease.was_demoted(error))
        {
            self.lease.mark_broken();
        }
        done
    }
}

/// Keeps the connection from the next user if `sql` prepares a statement. The reset of the session does not
/// remove it: it knows neither the name, nor a way to remove all but the statements of the cache.
pub(super) fn keep_if_prepared(lease: &Lease<Connection>, sql: &str) {
    if prepares(sql) {
        lease.mark_broken();
    }
}

/// A sent statement of the connection's only user. If it is dropped before its end, the reset of the
/// connection cancels the statement.
pub(super) struct Running<'a>(pub(super) &'a Connection);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
