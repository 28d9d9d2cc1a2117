//! Connects each pool with its server. A pool without a configured server gets a private one. Each
//! kind of server has its branch of the supervision tree.

pub(crate) mod redis;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headroom_actors::kernel::pool::PoolConfig;
use headroom_actors::kernel::private_server::{
    PrivateServer, PrivateServerConfig, START_TIMEOUT, SearchPath, ServerUrl,
};
use headroom_actors::kernel::{ChildSpec, SupervisorSpec};
use headroom_actors::memory::Memory;
use headroom_actors::postgres::{self, Connector, Database, MIGRATIONS, PostgresConfig};

use crate::pools::{Client, Need, Origin, Pool};
use crate::settings::Settings;
use crate::settings::sections::{
    EmbeddedSettings, PoolSettings, PostgresSettings, ReplicaSettings,
};

/// The folder of the private PostgreSQL in data.dir.
pub(crate) const POSTGRES_FOLDER: &str = "postgres";

/// The branches of the supervision tree that own the pools, the pools, and the database.
pub(super) fn compose(
    settings: &Settings,
    memory: &Memory,
) -> ([ChildSpec; 2], Arc<[Pool]>, Database) {
    headroom_actors::postgres::start_at_zero();
    headroom_actors::redis::start_at_zero();
    let (postgres, databases, database) = postgres(&settings.postgres, &settings.data.dir, memory);
    let (redis, roles) = redis::compose(&settings.redis, &settings.data.dir, memory);
    let pools = databases.into_iter().chain(roles).collect();
    ([postgres, redis], pools, database)
}

/// Whether a private PostgreSQL may be started.
pub(super) fn has_private_postgres(settings: &Settings) -> bool {
    settings.postgres.url.is_none() && settings.postgres.embedded.enabled
}

/// Whether a private Redis may be started.
pub(super) fn has_private_redis(settings: &Settings) -> bool {
    let settings = &settings.redis;
    let mut roles = [&settings.primary, &settings.cache, &settings.pubsub].into_iter();
    settings.embedded.enabled && roles.any(|role| redis::configured(role).is_none())
}

/// Wires the database, and its replicas if there are any.
fn postgres(
    settings: &PostgresSettings,
    data: &Path,
    memory: &Memory,
) -> (ChildSpec, Vec<Pool>, Database) {
    let branch = SupervisorSpec::new("postgres");
    let private = PrivateServer::new(
        &postgres::PRIVATE_SERVER,
        embedded(&settings.embedded, data.join(POSTGRES_FOLDER)),
        branch.handle(),
        Arc::new(memory.budget()),
    );
    let url = settings.url.as_ref().map(|url| url.expose());
    let (origin, url) = server_url("postgres", url, &settings.embedded, &private);
    if settings.statements_max == 0 {
        tracing::info!(
            "postgres.statements_max is 0: connections to PostgreSQL are taken to lead through a pooler in \
             transaction mode"
        );
    }
    let mut config = postgres_config(settings);
    if matches!(origin, Origin::Embedded(_)) {
        config.bytes_per_connection = postgres::PRIVATE_SERVER_CONNECTION_BYTES;
    }
    let primary = pool(&settings.pool, &origin);
    let bounds = (primary.connections_min, primary.connections_max);
    let connector = Connector::new(url, config.clone());
    let database = Database::new("postgres", connector, config.clone(), primary);
    let mut database = database.with_migrations(MIGRATIONS);
    let mut branch = branch.child(database.child(Some(memory.pressure())));
    let replicas = replicas(&settings.replicas, config);
    if let Some((replicas, _)) = &replicas {
        branch = branch.child(replicas.child(Some(memory.pressure())));
        database = database.with_replicas(replicas, settings.replicas.lag_max);
    }
    let mut pools = vec![Pool {
        name: "postgres",
        origin,
        bounds,
        need: Need::Required,
        client: Client::Postgres(database.clone()),
    }];
    pools.extend(replicas.map(|(replicas, bounds)| Pool {
        name: "postgres-replicas",
        origin: Origin::Configured,
        bounds,
        need: Need::Optional,
        client: Client::Postgres(replicas),
    }));
    (ChildSpec::supervisor(branch), pools, database)
}

/// How connections to the database are opened.
pub(crate) fn postgres_config(settings: &PostgresSettings) -> PostgresConfig {
    PostgresConfig {
        connect_timeout: settings.pool.connect_timeout,
        statement_timeout: settings.statement_timeout,
        lock_timeout: settings.lock_timeout,
        idle_in_transaction_timeout: settings.idle_in_transaction_timeout,
        statements_max: usize::try_from(settings.statements_max).unwrap_or(usize::MAX),
        reset_after: settings.reset_after,
        ..PostgresConfig::default()
    }
}

/// Wires the replicas. Also returns the bounds of their number of connections.
fn replicas(settings: &ReplicaSettings, config: PostgresConfig) -> Option<(Database, (u32, u32))> {
    let url = settings.url.as_ref()?;
    let config = PostgresConfig {
        connect_timeout: settings.pool.connect_timeout,
        ..config
    };
    let pool = PoolConfig {
        // One failure opens the circuit, so that calls do not wait for a replica: the primary
        // serves them.
        circuit_failures: 1,
        ..pool(&settings.pool, &Origin::Configured)
    };
    let bounds = (pool.connections_min, pool.connections_max);
    let url = ServerUrl::Configured(url.expose().to_owned());
    let connector = Connector::replicas(url, config.clone());
    let database = Database::new("postgres-replicas", connector, config, pool);
    Some((database, bounds))
}

/// The server at the URL of `section`, or else the private one if it is enabled.
fn server_url(
    section: &str,
    url: Option<&str>,
    embedded: &EmbeddedSettings,
    private: &PrivateServer,
) -> (Origin, ServerUrl) {
    match url {
        Some(url) => (Origin::Configured, ServerUrl::Configured(url.to_owned())),
        None if embedded.enabled => {
            let url = ServerUrl::Private(private.clone());
            (Origin::Embedded(private.clone()), url)
        }
        None => {
            let kind = section.split('.').next().unwrap_or(section);
            let message = format!(
                "{section}.url is not set, and {kind}.embedded.enabled = false allows no private \
                 server: set {section}.url (or {section}.url_file)"
            );
            tracing::warn!("{message}");
            (Origin::Missing, ServerUrl::Missing(message.into()))
        }
    }
}

fn pool(settings: &PoolSettings, origin: &Origin) -> PoolConfig {
    let count = |setting: NonZeroUsize| u32::try_from(setting.get()).unwrap_or(u32::MAX);
    let connect_timeout = match origin {
        Origin::Configured | Origin::Missing => settings.connect_timeout,
        // The first connect starts the server.
        Origin::Embedded(_) => settings.connect_timeout + START_TIMEOUT,
    };
    PoolConfig {
        connections_min: count(settings.connections_min),
        connections_max: count(settings.connections_max),
        waiting_max: count(settings.waiting_max),
        connect_timeout,
        idle_timeout: settings.idle_timeout,
        lifetime: settings.lifetime,
        check_after_idle: settings.check_after_idle.0,
        leak_after: settings.leak_after,
        shared_max: count(settings.shared_max),
        shared_depth: count(settings.shared_depth),
        ..PoolConfig::default()
    }
}

/// How a private server is started whose data is in `folder`.
pub(crate) fn embedded(settings: &EmbeddedSettings, folder: PathBuf) -> PrivateServerConfig {
    let search = match &settings.bin_dir {
        Some(folder) => SearchPath(vec![folder.clone()]),
        None => SearchPath::installed(&std::env::var_os("PATH").unwrap_or_default()),
    };
    PrivateServerConfig {
        folder,
        user: settings.user.as_ref().map(|user| user.as_str().to_owned()),
        search,
    }
}

#[cfg(test)]
mod tests {
    use headroom_actors::redis::pool_config;

    use super::*;
    use crate::settings::{Environment, Sources, load};

    #[test]
    fn the_shipped_settings_are_the_defaults_of_the_pools() {
        let shipped = load(&Sources::default(), &Environment::new());
        let shipped = shipped.unwrap().settings;
        let of = |settings| pool(settings, &Origin::Configured);
        assert_eq!(of(&shipped.postgres.pool), PoolConfig::default());
        assert_eq!(of(&shipped.redis.primary.pool), pool_config());
        assert_eq!(of(&shipped.redis.cache.pool), pool_config());
    }
}
