//! One connection: how it is opened, and what can be sent over it.

use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::task::AbortHandle;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{CancelToken, Client, RowStream, SimpleQueryMessage, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Server;
use super::call::{Params, QueryOutput};
use super::connect_error::connect_error;
use super::error::Error;
use super::freshness::FreshnessTracker;
use super::statement_cache::StatementCache;
use crate::kernel::chain;
use crate::kernel::pool::{ConnectError, ConnectErrorKind};

/// Resets the session as `DISCARD ALL` does, except for the prepared statements, which
/// [`StatementCache`] still holds. Sent together with the end of a transaction, it needs no round trip
/// of its own.
const RESET_SESSION: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
    SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

/// A connection to a PostgreSQL server. Several users may share it: the server answers in the order
/// of sending.
pub struct Connection {
    client: Client,
    statements: StatementCache,
    cancel: CancelToken,
    tls: MakeRustlsConnect,
    /// Host and port.
    pub(super) server: String,
    /// The server's version.
    pub(super) version: String,
    /// What the server had to be when the connection was opened.
    session_attrs: TargetSessionAttrs,
    /// The task that reads and writes the socket.
    driver: AbortHandle,
    /// How recent the data is, on a connection to a replica.
    pub(super) freshness: FreshnessTracker,
    /// A [`Connection::ping`] is not answered.
    ping_pending: AtomicBool,
    /// An exclusive user left while the server worked for it.
    abandoned: AtomicBool,
    /// How many statements without a caller the server is busy with.
    blocked_by: AtomicUsize,
}

impl Connection {
    /// Opens a connection to `server` within `within`. It keeps at most `statements_max` prepared
    /// statements.
    pub(super) async fn open(
        server: &Server,
        tls: &MakeRustlsConnect,
        within: Duration,
        statements_max: NonZeroUsize,
    ) -> Result<Self, ConnectError> {
        let opening = tokio::time::timeout(within, server.config.connect(tls.clone()));
        let (client, driver) = match opening.await {
            Ok(opened) => opened.map_err(|error| connect_error(&server.name, &error))?,
            Err(_) => {
                let message = format!("{}: no answer within {within:?}", server.name);
                return Err(ConnectError::new(ConnectErrorKind::TimedOut, message));
            }
        };
        let version = driver.parameter("server_version").unwrap_or("unknown");
        let version = version.to_owned();
        let name = server.name.clone();
        let driver = tokio::spawn(async move {
            // Ends when the last user drops the connection, or when the connection is lost.
            if let Err(error) = driver.await {
                tracing::debug!(server = name, error = %chain(&error), "database connection ended");
            }
        });
        Ok(Self {
            statements: StatementCache::new(statements_max),
            cancel: client.cancel_token(),
            tls: tls.clone(),
            server: server.name.clone(),
            version,
            session_attrs: server.config.get_target_session_attrs(),
            driver: driver.abort_handle(),
            freshness: FreshnessTracker::default(),
            ping_pending: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            blocked_by: AtomicUsize::new(0),
            client,
        })
    }

    /// Whether the connection is known to have ended.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether `error` shows that a server which took writes takes none any more.
    pub(super) fn was_demoted(&self, error: &Error) -> bool {
        self.session_attrs == TargetSessionAttrs::ReadWrite && error.is_read_only()
    }

    /// Whether the connection was opened to a server that takes no writes.
    pub(super) fn is_for_replicas(&self) -> bool {
        self.session_attrs == TargetSessionAttrs::ReadOnly
    }

    /// Runs one statement. `sent` becomes true as soon as the server may have acted on it.
    pub(super) async fn run(
        self: &Arc<Self>,
        sql: &str,
        params: Params<'_>,
        sent: &AtomicBool,
    ) -> Result<QueryOutput, Error> {
        let statement = self.prepare(sql).await?;
        if self.is_closed() {
            return Err(Error::closed(false));
        }
        sent.store(true, Ordering::Relaxed);
        let params = params.iter().copied();
        let output = match self.client.query_raw(&statement, params).await {
            Ok(rows) => collect(rows).await.map_err(|error| Error::of(&error, true)),
            // The server runs nothing of a statement whose parameters it cannot bind.
            Err(error) => Err(Error::before_it_ran(&error)),
        };
        output.inspect_err(|error| {
            if error.is_stale_statement() {
                self.statements.remove(sql);
            }
        })
    }

    /// Runs statements without parameters and without output, separated by semicolons.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), Error> {
        let sent = !self.is_closed();
        let done = self.client.batch_execute(sql).await;
        done.map_err(|error| Error::of(&error, sent))
    }

    /// Rolls the open transaction back, and resets the session.
    pub(super) async fn rollback(&self) -> Result<(), Error> {
        self.batch(&format!("ROLLBACK; {RESET_SESSION}")).await
    }

    /// Commits the open transaction. Returns whether the session was reset as well: the reset can
    /// fail after the commit, which stays valid.
    pub(super) async fn commit(&self) -> Result<bool, Error> {
        let sent = !self.is_closed();
        let commit = format!("COMMIT; {RESET_SESSION}");
        let messages = self.client.simple_query_raw(&commit).await;
        let mut messages = pin!(messages.map_err(|error| Error::of(&error, sent))?);
        let mut committed = false;
        loop {
            match messages.try_next().await {
                Ok(Some(SimpleQueryMessage::CommandComplete(_))) => committed = true,
                Ok(Some(_)) => {}
                Ok(None) => return Ok(true),
                Err(_) if committed => return Ok(false),
                Err(error) => return Err(Error::of(&error, sent)),
            }
        }
    }

    /// Waits for the answer to an empty message, and so for the answers to everything sent before.
    pub(super) async fn ping(&self) -> Result<(), Error> {
        self.ping_pending.store(true, Ordering::Release);
        let answered = self.client.check_connection().await;
        answered.map_err(|error| Error::of(&error, false))?;
        self.ping_pending.store(false, Ordering::Release);
        Ok(())
    }

    /// Whether the server has been busy for long with statements whose callers left.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_by.load(Ordering::Acquire) > 0
    }

    /// Marks the connection as blocked by one more statement, until the mark is dropped.
    pub(super) fn mark_blocked(&self) -> BlockedMark<'_> {
        self.blocked_by.fetch_add(1, Ordering::AcqRel);
        BlockedMark(self)
    }

    /// The prepared statement for `sql`. A task of its own prepares it: if its caller leaves, other
    /// callers still get the statement, and no statement leaks on the server.
    async fn prepare(self: &Arc<Self>, sql: &str) -> Result<Statement, Error> {
        let slot = self.statements.slot(sql);
        let prepared = slot.get_or_try_init(|| async {
            let connection = Arc::clone(self);
            let text = sql.to_owned();
            let task = tokio::spawn(async move { connection.client.prepare(&text).await });
            match task.await {
                Ok(prepared) => prepared.map_err(|error| Error::of(&error, false)),
                Err(_) => Err(Error::Lost {
                    sent: false,
                    reason: "the runtime stops".to_owned(),
                }),
            }
        });
        match prepared.await {
            Ok(statement) => Ok(statement.clone()),
            Err(error) => {
                self.statements.remove(sql);
                Err(error)
            }
        }
    }

    /// Records that an exclusive user left while the server works for it.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Prepares the connection for its next user: rolls back and resets the session. If the server
    /// still works for the last user, this cancels that work and fails, because a late cancellation
    /// could end a statement of the next user.
    pub(super) async fn clean(&self) -> Result<(), Error> {
        if self.abandoned.load(Ordering::Acquire) {
            self.ping_pending.store(true, Ordering::Release);
            // If this fails, the statement runs until its timeout.
            self.cancel.cancel_query(self.tls.clone()).await.ok();
            return Err(Error::Lost {
                sent: true,
                reason: "its statement was cancelled".to_owned(),
            });
        }
        self.ping().await?;
        self.rollback().await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The driver would wait for an answer that may never come.
        if self.ping_pending.load(Ordering::Acquire) {
            self.driver.abort();
        }
    }
}

/// See [`Connection::mark_blocked`].
pub(super) struct BlockedMark<'a>(&'a Connection);

impl Drop for BlockedMark<'_> {
    fn drop(&mut self) {
        self.0.blocked_by.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn collect(stream: RowStream) -> Result<QueryOutput, tokio_postgres::Error> {
    let mut stream = pin!(stream);
    let mut rows = Vec::new();
    while let Some(row) = stream.try_next().await? {
        rows.push(row);
    }
    let rows_affected = stream.rows_affected().unwrap_or_default();
    Ok(QueryOutput {
        rows,
        rows_affected,
    })
}
