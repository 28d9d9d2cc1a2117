//! The pools as the routes see them: one list, whatever they connect to.

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

/// What speaks at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// PostgreSQL.
    Postgres,
    /// Redis.
    Redis,
}

/// Who runs the server at the other end.
#[derive(Clone, Debug)]
pub enum Origin {
    /// We do, as a process of ours.
    Embedded(PrivateServer),
    /// Somebody else, at the configured URL.
    Configured,
    /// Nobody: no URL is configured, and a private server is not allowed.
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

/// Whether a pool can be used, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nobody has used it yet.
    Cold,
    /// Yes.
    Healthy,
    /// Yes, but something is wrong.
    Degraded,
    /// No.
    Down,
}

impl Health {
    /// By what the pool itself knows.
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
    way: Backend,
}

/// How it is used.
#[derive(Clone)]
enum Backend {
    Postgres(Database),
    Redis(Redis),
    PubSub(PubSub),
}

impl Pool {
    /// The pool of a database.
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
            way: Backend::Postgres(database),
        }
    }

    /// The pool of a Redis.
    pub fn redis(name: &'static str, origin: Origin, bounds: (u32, u32), redis: Redis) -> Self {
        Self {
            name,
            origin,
            bounds,
            way: Backend::Redis(redis),
        }
    }

    /// The pool of a Redis for messages, with what listens to them.
    pub fn pubsub(name: &'static str, origin: Origin, bounds: (u32, u32), pubsub: PubSub) -> Self {
        Self {
            name,
            origin,
            bounds,
            way: Backend::PubSub(pubsub),
        }
    }

    /// Its name in paths, metrics and the tree.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What speaks at the other end.
    pub fn kind(&self) -> Kind {
        match self.way {
            Backend::Postgres(_) => Kind::Postgres,
            Backend::Redis(_) | Backend::PubSub(_) => Kind::Redis,
        }
    }

    /// Who runs the server.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Where the private server stands, if it is one.
    pub fn private_server(&self) -> Option<ServerState> {
        match &self.origin {
            Origin::Embedded(server) => Some(server.state().borrow().clone()),
            Origin::Configured | Origin::Missing => None,
        }
    }

    /// Connections at rest, and at most.
    pub fn bounds(&self) -> (u32, u32) {
        self.bounds
    }

    /// What its owner knows of it.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn status(&self, within: Duration) -> Result<PoolStatus, AskError> {
        match &self.way {
            Backend::Postgres(database) => database.pool().ask(Status, within).await,
            Backend::Redis(redis) => redis.status(within).await,
            Backend::PubSub(pubsub) => pubsub.redis().status(within).await,
        }
    }

    /// How its subscribed connection does, if it has one.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn subscriber(&self, within: Duration) -> Result<Option<SubscriberStatus>, AskError> {
        match &self.way {
            Backend::PubSub(pubsub) => pubsub.status(within).await.map(Some),
            Backend::Postgres(_) | Backend::Redis(_) => Ok(None),
        }
    }

    /// What its server says of itself, over a connection that is open. `None` where none is, and
    /// none is opened for it.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn facts(&self, within: Duration) -> Result<Option<Value>, Problem> {
        let facts = match &self.way {
            Backend::Postgres(database) => database.facts(within).await?.map(serde_json::to_value),
            Backend::Redis(redis) => redis.facts(within).await?.map(serde_json::to_value),
            Backend::PubSub(pubsub) => {
                let facts = pubsub.redis().facts(within).await?;
                facts.map(serde_json::to_value)
            }
        };
        facts.transpose().map_err(|error| Problem::internal(&error))
    }

    /// Uses it, as anybody would: opens a connection where there is none, and has the server do
    /// nothing, or send a message back.
    ///
    /// # Errors
    /// When it cannot be used.
    pub async fn touch(&self, within: Duration) -> Result<(), Problem> {
        match &self.way {
            Backend::Postgres(database) => {
                database.query_one("select 1", &[], within).await?;
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
