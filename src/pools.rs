//! The connection pools as the routes see them: one type for every kind of server.

use std::time::Duration;

use headroom_actors::kernel::AskError;
use headroom_actors::kernel::pool::{CircuitState, PoolStatus, Status};
use headroom_actors::kernel::private_server::{PrivateServer, ServerState};
use headroom_actors::postgres::Database;
use headroom_actors::redis::{PubSub, Redis, SubscriberStatus, cmd};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::problem::Problem;

/// The kind of server that a pool connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = PoolKind)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// PostgreSQL.
    Postgres,
    /// Redis.
    Redis,
}

/// Who runs the server that a pool connects to.
#[derive(Clone)]
pub enum Origin {
    /// Headroom: a private server.
    Embedded(PrivateServer),
    /// Somebody else: a URL is configured.
    Configured,
    /// Nobody: no URL is configured, and private servers are not allowed.
    Missing,
}

/// Who runs the server that a pool connects to, for callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerOrigin {
    /// Headroom: a private server.
    Embedded,
    /// Somebody else: a URL is configured.
    Configured,
    /// Nobody: no URL is configured, and private servers are not allowed.
    Missing,
}

impl From<&Origin> for ServerOrigin {
    fn from(origin: &Origin) -> Self {
        match origin {
            Origin::Embedded(_) => Self::Embedded,
            Origin::Configured => Self::Configured,
            Origin::Missing => Self::Missing,
        }
    }
}

/// Whether a pool can be used. The order is from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[schema(as = PoolHealth)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It has not been used yet.
    Cold,
    /// It can be used.
    Healthy,
    /// It can be used, but connects fail or connections leak.
    Degraded,
    /// It cannot be used.
    Down,
}

impl Health {
    /// Derives the health from the pool's own counters.
    pub fn of(status: &PoolStatus) -> Self {
        let fails = status.circuit.failures > 0;
        if status.circuit.state == CircuitState::Open || (fails && status.size == 0) {
            return Self::Down;
        }
        if status.opened == 0 && status.failed == 0 {
            return Self::Cold;
        }
        if fails || !status.leaked.is_empty() {
            return Self::Degraded;
        }
        Self::Healthy
    }
}

/// One pool.
#[derive(Clone)]
pub struct Pool {
    /// Its name in paths, metrics and the supervision tree.
    pub name: &'static str,
    /// Who runs the server.
    pub origin: Origin,
    /// The minimum and the maximum number of connections.
    pub bounds: (u32, u32),
    /// What uses it.
    pub client: Client,
}

/// The client that uses a pool.
#[derive(Clone)]
pub enum Client {
    /// Statements and transactions.
    Postgres(Database),
    /// Commands and scripts.
    Redis(Redis),
    /// Messages, with their subscriber.
    PubSub(PubSub),
}

impl Pool {
    /// The kind of server that a pool connects to.
    pub fn kind(&self) -> Kind {
        match self.client {
            Client::Postgres(_) => Kind::Postgres,
            Client::Redis(_) | Client::PubSub(_) => Kind::Redis,
        }
    }

    /// The state of the private server, if it connects to one.
    pub fn private_server(&self) -> Option<ServerState> {
        match &self.origin {
            Origin::Embedded(server) => Some(server.state().borrow().clone()),
            Origin::Configured | Origin::Missing => None,
        }
    }

    /// The pool's counters, from the actor that owns it.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn status(&self, within: Duration) -> Result<PoolStatus, AskError> {
        match &self.client {
            Client::Postgres(database) => database.pool().ask(Status, within).await,
            Client::Redis(redis) => redis.status(within).await,
            Client::PubSub(pubsub) => pubsub.redis().status(within).await,
        }
    }

    /// The state of its subscriber, if it has one.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn subscriber(&self, within: Duration) -> Result<Option<SubscriberStatus>, AskError> {
        match &self.client {
            Client::PubSub(pubsub) => pubsub.status(within).await.map(Some),
            Client::Postgres(_) | Client::Redis(_) => Ok(None),
        }
    }

    /// Asks its server for version, role and load over an open connection. Null if no connection is
    /// open; none is opened for this.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn facts(&self, within: Duration) -> Result<Value, Problem> {
        let facts = match &self.client {
            Client::Postgres(database) => serde_json::to_value(database.server_info(within).await?),
            Client::Redis(redis) => serde_json::to_value(redis.server_info(within).await?),
            Client::PubSub(pubsub) => {
                serde_json::to_value(pubsub.redis().server_info(within).await?)
            }
        };
        facts.map_err(|error| Problem::internal(&error))
    }

    /// Tests the pool with a real use: opens a connection if none is open, and sends an empty query, a
    /// `PING`, or a message to itself.
    ///
    /// # Errors
    /// The pool cannot be used.
    pub async fn touch(&self, within: Duration) -> Result<(), Problem> {
        match &self.client {
            Client::Postgres(database) => {
                database.query("select 1", &[], within).await?.one()?;
            }
            Client::Redis(redis) => redis.command::<()>(&cmd("PING"), within).await?,
            Client::PubSub(pubsub) => pubsub.round_trip(within).await?,
        }
        Ok(())
    }
}
