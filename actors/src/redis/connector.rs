//! How the pool opens and checks connections.
//!
//! Each connect makes the driver's client again, so that it finds the server and resolves names again.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::aio::{ConnectionLike, SendError};
use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, PushInfo, PushKind, RedisError, RedisResult, Value, pipe,
};

use super::client_record::ClientRecord;
use super::cluster::Cluster;
use super::connect_error::{connect_error, is_denied};
use super::connection::{RedisConnection, Transport};
use super::departures::Departures;
use super::liveness::{Liveness, RoleWatch, Watched};
use super::server::{Server, Topology};
use crate::kernel::pool::{Connect, ConnectError, ConnectErrorKind};

/// Resident bytes of one connection: the client structure of a private server, and this process's
/// buffers.
const BYTES_PER_CONNECTION: u64 = 64 * 1024;

/// How often a connection asks whether its server is still the master that the sentinels named.
const ROLE_EVERY: Duration = Duration::from_secs(10);

/// Opens connections to a [`Server`].
pub struct Connector {
    pub(super) server: Server,
    /// The name of the connections, as `CLIENT LIST` shows it.
    name: String,
    departures: Arc<Departures>,
    pub(super) role_every: Duration,
}

impl Connector {
    /// A connector to `server`. Its connections get the name `headroom:` with `user`, which has no
    /// spaces. Those to the nodes of a cluster are called `headroom:redis-cluster`.
    pub fn new(server: Server, user: &str) -> Self {
        Self {
            server,
            name: format!("headroom:{user}"),
            departures: Arc::default(),
            role_every: ROLE_EVERY,
        }
    }

    async fn connect_to_one(&self, seen: u64) -> Result<Watched, ConnectError> {
        let info = self.server.connection_info(0).await?;
        let address = info.addr().to_string();
        let liveness = Arc::new(Liveness::default());
        let lost = Arc::clone(&liveness);
        let on_push = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                lost.die();
            }
            Ok::<(), SendError>(())
        };
        // The pool bounds the connect, and each call has its own deadline.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(on_push);
        let failed = |error| connect_error(&error).at(&address);
        let client = Client::open(info).map_err(failed)?;
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connection.await.map_err(failed)?;
        greet(&mut connection, &self.name).await.map_err(failed)?;
        let is_found_by_sentinels = matches!(self.server.topology, Topology::Sentinels { .. });
        let departures = Arc::clone(&self.departures);
        let role = is_found_by_sentinels.then(|| RoleWatch {
            every: self.role_every,
            on_replica: Box::new(move || departures.leave(seen)),
        });
        Ok(Watched::new(connection, liveness, role))
    }

    /// Why there is no connection to a cluster. The driver says only that it could not connect to any node,
    /// so the first one is asked.
    async fn why(&self, error: &RedisError) -> ConnectError {
        match self.connect_to_one(self.departures.count()).await {
            Ok(_) => connect_error(error).at(&self.server.description()),
            Err(error) => error,
        }
    }
}

impl Connect for Connector {
    type Connection = RedisConnection;

    async fn connect(&self) -> Result<RedisConnection, ConnectError> {
        let seen = self.departures.count();
        let record = ClientRecord::default();
        let transport = match self.server.cluster_client(&record).await? {
            Some(client) => match client.get_async_generic_connection().await {
                Ok(connection) => {
                    let server = self.server.clone();
                    Transport::Cluster(Cluster::new(connection, record, server))
                }
                Err(error) => return Err(self.why(&error).await),
            },
            None => Transport::One(self.connect_to_one(seen).await?),
        };
        Ok(RedisConnection::new(
            transport,
            Arc::clone(&self.departures),
            seen,
        ))
    }

    async fn check(&self, connection: &RedisConnection) -> Result<(), ConnectError> {
        let [_, ping] = ask(connection).await?;
        judge(ping)
    }

    async fn clean(&self, connection: &RedisConnection) -> Result<(), ConnectError> {
        let [unwatch, ping] = ask(connection).await?;
        judge(ping)?;
        // If a `MULTI` is open, the answer is that the command waits.
        match unwatch.map_err(|error| connect_error(&error))? {
            Value::Okay => Ok(()),
            _ => Err(unexpected("UNWATCH")),
        }
    }

    fn is_closed(&self, connection: &RedisConnection) -> bool {
        connection.is_dead()
    }

    fn bytes_per_connection(&self) -> u64 {
        BYTES_PER_CONNECTION
    }
}

/// Names a new connection, and checks that its server takes commands: one that still reads its data, or
/// a replica without a master, does not. A user that may do neither is no reason to refuse.
pub(super) async fn greet(
    connection: &mut (impl ConnectionLike + Send),
    name: &str,
) -> RedisResult<()> {
    let mut greeting = pipe();
    greeting.ignore_errors();
    greeting.cmd("CLIENT").arg("SETNAME").arg(name).ignore();
    greeting.cmd("PING");
    let answers: Vec<RedisResult<Value>> = greeting.query_async(connection).await?;
    match answers.into_iter().next() {
        Some(Err(error)) if !is_denied(&error) => Err(error),
        _ => Ok(()),
    }
}

/// The answers to `UNWATCH` and to `PING`.
async fn ask(connection: &RedisConnection) -> Result<[RedisResult<Value>; 2], ConnectError> {
    let mut both = pipe();
    both.ignore_errors().cmd("UNWATCH").cmd("PING");
    let mut transport = connection.transport();
    let answers = both.query_async(&mut transport).await;
    answers.map_err(|error| connect_error(&error))
}

/// Whether the answer to `PING` says that the server takes commands.
fn judge(ping: RedisResult<Value>) -> Result<(), ConnectError> {
    match ping {
        Ok(Value::SimpleString(pong)) if pong == "PONG" => Ok(()),
        Ok(_) => Err(unexpected("PING")),
        // The user may not use `PING`. The server has answered.
        Err(error) if is_denied(&error) => Ok(()),
        Err(error) => Err(connect_error(&error)),
    }
}

fn unexpected(command: &str) -> ConnectError {
    let message = format!("redis sent an unexpected answer to {command}");
    ConnectError::new(ConnectErrorKind::Protocol, message)
}
