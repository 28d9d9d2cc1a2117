//! How the pool opens and checks connections.
//!
//! Each connect makes the driver's manager again, so that it finds the server and resolves names again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool::managed::Manager as _;
use deadpool_redis::Manager;
use deadpool_redis::redis::aio::SendError;
use deadpool_redis::redis::{AsyncConnectionConfig, PushInfo, PushKind, pipe};

use super::connect_error::connect_error;
use super::connection::{RedisConnection, Transport};
use super::server::Server;
use crate::kernel::pool::{Connect, ConnectError, ConnectErrorKind};

/// Resident bytes of one connection: the client structure of a private server, and this process's
/// buffers.
const BYTES_PER_CONNECTION: u64 = 64 * 1024;

/// Opens connections to a [`Server`].
pub struct Connector {
    pub(super) server: Server,
}

impl Connector {
    /// A connector to `server`.
    pub fn new(server: Server) -> Self {
        Self { server }
    }
}

impl Connect for Connector {
    type Connection = RedisConnection;

    async fn connect(&self) -> Result<RedisConnection, ConnectError> {
        if let Some(client) = self.server.cluster_client().await? {
            let connection = client.get_async_connection().await;
            let connection =
                connection.map_err(|error| connect_error(&error).at(&self.server.description()))?;
            let transport = Transport::Cluster(connection);
            return Ok(RedisConnection::new(transport, Arc::default()));
        }
        let info = self.server.connection_info(0).await?;
        let address = info.addr().to_string();
        let dead = Arc::new(AtomicBool::new(false));
        let is_dead = Arc::clone(&dead);
        let on_push = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                is_dead.store(true, Ordering::Release);
            }
            Ok::<(), SendError>(())
        };
        // The pool bounds the connect, and each call has its own deadline.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(on_push);
        let failed = |error| connect_error(&error).at(&address);
        let manager = Manager::new_with_config(info, config).map_err(failed)?;
        let connection = manager.create().await.map_err(failed)?;
        Ok(RedisConnection::new(Transport::One(connection), dead))
    }

    async fn check(&self, connection: &RedisConnection) -> Result<(), ConnectError> {
        // If a `MULTI` is open, the answers differ, and the pool closes the connection.
        let mut ping = pipe();
        ping.cmd("UNWATCH").ignore().cmd("PING");
        let mut transport = connection.transport();
        let answer = ping.query_async::<(String,)>(&mut transport).await;
        let (answer,) = answer.map_err(|error| connect_error(&error))?;
        if answer == "PONG" {
            return Ok(());
        }
        let message = "redis sent an unexpected answer to PING";
        Err(ConnectError::new(ConnectErrorKind::Protocol, message))
    }

    async fn clean(&self, connection: &RedisConnection) -> Result<(), ConnectError> {
        self.check(connection).await
    }

    fn is_closed(&self, connection: &RedisConnection) -> bool {
        connection.is_dead()
    }

    fn bytes_per_connection(&self) -> u64 {
        BYTES_PER_CONNECTION
    }
}
