//! The PostgreSQL or Redis that all peers use: a private server on a Unix socket, as Headroom starts it,
//! filled with items. One monitoring connection fills it and counts the peers' connections.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use headroom_actors::kernel::pool::{Locate, PoolConfig};
use headroom_actors::kernel::private_server::{
    PrivateServerConfig, PrivateServerError, SearchPath, ServerState, Socket,
};
use headroom_actors::kernel::{Root, SupervisorSpec, Tree};
use headroom_actors::postgres::{self, Connector, Database, PostgresConfig, QueryOutput};
use headroom_actors::redis::{self, Redis, Role, cmd, pipe};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;

use super::budget::Unlimited;
use super::plan::{self, VALUE_BYTES};
use crate::Error;

/// Longer than any request here takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How often the open connections are counted while a peer ends.
const COUNT_EVERY: Duration = Duration::from_millis(50);

/// Keys that one pipeline sets in Redis.
const KEYS_PER_PIPELINE: u32 = 1000;

/// The name of the monitoring connection in PostgreSQL.
const MONITOR: &str = "monitor";

/// A running server.
pub(super) struct BenchServer {
    root: Root,
    monitor: Monitor,
    states: watch::Receiver<ServerState>,
    socket: Socket,
    _folder: TempDir,
}

enum Monitor {
    Postgres(Database),
    Redis(Redis),
}

impl BenchServer {
    /// Starts PostgreSQL with a table of `keys` rows.
    pub(super) async fn postgres(keys: u32) -> Result<Self, Error> {
        let (folder, config) = data_folder()?;
        let branch = SupervisorSpec::new("server");
        let server = postgres::private_server(config, branch.handle(), Arc::new(Unlimited));
        let settings = PostgresConfig {
            application_name: MONITOR.to_owned(),
            statement_timeout: TIMEOUT,
            ..PostgresConfig::default()
        };
        let locate: Arc<dyn Locate> = Arc::new(server.clone());
        let connector = Connector::new(locate, settings.clone());
        let database = Database::new(MONITOR, connector, settings, one_connection(), &[]);
        let root = start(branch.child(database.child(None))).await?;
        let started = Self {
            root,
            socket: server.ensure_running().await.map_err(not_started)?,
            states: server.state(),
            monitor: Monitor::Postgres(database),
            _folder: folder,
        };
        started.fill(keys).await?;
        Ok(started)
    }

    /// Starts Redis with `keys` keys. It does not write to the disk, because pools are compared.
    pub(super) async fn redis(keys: u32) -> Result<Self, Error> {
        let (folder, config) = data_folder()?;
        let branch = SupervisorSpec::new("server");
        let server = redis::private_server(config, branch.handle(), Arc::new(Unlimited));
        let locate = redis::Server::one(Arc::new(server.clone()));
        let (handle, child) = redis::pool(Role::Primary, locate, one_connection(), None);
        let root = start(branch.child(child)).await?;
        let started = Self {
            root,
            socket: server.ensure_running().await.map_err(not_started)?,
            states: server.state(),
            monitor: Monitor::Redis(Redis::new(handle)),
            _folder: folder,
        };
        started.fill(keys).await?;
        Ok(started)
    }

    /// Its URL, with the password.
    pub(super) fn url(&self) -> &str {
        self.socket.url()
    }

    /// The id of its process.
    pub(super) fn pid(&self) -> Result<i32, Error> {
        match &*self.states.borrow() {
            ServerState::Running { pid, .. } => Ok(*pid),
            other => Err(Error::Program(format!("the server is {}", other.label()))),
        }
    }

    /// The number of connections opened since its start.
    pub(super) async fn opened(&self) -> Result<u64, Error> {
        match &self.monitor {
            Monitor::Postgres(database) => {
                let sql =
                    "SELECT sessions FROM pg_stat_database WHERE datname = current_database()";
                count(database, sql).await
            }
            Monitor::Redis(redis) => info(redis, "total_connections_received").await,
        }
    }

    /// The number of connections that are open, without the monitoring one.
    pub(super) async fn open_now(&self) -> Result<u64, Error> {
        match &self.monitor {
            Monitor::Postgres(database) => {
                let sql = "SELECT count(*) FROM pg_stat_activity WHERE \
                    datname = current_database() AND backend_type = 'client backend' \
                    AND pid <> pg_backend_pid()";
                count(database, sql).await
            }
            Monitor::Redis(redis) => Ok(info(redis, "connected_clients").await?.saturating_sub(1)),
        }
    }

    /// Waits until only the monitoring connection is open.
    pub(super) async fn wait_until_unused(&self) -> Result<(), Error> {
        let until = Instant::now() + TIMEOUT;
        while self.open_now().await? > 0 {
            if Instant::now() > until {
                let message = "a peer's connections outlived it";
                return Err(Error::Program(message.to_owned()));
            }
            tokio::time::sleep(COUNT_EVERY).await;
        }
        Ok(())
    }

    pub(super) async fn stop(self) {
        self.root.stop().await;
    }

    async fn fill(&self, keys: u32) -> Result<(), Error> {
        match &self.monitor {
            Monitor::Postgres(database) => {
                let insert = format!(
                    "INSERT INTO item SELECT id, lpad(id::text, {VALUE_BYTES}, '0') \
                     FROM generate_series(1, {keys}) AS id"
                );
                let create = "CREATE TABLE item (id bigint PRIMARY KEY, payload text NOT NULL)";
                for sql in [create, &insert, "VACUUM ANALYZE item"] {
                    let done = database.query(sql, &[], TIMEOUT).await;
                    done.map_err(|error| refused("cannot fill the table", error))?;
                }
            }
            Monitor::Redis(redis) => {
                let mut off = cmd("CONFIG");
                off.arg("SET").arg("appendonly").arg("no");
                let done = redis.command::<()>(&off, TIMEOUT).await;
                done.map_err(|error| refused("cannot turn the log off", error))?;
                for first in (1..=keys).step_by(KEYS_PER_PIPELINE as usize) {
                    let mut sets = pipe();
                    for key in first..(first + KEYS_PER_PIPELINE).min(keys + 1) {
                        let key = i64::from(key);
                        sets.set(plan::name(key), plan::value(key)).ignore();
                    }
                    let done = redis.pipeline::<()>(&sets, TIMEOUT).await;
                    done.map_err(|error| refused("cannot set the keys", error))?;
                }
            }
        }
        Ok(())
    }
}

/// Makes a folder for the data. Other users may pass through it, because root starts the server as
/// another user.
fn data_folder() -> Result<(TempDir, PrivateServerConfig), Error> {
    let folder = tempfile::tempdir().map_err(Error::io("cannot make a folder"))?;
    let passable = std::fs::Permissions::from_mode(0o711);
    let opened = std::fs::set_permissions(folder.path(), passable);
    opened.map_err(Error::io("cannot open the folder"))?;
    let search = SearchPath::installed(&std::env::var_os("PATH").unwrap_or_default());
    let config = PrivateServerConfig::new(folder.path().join("server"), search);
    Ok((folder, config))
}

async fn start(branch: SupervisorSpec) -> Result<Root, Error> {
    let spec = SupervisorSpec::new("loadtest");
    let spec = spec.child(headroom_actors::kernel::ChildSpec::supervisor(branch));
    let started = Root::start(spec, &Tree::default()).await;
    started.map_err(|exit| Error::Program(format!("the tree did not start: {exit}")))
}

/// The pool of the monitoring connection. Its first connect starts the server.
fn one_connection() -> PoolConfig {
    PoolConfig {
        connections_min: 1,
        connections_max: 1,
        connect_timeout: TIMEOUT,
        ..PoolConfig::default()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err has it")]
fn not_started(error: PrivateServerError) -> Error {
    Error::Program(format!("the private server did not start: {error}"))
}

fn refused(what: &str, error: impl std::fmt::Display) -> Error {
    Error::Program(format!("{what}: {error}"))
}

async fn count(database: &Database, sql: &str) -> Result<u64, Error> {
    let failed = |error| refused("PostgreSQL does not count its connections", error);
    let output = database.query(sql, &[], TIMEOUT).await;
    let row = output.and_then(QueryOutput::one);
    let count: i64 = row.map_err(failed)?.get(0);
    Ok(count.unsigned_abs())
}

/// A figure from Redis's INFO.
async fn info(redis: &Redis, figure: &str) -> Result<u64, Error> {
    let text = redis.command::<String>(&cmd("INFO"), TIMEOUT).await;
    let text = text.map_err(|error| refused("Redis does not count its connections", error))?;
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == figure).then(|| value.trim().parse().ok())?
    });
    value.ok_or_else(|| Error::Answer(format!("the INFO of Redis has no {figure}")))
}
