//! The interface between a pool and a driver.

use std::error::Error;
use std::sync::Arc;

use serde::Serialize;

/// A driver: opens, checks and resets connections of one kind.
pub trait Connect: Send + Sync + 'static {
    /// The connection.
    type Connection: Send + Sync + 'static;

    /// Opens a connection, in a task of its own: a caller that gives up does not cancel it. The
    /// pool limits its time to `connect_timeout`.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, ConnectError>> + Send;

    /// Whether what the next connect uses has changed since the last one, for example a file with a
    /// certificate. The pool asks while it waits because the server denied access.
    fn has_changed(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }

    /// Asks the server whether the connection works. The pool calls it for a connection that was
    /// idle for longer than `check_after_idle`.
    fn check(
        &self,
        connection: &Self::Connection,
    ) -> impl Future<Output = Result<(), ConnectError>> + Send;

    /// Resets a connection for the next user, for example by a rollback. The pool calls it after an
    /// exclusive lease that ended while it was marked dirty.
    fn clean(
        &self,
        connection: &Self::Connection,
    ) -> impl Future<Output = Result<(), ConnectError>> + Send;

    /// Ends a connection that is leased no more, and waits until the server has let go of it. Until
    /// then, but for a bounded time, it counts against the pool's maximum: so the maximum also holds
    /// at the server. The last user may hold its reference for a moment longer. Dropping it is
    /// enough where a server notices at once that a client has left.
    fn retire(&self, connection: Arc<Self::Connection>) -> impl Future<Output = ()> + Send {
        drop(connection);
        std::future::ready(())
    }

    /// Whether the connection is known to be closed. Must not wait.
    fn is_closed(&self, connection: &Self::Connection) -> bool;

    /// Whether nothing is left open on a connection that nobody uses any more, for example a transaction:
    /// otherwise it gets no further user. Must not wait.
    fn is_at_rest(&self, _connection: &Self::Connection) -> bool {
        true
    }

    /// Whether the server still works on a request whose caller has left, so that a new request
    /// would wait behind it. A shared connection gets no new users meanwhile. Must not wait.
    fn is_blocked(&self, _connection: &Self::Connection) -> bool {
        false
    }

    /// The resident bytes that closing one connection gives back, including those of a private
    /// server's process.
    fn bytes_per_connection(&self) -> u64;
}

/// The kind of a [`ConnectError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectErrorKind {
    /// No server answers at the address.
    Unreachable,
    /// The server did not answer in time.
    TimedOut,
    /// The server accepts no connection now: it has too many, or it is starting or loading.
    Refused,
    /// Authentication or authorisation failed.
    Denied,
    /// The TLS handshake failed.
    Tls,
    /// No server is configured or installed. The message says what to do.
    Missing,
    /// The server violated the protocol.
    Protocol,
}

impl ConnectErrorKind {
    /// The name of the kind in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::Tls => "tls",
            Self::Missing => "missing",
            Self::Protocol => "protocol",
        }
    }

    /// Whether a retry may succeed soon. Otherwise all callers that wait fail at once.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unreachable | Self::TimedOut | Self::Refused | Self::Protocol => true,
            Self::Denied | Self::Tls | Self::Missing => false,
        }
    }
}

/// Why a connect or a check failed. Cheap to clone, since every waiting caller gets it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ConnectError {
    /// The kind of failure.
    pub kind: ConnectErrorKind,
    /// What happened. Contains no secret.
    pub message: Arc<str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl ConnectError {
    /// A failure of `kind`. The message must not contain a secret.
    pub fn new(kind: ConnectErrorKind, message: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// Puts the server's host and port in front of the message. Never a URL: it may contain a
    /// password.
    #[must_use]
    pub fn at(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message).into();
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }
}
