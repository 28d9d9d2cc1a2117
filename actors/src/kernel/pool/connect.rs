//! The interface between a pool and a driver.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use serde::Serialize;

/// A driver: opens, checks and cleans connections of one kind.
pub trait Connect: Send + Sync + 'static {
    /// The connection.
    type Connection: Send + Sync + 'static;

    /// Opens a connection, in a task of its own: a caller that gives up does not cancel it. The
    /// pool limits its time to `connect_timeout`.
    fn connect(&self) -> BoxFuture<'static, Result<Self::Connection, ConnectError>>;

    /// Asks the server whether the connection works. The pool calls it for a connection that was
    /// idle for longer than `check_after_idle`.
    fn check(
        &self,
        connection: Arc<Self::Connection>,
    ) -> BoxFuture<'static, Result<(), ConnectError>>;

    /// Whether the connection is known to be closed. Must not wait.
    fn is_closed(&self, connection: &Self::Connection) -> bool;

    /// Whether the server still works on a request whose caller has left, so that a new request
    /// would wait behind it. A shared connection gets no new users meanwhile. Must not wait.
    fn is_blocked(&self, _connection: &Self::Connection) -> bool {
        false
    }

    /// Resets a connection for the next user, for example by a rollback. The pool calls it after an
    /// exclusive lease that ended while it was marked dirty.
    fn clean(
        &self,
        connection: Arc<Self::Connection>,
    ) -> BoxFuture<'static, Result<(), ConnectError>>;

    /// The resident bytes that closing one connection gives back, including those of a private
    /// server's process.
    fn bytes_per_connection(&self) -> u64;
}

/// Finds the URL of a server. A private server is started by this call.
pub trait Locate: Send + Sync + 'static {
    /// The server's URL. It may contain a password and must not be logged.
    fn locate(&self) -> BoxFuture<'static, Result<String, ConnectError>>;
}

/// The URL of a server from the settings.
pub struct ConfiguredUrl(String);

impl ConfiguredUrl {
    /// A server at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }
}

impl Locate for ConfiguredUrl {
    fn locate(&self) -> BoxFuture<'static, Result<String, ConnectError>> {
        std::future::ready(Ok(self.0.clone())).boxed()
    }
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
#[derive(Debug, Clone)]
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

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}
