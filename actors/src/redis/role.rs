//! The roles of Redis, and the pool of a role.

use serde::Serialize;

use super::connector::Connector;
use super::server::Server;
use crate::kernel::ChildSpec;
use crate::kernel::pool::{PoolConfig, PoolHandle};
use crate::kernel::pressure::PressureReader;

/// What Redis is used for. Each role has its own settings and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Data that must not be lost: a failure is an error.
    Primary,
    /// Data that can be computed again: a failure is a miss.
    Cache,
    /// Messages, over one subscribed connection.
    PubSub,
}

impl Role {
    /// The name of the role's actor, and of its pool in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "redis-primary",
            Self::Cache => "redis-cache",
            Self::PubSub => "redis-pubsub",
        }
    }
}

/// Default settings of a pool: few connections, because each carries many commands at once.
pub fn pool_config() -> PoolConfig {
    PoolConfig {
        connections_min: 1,
        connections_max: 8,
        shared_max: 2,
        shared_depth: 512,
        ..PoolConfig::default()
    }
}

/// The pool of a role: the pool, and its owner as a child of a supervisor.
pub fn pool(
    role: Role,
    server: Server,
    config: PoolConfig,
    pressure: Option<PressureReader>,
) -> (PoolHandle<Connector>, ChildSpec) {
    let connector = Connector::new(server, role.name());
    let pool = PoolHandle::new(role.name(), config, connector);
    let child = pool.child(pressure);
    (pool, child)
}
