//! The PostgreSQL or Redis that all peers use: a private server on a Unix socket, as Headroom starts it,
//! filled with items. One monitoring connection fills it and counts the peers' connections.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use headroom_actors::kernel::pool::PoolConfig;
use headroom_actors::kernel::private_server::{
    PrivateServer, PrivateServerConfig, SearchPath, ServerUrl, Socket,
};
use headroom_actors::kernel::{
    Budget, BudgetError, ChildSpec, Reservation, ReservationEntry, ReservationRequest, Root,
    SupervisorSpec, Tree,
};
use headroom_actors::postgres::{self, Connector, Database, PostgresConfig};
use headroom_actors::redis::{self, Redis, Role, Topology, cmd};
use headroom_measure::Items;
use tempfile::TempDir;
use tokio::time::Instant;

use super::Kind;
use super::plan::items;
use crate::Result;

/// Longer than any request here takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How often the open connections are counted after the end of a peer.
const COUNT_EVERY: Duration = Duration::from_millis(50);

/// A running server.
pub(super) struct BenchServer {
    root: Root,
    socket: Socket,
    monitor: Monitor,
    _folder: TempDir,
}

enum Monitor {
    Postgres(Database),
    Redis(Redis),
}

impl BenchServer {
    /// Starts a server with `keys` rows or keys.
    pub(super) async fn start(kind: Kind, keys: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // Root starts the server as another user, who must pass through the folder.
        set_permissions(folder.path(), Permissions::from_mode(0o711))?;
        let search = SearchPath::installed(&std::env::var_os("PATH").unwrap_or_default());
        let config = PrivateServerConfig {
            folder: folder.path().join("server"),
            user: None,
            search,
        };
        let one_connection = PoolConfig {
            connections_min: 1,
            connections_max: 1,
            // The first connect starts the server.
            connect_timeout: TIMEOUT,
            ..PoolConfig::default()
        };
        let branch = SupervisorSpec::new("server");
        let supervisor = branch.handle();
        let private = |kind| PrivateServer::new(kind, config, supervisor, Arc::new(Unlimited));
        let (server, monitor, child) = match kind {
            Kind::Postgres | Kind::PostgresSlow => {
                let server = private(&postgres::PRIVATE_SERVER);
                let settings = PostgresConfig {
                    connect_timeout: TIMEOUT,
                    statement_timeout: TIMEOUT,
                    ..PostgresConfig::default()
                };
                let connector =
                    Connector::new(ServerUrl::Private(server.clone()), settings.clone());
                let database = Database::new("monitor", connector, settings, one_connection);
                let child = database.child(None);
                (server, Monitor::Postgres(database), child)
            }
            Kind::Redis => {
                let server = private(redis::private_server(Role::Primary));
                let location = Topology::One(ServerUrl::Private(server.clone())).into();
                let (pool, child) = redis::pool(Role::Primary, location, one_connection, None);
                (server, Monitor::Redis(Redis::new(pool)), child)
            }
        };
        let branch = ChildSpec::supervisor(branch.child(child));
        let spec = SupervisorSpec::new("loadtest").child(branch);
        let root = Root::start(spec, &Tree::default()).await;
        let root = root.map_err(|exit| format!("the tree did not start: {exit}"))?;
        let socket = server.ensure_running().await?;
        monitor.fill(keys).await?;
        Ok(Self {
            root,
            socket,
            monitor,
            _folder: folder,
        })
    }

    /// Its URL, with the password.
    pub(super) fn url(&self) -> &str {
        self.socket.url()
    }

    /// The number of connections opened since its start. Waits until the peers' connections are closed:
    /// PostgreSQL may count one only then.
    pub(super) async fn opened(&self) -> Result<u64> {
        let until = Instant::now() + TIMEOUT;
        loop {
            let (opened, open) = self.monitor.connections().await?;
            // The monitoring connection stays open.
            if open <= 1 {
                return Ok(opened);
            }
            if Instant::now() > until {
                return Err("a peer's connections outlived it".into());
            }
            tokio::time::sleep(COUNT_EVERY).await;
        }
    }

    pub(super) async fn stop(self) {
        self.root.stop().await;
    }
}

impl Monitor {
    async fn fill(&self, keys: u32) -> Result<()> {
        match self {
            Self::Postgres(database) => {
                let items = items(keys);
                for sql in [items.create(), items.fill(), items.analyze()] {
                    database.query(&sql, &[], TIMEOUT).await?;
                }
            }
            Self::Redis(redis) => {
                let bytes = Items::value_bytes();
                let script = format!(
                    "for key = 1, {keys} do redis.call('SET', 'item:' .. key, \
                     string.rep('0', {bytes} - #tostring(key)) .. key) end"
                );
                let mut fill = cmd("EVAL");
                fill.arg(script).arg(0);
                redis.command::<()>(&fill, TIMEOUT).await?;
            }
        }
        Ok(())
    }

    /// The number of connections opened since the server's start, and of those that are open.
    async fn connections(&self) -> Result<(u64, u64)> {
        match self {
            Self::Postgres(database) => {
                let sql = "SELECT sessions, (SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND backend_type = 'client backend') \
                    FROM pg_stat_database WHERE datname = current_database()";
                let row = database.query(sql, &[], TIMEOUT).await?.one()?;
                let count = |column| row.get::<usize, i64>(column).unsigned_abs();
                Ok((count(0), count(1)))
            }
            Self::Redis(redis) => {
                let info: String = redis.command(&cmd("INFO"), TIMEOUT).await?;
                let figure = |name: &str| {
                    let value = info.lines().find_map(|line| line.strip_prefix(name));
                    let value = value.and_then(|value| value.parse().ok());
                    value.ok_or_else(|| format!("the INFO of Redis has no {name}"))
                };
                Ok((
                    figure("total_connections_received:")?,
                    figure("connected_clients:")?,
                ))
            }
        }
    }
}

/// A memory budget that grants every request.
struct Unlimited;

impl Budget for Unlimited {
    fn reserve(
        &self,
        _request: ReservationRequest,
    ) -> BoxFuture<'static, Result<Reservation, BudgetError>> {
        std::future::ready(Ok(Reservation::new(Arc::new(Self)))).boxed()
    }
}

impl ReservationEntry for Unlimited {
    fn attach(&self, _pid: i32) {}

    fn detach(&self, _pid: i32) {}

    fn set_reserved(&self, _bytes: u64) {}

    fn reserved(&self) -> u64 {
        0
    }

    fn measured(&self) -> u64 {
        0
    }

    fn peak(&self) -> u64 {
        0
    }

    fn release(&self) {}
}
