//! One connection: how it is opened, watched, reset and closed. [`super::statements`] sends statements over it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{CancelToken, Client};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Server;
use super::connect_error::connect_error;
use super::error::Error;
use super::freshness::FreshnessTracker;
use super::statement_cache::StatementCache;
use crate::kernel::chain;
use crate::kernel::pool::{ConnectError, ConnectErrorKind};

/// A connection to a PostgreSQL server. Several users may share it: the server answers in the order
/// of sending.
pub struct Connection {
    pub(super) client: Client,
    pub(super) statements: StatementCache,
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
    /// Opens a connection to `server` within `within`. It keeps its prepared statements in `statements`.
    pub(super) async fn open(
        server: &Server,
        tls: &MakeRustlsConnect,
        within: Duration,
        statements: StatementCache,
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
            statements,
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
