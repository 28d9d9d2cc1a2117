//! The connection pools as the routes see them: one type for every kind of server.

use std::time::Duration;

use futures_util::future::try_join;
use headroom_actors::kernel::AskError;
use headroom_actors::kernel::pool::{CircuitState, PoolStatus, Status};
use headroom_actors::kernel::private_server::{PrivateServer, ServerState};
use headroom_actors::postgres::{Database, Retries};
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

/// Whether the callers of a pool need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it, they fail.
    Required,
    /// They do without it: a cache misses, and the primary serves the reads of replicas.
    Optional,
}

impl Need {
    /// The health of a pool that cannot be used.
    pub fn unusable(self) -> Health {
        match self {
            Self::Required => Health::Down,
            Self::Optional => Health::Degraded,
        }
    }
}

/// Whether the callers of a pool get what they need. The order is from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[schema(as = PoolHealth)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It has not been used yet.
    Cold,
    /// It can be used.
    Healthy,
    /// It can be used, but connects fail or connections leak. Or it cannot be used, and its callers do
    /// without it: they are those of a cache or of replicas.
    Degraded,
    /// Its callers fail. Those of a subscriber hear nothing.
    Down,
}

/// What a pool and its client say.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PoolReport {
    /// The owner of the connections.
    #[serde(flatten)]
    pub connections: PoolStatus,
    /// The subscriber, if the pool has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriber: Option<SubscriberStatus>,
    /// What was tried again, if the server is PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statements: Option<Retries>,
}

impl PoolReport {
    /// Whether its callers get what they need.
    pub fn health(&self, need: Need) -> Health {
        let PoolStatus {
            circuit,
            opened,
            failed,
            leaked,
            ..
        } = &self.connections;
        if self.is_unusable() {
            return need.unusable();
        }
        if *opened == 0 && *failed == 0 {
            return Health::Cold;
        }
        if circuit.failures > 0 || !leaked.is_empty() {
            return Health::Degraded;
        }
        Health::Healthy
    }

    /// Whether it cannot be used now, whether or not callers need it.
    pub fn is_unusable(&self) -> bool {
        let PoolStatus { circuit, size, .. } = &self.connections;
        let is_away = circuit.state == CircuitState::Open || (circuit.failures > 0 && *size == 0);
        is_away || self.is_deaf()
    }

    /// Whether there are subscriptions that hear nothing now.
    pub fn is_deaf(&self) -> bool {
        let subscriber = self.subscriber.as_ref();
        subscriber.is_some_and(|it| it.listeners > 0 && !it.connected)
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
    /// Whether its callers need it.
    pub need: Need,
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

    /// The pool's counters and the state of its subscriber, from the actors that own them, and what its
    /// client counts.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn report(&self, within: Duration) -> Result<PoolReport, AskError> {
        let (connections, subscriber) = match &self.client {
            Client::Postgres(database) => (database.pool().ask(Status, within).await?, None),
            Client::Redis(redis) => (redis.status(within).await?, None),
            Client::PubSub(pubsub) => {
                let (connections, subscriber) =
                    try_join(pubsub.redis().status(within), pubsub.status(within)).await?;
                (connections, Some(subscriber))
            }
        };
        let statements = match &self.client {
            Client::Postgres(database) => Some(database.retries()),
            Client::Redis(_) | Client::PubSub(_) => None,
        };
        Ok(PoolReport {
            connections,
            subscriber,
            statements,
        })
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

#[cfg(test)]
mod tests {
    use headroom_actors::kernel::pool::CircuitStatus;

    use super::*;

    /// A pool with one connection, and no trouble.
    fn well() -> PoolReport {
        let circuit = CircuitStatus {
            state: CircuitState::Closed,
            failures: 0,
            failing_for_seconds: None,
            next_try_seconds: None,
        };
        let connections = PoolStatus {
            name: "pool".to_owned(),
            size: 1,
            idle: 1,
            in_use: 0,
            shared: 0,
            shared_in_flight: 0,
            waiting: 0,
            opening: 0,
            retiring: 0,
            opened: 1,
            closed: Default::default(),
            checkouts: 1,
            reused: 0,
            reuse_rate: 0.0,
            wait: Default::default(),
            usage: Default::default(),
            connect: Default::default(),
            refused: 0,
            timed_out: 0,
            failed: 0,
            retries: 0,
            leaks: 0,
            leaked: Vec::new(),
            circuit,
            last_error: None,
        };
        PoolReport {
            connections,
            subscriber: None,
            statements: None,
        }
    }

    fn subscriber(connected: bool, listeners: usize) -> SubscriberStatus {
        SubscriberStatus {
            connected,
            topics: listeners,
            listeners,
            messages: 0,
            dropped: 0,
            refused: 0,
            connects: 1,
            failures: 0,
            last_error: None,
        }
    }

    #[test]
    fn what_callers_do_without_is_never_down() {
        let mut away = well();
        away.connections.circuit.state = CircuitState::Open;
        assert_eq!(away.health(Need::Required), Health::Down);
        assert_eq!(away.health(Need::Optional), Health::Degraded);
        let mut unreached = well();
        unreached.connections.circuit.failures = 1;
        assert_eq!(unreached.health(Need::Required), Health::Degraded);
        unreached.connections.size = 0;
        assert_eq!(unreached.health(Need::Required), Health::Down);
        assert_eq!(unreached.health(Need::Optional), Health::Degraded);
        let mut cold = well();
        (cold.connections.size, cold.connections.opened) = (0, 0);
        for need in [Need::Required, Need::Optional] {
            assert_eq!(well().health(need), Health::Healthy);
            assert_eq!(cold.health(need), Health::Cold);
        }
    }

    #[test]
    fn a_subscriber_without_a_connection_is_down_while_somebody_listens() {
        for (connected, listeners, health) in [
            (false, 0, Health::Healthy),
            (true, 1, Health::Healthy),
            (false, 1, Health::Down),
        ] {
            let mut report = well();
            report.subscriber = Some(subscriber(connected, listeners));
            let found = report.health(Need::Required);
            assert_eq!(found, health, "{connected} {listeners}");
        }
    }
}
