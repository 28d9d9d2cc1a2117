//! The pools of Redis: one for each role, and the subscriber.

use std::path::Path;
use std::sync::Arc;

use headroom_actors::kernel::private_server::{PrivateServer, ServerUrl};
use headroom_actors::kernel::{ChildSpec, SupervisorSpec};
use headroom_actors::memory::Memory;
use headroom_actors::redis::{
    self, ConnectOptions, Credentials, PubSub, Redis, Role, Server, Subscriber, SubscriberConfig,
    Topology,
};

use crate::pools::{Client, Need, Origin, Pool};
use crate::settings::secrets::Secret;
use crate::settings::sections::{EmbeddedSettings, RedisRoleSettings, RedisSettings};

use super::{embedded, pool, server_url};

/// The folder of a role's private server in data.dir.
pub(crate) fn folder(role: Role) -> &'static str {
    match role {
        Role::Primary => "redis",
        Role::Cache => "redis-cache",
        Role::PubSub => "redis-pubsub",
    }
}

/// Wires one pool for each role. Each role without a configured server has a private one.
pub(super) fn compose(
    settings: &RedisSettings,
    data: &Path,
    memory: &Memory,
) -> (ChildSpec, Vec<Pool>) {
    let mut branch = SupervisorSpec::new("redis");
    let private_settings = &settings.embedded;
    let supervisor = branch.handle();
    let mut pools = Vec::new();
    for (role, section, settings) in [
        (Role::Primary, "redis.primary", &settings.primary),
        (Role::Cache, "redis.cache", &settings.cache),
        (Role::PubSub, "redis.pubsub", &settings.pubsub),
    ] {
        let private = PrivateServer::new(
            redis::private_server(role),
            embedded(private_settings, data.join(folder(role))),
            supervisor.clone(),
            Arc::new(memory.budget()),
        );
        let (origin, server) = server(section, settings, private_settings, &private);
        let config = pool(&settings.pool, &origin);
        let bounds = (config.connections_min, config.connections_max);
        let subscriber_config = SubscriberConfig {
            connect_timeout: config.connect_timeout,
            check_after_idle: config.check_after_idle,
            check_timeout: settings.pool.connect_timeout,
            backoff: config.circuit_backoff,
        };
        let pressure = Some(memory.pressure());
        let (handle, child) = redis::pool(role, server.clone(), config, pressure);
        branch = branch.child(child);
        let redis = Redis::new(handle);
        let client = if role == Role::PubSub {
            let subscriber = Subscriber::handle();
            branch = branch.child(Subscriber::child(&subscriber, server, subscriber_config));
            Client::PubSub(PubSub::new(redis, subscriber))
        } else {
            Client::Redis(redis)
        };
        pools.push(Pool {
            name: role.name(),
            origin,
            bounds,
            need: match role {
                Role::Primary | Role::PubSub => Need::Required,
                Role::Cache => Need::Optional,
            },
            client,
        });
    }
    (ChildSpec::supervisor(branch), pools)
}

/// The server of the settings, or else the private one.
fn server(
    section: &str,
    settings: &RedisRoleSettings,
    embedded: &EmbeddedSettings,
    private: &PrivateServer,
) -> (Origin, Server) {
    if let Some(server) = configured(settings) {
        return (Origin::Configured, server);
    }
    let (origin, url) = server_url(section, None, embedded, private);
    let server = Server {
        topology: Topology::One(url),
        ca_file: settings.tls_ca_file.clone(),
    };
    (origin, server)
}

/// The server of the settings, if they name one.
pub(crate) fn configured(settings: &RedisRoleSettings) -> Option<Server> {
    let options = ConnectOptions {
        credentials: credentials(&settings.username, &settings.password),
        database: settings.database.unwrap_or(0),
        tls: settings.tls,
    };
    let topology = match (&settings.sentinels, &settings.cluster) {
        (Some(sentinels), _) => Topology::Sentinels {
            sentinels: sentinels.clone(),
            credentials: credentials(&settings.sentinel_username, &settings.sentinel_password),
            master: settings.sentinel_master.clone().unwrap_or_default(),
            options,
        },
        (None, Some(nodes)) => Topology::Cluster {
            nodes: nodes.clone(),
            options,
        },
        (None, None) => {
            let url = settings.url.as_ref()?.expose().to_owned();
            Topology::One(ServerUrl::Configured(url))
        }
    };
    Some(Server {
        topology,
        ca_file: settings.tls_ca_file.clone(),
    })
}

fn credentials(username: &Option<String>, password: &Option<Secret>) -> Credentials {
    Credentials {
        username: username.clone(),
        password: password.as_ref().map(|secret| secret.expose().to_owned()),
    }
}
