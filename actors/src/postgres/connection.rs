//! One connection: how it is opened, and what can be sent over it.

use std::error::Error as _;
use std::io;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::task::AbortHandle;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{CancelToken, Client, Row, RowStream, SimpleQueryMessage, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Server;
use super::database::Params;
use super::error::Error;
use super::freshness::Freshness;
use super::statement_cache::StatementCache;
use crate::kernel::pool::{ConnectError, ConnectErrorKind};

/// Ends a transaction with `$end`, and takes the session back to what it was when it was opened: `DISCARD
/// ALL` but for the prepared statements, which are ours. In one go with the end of the transaction it
/// costs no way to the server and back.
macro_rules! ended_by {
    ($end:literal) => {
        concat!(
            $end,
            "; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
             SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
        )
    };
}

/// Commits, and leaves nothing of it in the session.
const COMMIT: &str = ended_by!("COMMIT");
/// Rolls back, and leaves nothing of it in the session.
pub(super) const ROLLBACK: &str = ended_by!("ROLLBACK");

/// A connection to a PostgreSQL server. Many may use it at once: what they send is answered in order.
pub struct Connection {
    client: Client,
    statements: StatementCache,
    cancel: CancelToken,
    tls: MakeRustlsConnect,
    server: String,
    version: String,
    /// The sort of session that it was opened for.
    session: TargetSessionAttrs,
    /// Drives the connection.
    driver: AbortHandle,
    /// How recent what it shows is, where it is_primary to a replica.
    pub(super) freshness: Freshness,
    /// Whether a question about its health stayed without an answer so far.
    doubtful: AtomicBool,
    /// Whether an exclusive user went away while the server worked for it.
    abandoned: AtomicBool,
    /// Statements of users that went away, on which the server works for long.
    held_up_by: AtomicUsize,
}

/// What a statement brought.
pub(super) struct Answer {
    pub(super) rows: Vec<Row>,
    /// Rows that it changed, or returned.
    pub(super) affected: u64,
}

impl Connection {
    /// Opens one to `server` within `within`, and keeps at most `statements_max` statements prepared.
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
            // Ends when the last user of the connection drops it, or with the connection.
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
            session: server.config.get_target_session_attrs(),
            driver: driver.abort_handle(),
            freshness: Freshness::default(),
            doubtful: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            held_up_by: AtomicUsize::new(0),
            client,
        })
    }

    /// Host and port.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The server's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether it is known to have ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether `error` says that the server, opened to write, takes no writes any more: it was demoted.
    pub(super) fn was_demoted(&self, error: &Error) -> bool {
        self.session == TargetSessionAttrs::ReadWrite && error.is_read_only()
    }

    /// Whether it was opened to a replica, so that a server which takes writes is the wrong one.
    pub(super) fn is_for_replicas(&self) -> bool {
        self.session == TargetSessionAttrs::ReadOnly
    }

    /// Runs one statement. `sent` becomes true as soon as the server can have acted on it.
    pub(super) async fn run(
        self: &Arc<Self>,
        sql: &str,
        params: Params<'_>,
        sent: &AtomicBool,
    ) -> Result<Answer, Error> {
        let statement = self.prepare(sql).await?;
        if self.is_closed() {
            return Err(Error::Lost {
                sent: false,
                reason: "it was closed".to_owned(),
            });
        }
        sent.store(true, Ordering::Relaxed);
        let params = params.iter().copied();
        let answer = match self.client.query_raw(&statement, params).await {
            Ok(rows) => collect(rows).await.map_err(|error| Error::of(&error, true)),
            // Nothing is run of what cannot be bound.
            Err(error) => Err(Error::before_it_ran(&error)),
        };
        answer.inspect_err(|error| {
            if error.is_stale_statement() {
                self.statements.remove(sql);
            }
        })
    }

    /// Runs statements without parameters, separated by semicolons; nothing comes back.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), Error> {
        let sent = !self.is_closed();
        let done = self.client.batch_execute(sql).await;
        done.map_err(|error| Error::of(&error, sent))
    }

    /// Commits the open transaction. Says whether the session is as new afterwards: what follows the
    /// commit in the same go may fail by itself, which does not undo it.
    pub(super) async fn commit(&self) -> Result<bool, Error> {
        let sent = !self.is_closed();
        let answers = self.client.simple_query_raw(COMMIT).await;
        let mut answers = pin!(answers.map_err(|error| Error::of(&error, sent))?);
        let mut committed = false;
        loop {
            match answers.try_next().await {
                Ok(Some(SimpleQueryMessage::CommandComplete(_))) => committed = true,
                Ok(Some(_)) => {}
                Ok(None) => return Ok(true),
                Err(_) if committed => return Ok(false),
                Err(error) => return Err(Error::of(&error, sent)),
            }
        }
    }

    /// Waits until the server has answered all that was sent before.
    pub(super) async fn settled(&self) -> Result<(), Error> {
        self.doubtful.store(true, Ordering::Release);
        let settled = self.client.check_connection().await;
        settled.map_err(|error| Error::of(&error, false))?;
        self.doubtful.store(false, Ordering::Release);
        Ok(())
    }

    /// Whether the server works for long on what nobody waits for any more.
    pub(super) fn is_held_up(&self) -> bool {
        self.held_up_by.load(Ordering::Acquire) > 0
    }

    /// Holds the connection up until what this returns is dropped.
    pub(super) fn hold_up(self: &Arc<Self>) -> HeldUp {
        self.held_up_by.fetch_add(1, Ordering::AcqRel);
        HeldUp(Arc::clone(self))
    }

    /// The prepared statement for `sql`. One caller prepares, in a task of its own: if it goes away,
    /// the others still get the statement, and none is left behind on the server.
    async fn prepare(self: &Arc<Self>, sql: &str) -> Result<Statement, Error> {
        let slot = self.statements.slot(sql);
        if let Some(statement) = slot.get() {
            return Ok(statement.clone());
        }
        let prepared = slot.get_or_try_init(|| async {
            let connection = Arc::clone(self);
            let text = sql.to_owned();
            let task = tokio::spawn(async move { connection.client.prepare(&text).await });
            match task.await {
                Ok(prepared) => prepared.map_err(|error| Error::of(&error, false)),
                // The runtime stops.
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

    /// Says that an exclusive user went away while the server works for it.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Makes it fit for the next user: rolls back, and takes the session back to its settings. One that
    /// the server still works on is cancelled and fails: a cancellation may come late, and would then
    /// meet the next user's statement.
    pub(super) async fn clean(&self) -> Result<(), Error> {
        if self.abandoned.load(Ordering::Acquire) {
            self.doubtful.store(true, Ordering::Release);
            // Without it the statement runs until its timeout, no more.
            self.cancel.cancel_query(self.tls.clone()).await.ok();
            return Err(Error::Lost {
                sent: true,
                reason: "what ran on it was cancelled".to_owned(),
            });
        }
        self.settled().await?;
        self.batch(ROLLBACK).await
    }
}

/// See [`Connection::hold_up`].
pub(super) struct HeldUp(Arc<Connection>);

impl Drop for HeldUp {
    fn drop(&mut self) {
        self.0.held_up_by.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn collect(rows: RowStream) -> Result<Answer, tokio_postgres::Error> {
    let mut rows = pin!(rows);
    let mut collected = Vec::new();
    while let Some(row) = rows.try_next().await? {
        collected.push(row);
    }
    let affected = rows.rows_affected().unwrap_or_default();
    Ok(Answer {
        rows: collected,
        affected,
    })
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Else its driver would wait for an answer that may never come.
        if self.doubtful.load(Ordering::Acquire) {
            self.driver.abort();
        }
    }
}

/// Why the server at `name` cannot be connected to.
fn connect_error(name: &str, error: &tokio_postgres::Error) -> ConnectError {
    let kind = connect_error_kind(error);
    let why = error.as_db_error().map_or_else(|| chain(error), refusal);
    ConnectError::new(kind, why).at(name)
}

/// Why the server lets nobody in. Its own words name the user, the database or an option, which are
/// parts of the URL, except for those about itself.
fn refusal(error: &DbError) -> String {
    let sqlstate = error.code().code();
    let words = match *error.code() {
        SqlState::INVALID_PASSWORD => "the user or the password is wrong",
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "the user is unknown, or no rule in pg_hba.conf lets it in from here"
        }
        SqlState::INVALID_CATALOG_NAME => "there is no such database",
        SqlState::INSUFFICIENT_PRIVILEGE => "the user may not connect to the database",
        _ if sqlstate.starts_with("53") || sqlstate.starts_with("57") => error.message(),
        _ => "the server refused the connection",
    };
    format!("{words} (SQLSTATE {sqlstate})")
}

fn connect_error_kind(error: &tokio_postgres::Error) -> ConnectErrorKind {
    if let Some(code) = error.code() {
        return match *code {
            SqlState::TOO_MANY_CONNECTIONS | SqlState::CANNOT_CONNECT_NOW => {
                ConnectErrorKind::Refused
            }
            SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => ConnectErrorKind::Refused,
            SqlState::INVALID_CATALOG_NAME | SqlState::INSUFFICIENT_PRIVILEGE => {
                ConnectErrorKind::Denied
            }
            _ if code.code().starts_with("28") => ConnectErrorKind::Denied,
            _ => ConnectErrorKind::Protocol,
        };
    }
    // tokio-postgres keeps its kinds to itself; its words for them are all there is.
    match error.to_string().as_str() {
        "error performing TLS handshake" => return ConnectErrorKind::Tls,
        "authentication error" | "invalid configuration" => return ConnectErrorKind::Denied,
        _ => {}
    }
    if error.is_closed() {
        return ConnectErrorKind::Unreachable;
    }
    let io = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    match io {
        // This is how tokio-postgres says that the session is not of the wanted sort.
        Some(io) if io.kind() == io::ErrorKind::PermissionDenied && io.raw_os_error().is_none() => {
            ConnectErrorKind::Refused
        }
        Some(io) if io.kind() == io::ErrorKind::TimedOut => ConnectErrorKind::TimedOut,
        Some(_) => ConnectErrorKind::Unreachable,
        None => ConnectErrorKind::Protocol,
    }
}

/// The error with its causes. While connecting none of them holds a secret.
fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
