//! What a pool needs of the thing it connects to.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use serde::Serialize;

/// Opens connections of one sort and knows whether they are well.
pub trait Connect: Send + Sync + 'static {
    /// A connection. The pool never looks into it.
    type Connection: Send + Sync + 'static;

    /// Opens one; the pool bounds it by its `connect_timeout`. Runs in a task of its own: a caller
    /// that goes away does not end it.
    fn connect(&self) -> BoxFuture<'static, Result<Self::Connection, ConnectError>>;

    /// Asks the other side whether the connection is well. Only called when it was idle for longer
    /// than `check_after_idle`.
    fn check(
        &self,
        connection: Arc<Self::Connection>,
    ) -> BoxFuture<'static, Result<(), ConnectError>>;

    /// Whether it is known to be dead, without asking anybody.
    fn is_closed(&self, connection: &Self::Connection) -> bool;

    /// Whether what is sent over it now would wait for something that nobody waits for any more. In
    /// shared use it gets no new users meanwhile.
    fn is_blocked(&self, _connection: &Self::Connection) -> bool {
        false
    }

    /// Makes an exclusively used connection fit for the next one, for example by a rollback of what
    /// was left open. Called after each exclusive use that was marked and not finished.
    fn clean(
        &self,
        connection: Arc<Self::Connection>,
    ) -> BoxFuture<'static, Result<(), ConnectError>>;

    /// Resident bytes that one connection costs, those of the server's process included when that
    /// is ours: what closing one promises.
    fn bytes_per_connection(&self) -> u64;
}

/// Says where a server is, when that is needed. What starts a server of its own does it here.
pub trait Locate: Send + Sync + 'static {
    /// The server's URL (or keyword string). It may hold a password: never logged.
    fn locate(&self) -> BoxFuture<'static, Result<String, ConnectError>>;
}

/// A server that is where the settings say.
pub struct ConfiguredUrl(String);

impl ConfiguredUrl {
    /// `url` may also be a keyword string; it may hold a password.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }
}

impl Locate for ConfiguredUrl {
    fn locate(&self) -> BoxFuture<'static, Result<String, ConnectError>> {
        std::future::ready(Ok(self.0.clone())).boxed()
    }
}

/// What kept a connection from being opened, or being well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectErrorKind {
    /// Nobody answers at the address.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The server is there and takes no more now: too many connections, starting up, loading.
    Refused,
    /// Authentication or authorisation failed. Not tried again soon.
    Denied,
    /// The secure channel could not be made.
    Tls,
    /// There is no server to be had on this machine; the message says the remedy.
    Missing,
    /// The other side does not speak as it should.
    Protocol,
}

impl ConnectErrorKind {
    /// A fixed word for metrics and logs.
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

    /// Whether another try soon could have another end. If not, all who wait are told at once.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unreachable | Self::TimedOut | Self::Refused | Self::Protocol => true,
            Self::Denied | Self::Tls | Self::Missing => false,
        }
    }
}

/// Why there is no connection. Cheap to clone: all who wait are told the same.
#[derive(Debug, Clone)]
pub struct ConnectError {
    /// What sort of failure.
    pub kind: ConnectErrorKind,
    /// What happened, in words fit for a log. Never a secret.
    pub message: Arc<str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl ConnectError {
    /// A failure of `kind`. The message must not hold a secret.
    pub fn new(kind: ConnectErrorKind, message: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// Names where that was, in front of the message: hosts and ports, never a URL.
    #[must_use]
    pub fn at(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message).into();
        self
    }

    /// Adds the cause.
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
        match &self.source {
            Some(source) => Some(&**source),
            None => None,
        }
    }
}
