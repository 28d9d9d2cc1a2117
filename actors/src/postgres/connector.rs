//! How the pool opens, checks and resets connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::{self, Server};
use super::call::Caller;
use super::config::PostgresConfig;
use super::connection::Connection;
use super::error::Error;
use super::tls;
use crate::kernel::Handle;
use crate::kernel::pool::{self, Connect, ConnectError, ConnectErrorKind, Lease, Mode, Pool};
use crate::kernel::private_server::ServerUrl;

/// The longest time for a check or a reset. The next user waits for it, and a new connection is
/// opened soon instead.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens connections to the servers of one database. For the primary, it takes the first server that
/// takes writes. For replicas, it takes one after the other. Each try resolves the names again.
pub struct Connector {
    url: ServerUrl,
    settings: PostgresConfig,
    /// What a server must be where the URL does not say it.
    session_attrs: TargetSessionAttrs,
    /// The parsed form of the last URL, which rarely changes.
    parsed: Mutex<Option<Arc<ParsedUrl>>>,
}

struct ParsedUrl {
    url: String,
    servers: Vec<Server>,
    tls: MakeRustlsConnect,
    /// The index of the server to try first: the one of the last connection, or the replica after it.
    first: AtomicUsize,
}

impl Connector {
    /// A connector to the server that takes writes, of those at `url`.
    pub fn new(url: ServerUrl, settings: PostgresConfig) -> Self {
        Self {
            url,
            settings,
            session_attrs: TargetSessionAttrs::ReadWrite,
            parsed: Mutex::new(None),
        }
    }

    /// A connector to the servers that take no writes, of those at `url`.
    pub fn replicas(url: ServerUrl, settings: PostgresConfig) -> Self {
        Self {
            session_attrs: TargetSessionAttrs::ReadOnly,
            ..Self::new(url, settings)
        }
    }

    async fn parsed(&self) -> Result<Arc<ParsedUrl>, ConnectError> {
        let url = self.url.get().await?;
        let lock = || self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        let last = lock().clone();
        if let Some(parsed) = last.filter(|parsed| parsed.url == url) {
            return Ok(parsed);
        }
        let (servers, verification) = address::parse(&url, self.session_attrs, &self.settings)?;
        let failed = |message: String| ConnectError::new(ConnectErrorKind::Tls, message);
        let tls = tokio::task::spawn_blocking(move || tls::connector(&verification))
            .await
            .map_err(|_| failed("the runtime stopped while it read root certificates".to_owned()))?
            .map_err(failed)?;
        let parsed = Arc::new(ParsedUrl {
            url,
            servers,
            tls,
            first: AtomicUsize::new(0),
        });
        *lock() = Some(Arc::clone(&parsed));
        Ok(parsed)
    }
}

impl Connect for Connector {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection, ConnectError> {
        let ParsedUrl {
            servers,
            tls,
            first,
            ..
        } = &*self.parsed().await?;
        let count = servers.len();
        let parts = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        let within = self.settings.connect_timeout / parts;
        let start = first.load(Ordering::Relaxed);
        let mut errors = Vec::new();
        for index in (0..count).map(|step| (start + step) % count) {
            let statements_max = self.settings.statements_max;
            match Connection::open(&servers[index], tls, within, statements_max).await {
                Ok(connection) => {
                    let step = usize::from(self.session_attrs == TargetSessionAttrs::ReadOnly);
                    first.store((index + step) % count, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => errors.push(error),
            }
        }
        Err(merge(&errors))
    }

    async fn check(&self, connection: &Connection) -> Result<(), ConnectError> {
        in_time(connection.ping()).await
    }

    async fn clean(&self, connection: &Connection) -> Result<(), ConnectError> {
        in_time(connection.clean()).await
    }

    fn is_closed(&self, connection: &Connection) -> bool {
        connection.is_closed()
    }

    fn is_blocked(&self, connection: &Connection) -> bool {
        connection.is_blocked()
    }

    fn bytes_per_connection(&self) -> u64 {
        self.settings.bytes_per_connection
    }
}

/// Several failures as one error. Its kind is transient if that of any failure is.
fn merge(errors: &[ConnectError]) -> ConnectError {
    let transient = errors.iter().find(|error| error.kind.is_transient());
    let kind = transient.or(errors.first()).map(|error| error.kind);
    let messages: Vec<_> = errors.iter().map(|error| &*error.message).collect();
    ConnectError::new(
        kind.unwrap_or(ConnectErrorKind::Unreachable),
        messages.join("; "),
    )
}

/// Bounds a check or a reset. If it fails, the pool opens another connection.
async fn in_time(work: impl Future<Output = Result<(), Error>>) -> Result<(), ConnectError> {
    let (kind, message) = match tokio::time::timeout(CHECK_TIMEOUT, work).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => (ConnectErrorKind::Protocol, error.to_string()),
        Err(_) => (
            ConnectErrorKind::TimedOut,
            format!("no answer from the server within {CHECK_TIMEOUT:?}"),
        ),
    };
    Err(ConnectError::new(kind, message))
}

/// Takes a connection from `pool` for `caller`.
pub(super) async fn check_out(
    pool: &Handle<Pool<Connector>>,
    mode: Mode,
    caller: Caller,
) -> Result<Lease<Connection>, Error> {
    Ok(pool::check_out(pool, mode, caller.location, caller.remaining()).await?)
}
