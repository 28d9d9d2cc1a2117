//! How the pool opens, checks and cleans connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::{self, Address, Server};
use super::config::PostgresConfig;
use super::connection::Connection;
use super::error::Error;
use super::tls;
use crate::kernel::pool::{Connect, ConnectError, ConnectErrorKind, Locate};

/// How long a server may take to answer on a connection that has nothing else to do. Whoever waits for
/// the connection waits for that long, and another one is quickly opened.
const WELL_WITHIN: Duration = Duration::from_secs(1);

/// Opens connections to a server of the database's that takes one and is of the wanted sort: the first
/// such, or each replica in its turn. Names are resolved at every try.
pub struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    locate: Arc<dyn Locate>,
    settings: PostgresConfig,
    sort: Sort,
    /// What was last read; the location rarely changes.
    target: Mutex<Option<Arc<Target>>>,
}

/// Which of the servers are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// The one that takes writes.
    Primary,
    /// Those that follow it: each takes its part.
    Replicas,
}

impl Sort {
    /// What `target_session_attrs` is where the location does not say.
    fn session(self) -> TargetSessionAttrs {
        match self {
            Self::Primary => TargetSessionAttrs::ReadWrite,
            Self::Replicas => TargetSessionAttrs::ReadOnly,
        }
    }
}

/// A location that was read.
struct Target {
    location: String,
    servers: Vec<Server>,
    tls: MakeRustlsConnect,
    /// The server that is tried first: the one that took the last connection, or the replica after it.
    preferred: AtomicUsize,
}

impl Connector {
    /// A connector for the database that `locate` finds, to the server that takes writes.
    pub fn new(locate: Arc<dyn Locate>, settings: PostgresConfig) -> Self {
        Self::of(Sort::Primary, locate, settings)
    }

    /// A connector for those of the servers that `locate` finds which take no writes.
    pub fn replicas(locate: Arc<dyn Locate>, settings: PostgresConfig) -> Self {
        Self::of(Sort::Replicas, locate, settings)
    }

    fn of(sort: Sort, locate: Arc<dyn Locate>, settings: PostgresConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                locate,
                settings,
                sort,
                target: Mutex::new(None),
            }),
        }
    }
}

impl Shared {
    async fn target(&self) -> Result<Arc<Target>, ConnectError> {
        let location = self.locate.locate().await?;
        let known = || self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let last = known().clone();
        if let Some(target) = last.filter(|target| target.location == location) {
            return Ok(target);
        }
        let Address {
            servers,
            verification,
        } = address::read(&location, self.sort.session(), &self.settings)?;
        let failed = |message: String| ConnectError::new(ConnectErrorKind::Tls, message);
        let tls = tokio::task::spawn_blocking(move || tls::connector(&verification))
            .await
            .map_err(|_| failed("reading the root certificates was interrupted".to_owned()))?
            .map_err(|error| failed(error.to_string()))?;
        let target = Arc::new(Target {
            location,
            servers,
            tls,
            preferred: AtomicUsize::new(0),
        });
        *known() = Some(Arc::clone(&target));
        Ok(target)
    }

    async fn connect(&self) -> Result<Connection, ConnectError> {
        let target = self.target().await?;
        let count = target.servers.len();
        let parts = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        let within = self.settings.connect_timeout / parts;
        let preferred = target.preferred.load(Ordering::Relaxed);
        let mut failed = Vec::new();
        for index in (0..count).map(|step| (preferred + step) % count) {
            let server = &target.servers[index];
            let opening =
                Connection::open(server, &target.tls, within, self.settings.statements_max);
            match opening.await {
                Ok(connection) => {
                    let step = usize::from(self.sort == Sort::Replicas);
                    let next = (index + step) % count;
                    target.preferred.store(next, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => failed.push(error),
            }
        }
        Err(together(failed))
    }
}

/// What several failures are as one: of a sort that may pass, if any of them may.
fn together(failed: Vec<ConnectError>) -> ConnectError {
    let passing = failed.iter().find(|error| error.kind.is_transient());
    let kind = passing.or(failed.first()).map(|error| error.kind);
    let messages: Vec<_> = failed.iter().map(|error| &*error.message).collect();
    ConnectError::new(
        kind.unwrap_or(ConnectErrorKind::Unreachable),
        messages.join("; "),
    )
}

/// Bounds a check or clean-up, whose failure costs no more than a new connection.
async fn in_time(work: impl Future<Output = Result<(), Error>>) -> Result<(), ConnectError> {
    let (kind, message) = match tokio::time::timeout(WELL_WITHIN, work).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => (ConnectErrorKind::Protocol, error.to_string()),
        Err(_) => (
            ConnectErrorKind::TimedOut,
            "the server does not answer".to_owned(),
        ),
    };
    Err(ConnectError::new(kind, message))
}

impl Connect for Connector {
    type Connection = Connection;

    fn connect(&self) -> BoxFuture<'static, Result<Connection, ConnectError>> {
        let shared = Arc::clone(&self.shared);
        async move { shared.connect().await }.boxed()
    }

    fn check(&self, connection: Arc<Connection>) -> BoxFuture<'static, Result<(), ConnectError>> {
        async move { in_time(connection.settled()).await }.boxed()
    }

    fn is_closed(&self, connection: &Connection) -> bool {
        connection.is_closed()
    }

    fn is_blocked(&self, connection: &Connection) -> bool {
        connection.is_held_up()
    }

    fn clean(&self, connection: Arc<Connection>) -> BoxFuture<'static, Result<(), ConnectError>> {
        async move { in_time(connection.clean()).await }.boxed()
    }

    fn bytes_per_connection(&self) -> u64 {
        self.shared.settings.bytes_per_connection
    }
}
