//! How the pool opens, checks and resets connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_postgres::config::TargetSessionAttrs;

use super::call::Caller;
use super::config::PostgresConfig;
use super::connect_error::merge;
use super::connection::Connection;
use super::error::Error;
use super::parsed_url::{LastUrl, ParsedUrl};
use super::statement_cache::SharedCaches;
use crate::kernel::pool::{Connect, ConnectError, ConnectErrorKind, Lease, Mode, PoolHandle};
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
    last_url: LastUrl,
    /// What the statement caches of its connections share.
    pub(super) caches: Arc<SharedCaches>,
}

impl Connector {
    /// A connector to the server that takes writes, of those at `url`.
    pub fn new(url: ServerUrl, settings: PostgresConfig) -> Self {
        Self {
            url,
            settings,
            session_attrs: TargetSessionAttrs::ReadWrite,
            last_url: LastUrl::default(),
            caches: Arc::default(),
        }
    }

    /// A connector to the servers that take no writes, of those at `url`.
    pub fn replicas(url: ServerUrl, settings: PostgresConfig) -> Self {
        Self {
            session_attrs: TargetSessionAttrs::ReadOnly,
            ..Self::new(url, settings)
        }
    }

    /// What the next connect uses.
    pub(super) async fn parsed_url(&self) -> Result<Arc<ParsedUrl>, ConnectError> {
        let url = self
            .last_url
            .get(&self.url, self.session_attrs, &self.settings);
        url.await
    }
}

impl Connect for Connector {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection, ConnectError> {
        let url = self.parsed_url().await?;
        let ParsedUrl {
            servers,
            tls,
            first,
            ..
        } = &*url;
        let count = servers.len();
        let parts = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        // A bit less than the pool waits, whose own error names no address.
        let timeout = self.settings.connect_timeout;
        let within = (timeout - timeout / 20) / parts;
        let start = first.load(Ordering::Relaxed);
        let mut errors = Vec::new();
        for index in (0..count).map(|step| (start + step) % count) {
            let settings = &self.settings;
            match Connection::open(&servers[index], tls, within, settings, &self.caches).await {
                Ok(connection) => {
                    let step = usize::from(self.session_attrs == TargetSessionAttrs::ReadOnly);
                    first.store((index + step) % count, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => {
                    if error.kind == ConnectErrorKind::Tls {
                        url.tls_failed();
                    }
                    errors.push(error);
                }
            }
        }
        Err(merge(&errors))
    }

    async fn has_changed(&self) -> bool {
        self.last_url.has_changed().await
    }

    async fn check(&self, connection: &Connection) -> Result<(), ConnectError> {
        in_time(connection.ping()).await
    }

    async fn clean(&self, connection: &Connection) -> Result<(), ConnectError> {
        in_time(connection.clean()).await
    }

    async fn retire(&self, connection: Arc<Connection>) {
        let let_go = connection.retire();
        // The driver says goodbye when its last user has dropped the connection.
        drop(connection);
        let_go.await;
    }

    fn is_closed(&self, connection: &Connection) -> bool {
        connection.is_closed()
    }

    fn is_at_rest(&self, connection: &Connection) -> bool {
        connection.is_at_rest()
    }

    fn is_blocked(&self, connection: &Connection) -> bool {
        connection.is_blocked()
    }

    fn bytes_per_connection(&self) -> u64 {
        self.settings.bytes_per_connection
    }
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
    pool: &PoolHandle<Connector>,
    mode: Mode,
    caller: Caller,
) -> Result<Lease<Connection>, Error> {
    Ok(pool
        .check_out(mode, caller.location, caller.remaining())
        .await?)
}
