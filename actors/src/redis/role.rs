//! The roles in which Redis is used, and the pool of each.

use std::sync::Arc;

use serde::Serialize;

use super::connector::Connector;
use super::server::Server;
use crate::kernel::pool::{Pool, PoolConfig};
use crate::kernel::pressure::PressureReader;
use crate::kernel::{ChildSpec, Handle};

/// What Redis is used for. Each role has settings and connections of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What must not be lost: fails closed.
    Primary,
    /// What can be had again: fails open.
    Cache,
    /// Messages: one connection that is subscribed.
    PubSub,
}

impl Role {
    /// The name of its actor, and of its pool in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "redis-primary",
            Self::Cache => "redis-cache",
            Self::PubSub => "redis-pubsub",
        }
    }
}

/// Settings for a pool to Redis: few connections, since each carries many commands at once.
pub fn pool_config() -> PoolConfig {
    PoolConfig {
        connections_min: 1,
        connections_max: 8,
        shared_depth: 256,
        ..PoolConfig::default()
    }
}

/// The pool of one role, as a child of a supervisor, and the way to it.
pub fn pool(
    role: Role,
    server: Server,
    config: PoolConfig,
    pressure: Option<PressureReader>,
) -> (Handle<Pool<Connector>>, ChildSpec) {
    let handle = Pool::handle(role.name(), &config);
    let connector = Arc::new(Connector::new(server));
    let child = Pool::child(&handle, config, connector, pressure);
    (handle, child)
}
