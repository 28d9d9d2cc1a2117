//! The connection pools as the routes see them: one type for every kind of server.

use std::fmt;
use std::time::Duration;

use headroom_actors::kernel::AskError;
use headroom_actors::kernel::pool::{CircuitState, PoolStatus, Status};
use headroom_actors::kernel::private_server::{PrivateServer, ServerState};
use headroom_actors::postgres::Database;
use headroom_actors::redis::{PubSub, Redis, SubscriberStatus, cmd};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::problem::Problem;

/// The kind of server that a pool connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Embedded(_) => "embedded",
            Self::Configured => "configured",
            Self::Missing => "missing",
        })
    }
}

/// Whether a pool can be used. The order is from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
    name: &'static str,
    origin: Origin,
    bounds: (u32, u32),
    backend: Backend,
}

/// The client that uses a pool.
#[derive(Clone)]
enum Backend {
    Postgres(Database),
    Redis(Redis),
    PubSub(PubSub),
}

impl Pool {
    /// A pool of connections to PostgreSQL.
    pub fn postgres(
        name: &'static str,
        origin: Origin,
        bounds: (u32, u32),
        database: Database,
    ) -> Self {
        Self {
            name,
            origin,
            bounds,
            backend: Backend::Postgres(database),
        }
    }

    /// A pool of connections to Redis.
    pub fn redis(name: &'static str, origin: Origin, bounds: (u32, u32), redis: Redis) -> Self {
        Self {
            name,
            origin,
            bounds,
            backend: Backend::Redis(redis),
        }
    }

    /// A pool of connections to Redis for messages, with its subscriber.
    pub fn pubsub(name: &'static str, origin: Origin, bounds: (u32, u32), pubsub: PubSub) -> Self {
        Self {
            name,
            origin,
            bounds,
            backend: Backend::PubSub(pubsub),
        }
    }

    /// The pool's name in paths, metrics and the supervision tree.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The kind of server that a pool connects to.
    pub fn kind(&self) -> Kind {
        match self.backend {
            Backend::Postgres(_) => Kind::Postgres,
            Backend::Redis(_) | Backend::PubSub(_) => Kind::Redis,
        }
    }

    /// Who runs the server.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The state of the private server, if it connects to one.
    pub fn private_server(&self) -> Option<ServerState> {
        match &self.origin {
            Origin::Embedded(server) => Some(server.state().borrow().clone()),
            Origin::Configured | Origin::Missing => None,
        }
    }

    /// The minimum and the maximum number of connections.
    pub fn bounds(&self) -> (u32, u32) {
        self.bounds
    }

    /// The pool's counters, from the actor that owns it.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn status(&self, within: Duration) -> Result<PoolStatus, AskError> {
        match &self.backend {
            Backend::Postgres(database) => database.pool().ask(Status, within).await,
            Backend::Redis(redis) => redis.status(within).await,
            Backend::PubSub(pubsub) => pubsub.redis().status(within).await,
        }
    }

    /// The state of its subscriber, if it has one.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn subscriber(&self, within: Duration) -> Result<Option<SubscriberStatus>, AskError> {
        match &self.backend {
            Backend::PubSub(pubsub) => pubsub.status(within).await.map(Some),
            Backend::Postgres(_) | Backend::Redis(_) => Ok(None),
        }
    }

    /// Asks its server for version, role and load over an open connection. `None` if no connection is
    /// open; none is opened for this.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn facts(&self, within: Duration) -> Result<Option<Value>, Problem> {
        let facts = match &self.backend {
            Backend::Postgres(database) => {
                let info = database.server_info(within).await?;
                info.map(serde_json::to_value)
            }
            Backend::Redis(redis) => {
                let info = redis.server_info(within).await?;
                info.map(serde_json::to_value)
            }
            Backend::PubSub(pubsub) => {
                let info = pubsub.redis().server_info(within).await?;
                info.map(serde_json::to_value)
            }
        };
        facts.transpose().map_err(|error| Problem::internal(&error))
    }

    /// Tests the pool with a real use: opens a connection if none is open, and sends an empty query, a
    /// `PING`, or a message to itself.
    ///
    /// # Errors
    /// The pool cannot be used.
    pub async fn touch(&self, within: Duration) -> Result<(), Problem> {
        match &self.backend {
            Backend::Postgres(database) => {
                database.query("select 1", &[], within).await?.one()?;
            }
            Backend::Redis(redis) => redis.command::<()>(&cmd("PING"), within).await?,
            Backend::PubSub(pubsub) => pubsub.round_trip(within).await?,
        }
        Ok(())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({})", self.name)
    }
}
