//! The server that all peers are measured against: a private one, as Headroom starts it, on a Unix
//! socket, with the items that are asked for. It is filled and watched over a connection of its own.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use headroom_actors::kernel::pool::{Locate, PoolConfig};
use headroom_actors::kernel::private_server::{
    PrivateServerConfig, PrivateServerError, SearchPath, ServerState, Socket,
};
use headroom_actors::kernel::{Root, SupervisorSpec, Tree};
use headroom_actors::postgres::{self, Connector, Database, PostgresConfig};
use headroom_actors::redis::{self, Redis, Role, cmd, pipe};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;

use super::budget::Unlimited;
use super::plan::{self, VALUE_BYTES};
use crate::Error;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is asked whether a peer's connections are gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Keys that Redis is given at once.
const FILLED_AT_ONCE: u32 = 1000;

/// How the connection that watches calls itself in PostgreSQL.
const WATCHER: &str = "watcher";

/// A server that runs until it is stopped.
pub(super) struct Private {
    root: Root,
    watcher: Watcher,
    states: watch::Receiver<ServerState>,
    socket: Socket,
    _folder: TempDir,
}

enum Watcher {
    Postgres(Database),
    Redis(Redis),
}

impl Private {
    /// Starts PostgreSQL with a table of `keys` rows.
    pub(super) async fn postgres(keys: u32) -> Result<Self, Error> {
        let (folder, config) = place()?;
        let branch = SupervisorSpec::new("server");
        let server = postgres::private_server(config, branch.handle(), Arc::new(Unlimited));
        let settings = PostgresConfig {
            application_name: WATCHER.to_owned(),
            statement_timeout: PATIENCE,
            ..PostgresConfig::default()
        };
        let locate: Arc<dyn Locate> = Arc::new(server.clone());
        let connector = Connector::new(locate, settings.clone());
        let database = Database::new(WATCHER, connector, settings, one_connection(), &[]);
        let root = start(branch.child(database.child(None))).await?;
        let private = Self {
            root,
            socket: server.ensure_running().await.map_err(not_started)?,
            states: server.state(),
            watcher: Watcher::Postgres(database),
            _folder: folder,
        };
        private.fill(keys).await?;
        Ok(private)
    }

    /// Starts Redis with `keys` keys. It does not write to the disk: pools are compared, not disks.
    pub(super) async fn redis(keys: u32) -> Result<Self, Error> {
        let (folder, config) = place()?;
        let branch = SupervisorSpec::new("server");
        let server = redis::private_server(config, branch.handle(), Arc::new(Unlimited));
        let locate = redis::Server::one(Arc::new(server.clone()));
        let (handle, child) = redis::pool(Role::Primary, locate, one_connection(), None);
        let root = start(branch.child(child)).await?;
        let private = Self {
            root,
            socket: server.ensure_running().await.map_err(not_started)?,
            states: server.state(),
            watcher: Watcher::Redis(Redis::new(handle)),
            _folder: folder,
        };
        private.fill(keys).await?;
        Ok(private)
    }

    /// Where it listens, with the password.
    pub(super) fn url(&self) -> &str {
        self.socket.url()
    }

    /// Its process.
    pub(super) fn pid(&self) -> Result<i32, Error> {
        match &*self.states.borrow() {
            ServerState::Running { pid, .. } => Ok(*pid),
            other => Err(Error::Program(format!("the server is {}", other.label()))),
        }
    }

    /// Connections ever opened to it.
    pub(super) async fn opened(&self) -> Result<u64, Error> {
        match &self.watcher {
            Watcher::Postgres(database) => {
                let sql =
                    "SELECT sessions FROM pg_stat_database WHERE datname = current_database()";
                count(database, sql).await
            }
            Watcher::Redis(redis) => info(redis, "total_connections_received").await,
        }
    }

    /// Connections open now, the one that watches left out. One that is no longer open is among
    /// those that were opened.
    pub(super) async fn open_now(&self) -> Result<u64, Error> {
        match &self.watcher {
            Watcher::Postgres(database) => {
                let sql = "SELECT count(*) FROM pg_stat_activity WHERE \
                    datname = current_database() AND backend_type = 'client backend' \
                    AND pid <> pg_backend_pid()";
                count(database, sql).await
            }
            Watcher::Redis(redis) => Ok(info(redis, "connected_clients").await?.saturating_sub(1)),
        }
    }

    /// Waits until no connection is open but the one that watches.
    pub(super) async fn left_alone(&self) -> Result<(), Error> {
        let until = Instant::now() + PATIENCE;
        while self.open_now().await? > 0 {
            if Instant::now() > until {
                let words = "a peer's connections outlived it";
                return Err(Error::Program(words.to_owned()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    pub(super) async fn stop(self) {
        self.root.stop().await;
    }

    async fn fill(&self, keys: u32) -> Result<(), Error> {
        match &self.watcher {
            Watcher::Postgres(database) => {
                let insert = format!(
                    "INSERT INTO item SELECT id, lpad(id::text, {VALUE_BYTES}, '0') \
                     FROM generate_series(1, {keys}) AS id"
                );
                let create = "CREATE TABLE item (id bigint PRIMARY KEY, payload text NOT NULL)";
                for sql in [create, &insert, "VACUUM ANALYZE item"] {
                    let done = database.execute(sql, &[], PATIENCE).await;
                    done.map_err(|error| refused("cannot fill the table", error))?;
                }
            }
            Watcher::Redis(redis) => {
                let mut off = cmd("CONFIG");
                off.arg("SET").arg("appendonly").arg("no");
                let done = redis.command::<()>(&off, PATIENCE).await;
                done.map_err(|error| refused("cannot turn the log off", error))?;
                for first in (1..=keys).step_by(FILLED_AT_ONCE as usize) {
                    let mut sets = pipe();
                    for key in first..(first + FILLED_AT_ONCE).min(keys + 1) {
                        let key = i64::from(key);
                        sets.set(plan::name(key), plan::value(key)).ignore();
                    }
                    let done = redis.pipeline::<()>(&sets, PATIENCE).await;
                    done.map_err(|error| refused("cannot set the keys", error))?;
                }
            }
        }
        Ok(())
    }
}

/// A folder for the data. Any user may pass through it: as root, the server runs as another one.
fn place() -> Result<(TempDir, PrivateServerConfig), Error> {
    let folder = tempfile::tempdir().map_err(Error::io("cannot make a folder"))?;
    let anyone = std::fs::Permissions::from_mode(0o711);
    let opened = std::fs::set_permissions(folder.path(), anyone);
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

/// For the one connection that watches: the first connect starts the server.
fn one_connection() -> PoolConfig {
    PoolConfig {
        connections_min: 1,
        connections_max: 1,
        connect_timeout: PATIENCE,
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
    let failed = |error| refused("PostgreSQL does not tell of its connections", error);
    let row = database.query_one(sql, &[], PATIENCE).await;
    let count: i64 = row.map_err(failed)?.get(0);
    Ok(count.unsigned_abs())
}

/// A figure that Redis has of itself.
async fn info(redis: &Redis, figure: &str) -> Result<u64, Error> {
    let text = redis.command::<String>(&cmd("INFO"), PATIENCE).await;
    let text = text.map_err(|error| refused("Redis does not tell of its connections", error))?;
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == figure).then(|| value.trim().parse().ok())?
    });
    value.ok_or_else(|| Error::Answer(format!("Redis does not tell its {figure}")))
}
