//! Opens connections, and knows whether they are well.
//!
//! The driver's managers are made anew for each connect: the place of the server is asked for again,
//! and names are resolved again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool::managed::Manager as _;
use deadpool_redis::Manager;
use deadpool_redis::redis::aio::SendError;
use deadpool_redis::redis::{AsyncConnectionConfig, PushInfo, PushKind, pipe};
use futures_util::future::{BoxFuture, FutureExt};

use super::connection::{RedisConnection, Transport};
use super::refusal::explain;
use super::server::Server;
use crate::kernel::pool::{Connect, ConnectError, ConnectErrorKind};

/// What a connection costs: the server's client structure with its buffers, and ours.
const BYTES_PER_CONNECTION: u64 = 64 * 1024;

/// Opens connections to a [`Server`].
#[derive(Debug)]
pub struct Connector {
    server: Server,
}

impl Connector {
    /// A connector to `server`.
    pub fn new(server: Server) -> Self {
        Self { server }
    }
}

async fn open(server: &Server) -> Result<RedisConnection, ConnectError> {
    if let Some(client) = server.as_cluster().await? {
        let wire = client.get_async_connection().await;
        let wire = wire.map_err(|error| explain(&error).at(&server.name()))?;
        return Ok(RedisConnection::new(
            Transport::Cluster(wire),
            Arc::default(),
        ));
    }
    let info = server.find(0).await?;
    let place = info.addr().to_string();
    let dead = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&dead);
    let listen = move |push: PushInfo| {
        if push.kind == PushKind::Disconnection {
            told.store(true, Ordering::Release);
        }
        Ok::<(), SendError>(())
    };
    // Every call has a deadline of its own, and so has the connect.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_push_sender(listen);
    let why = |error| explain(&error).at(&place);
    let manager = Manager::new_with_config(info, config).map_err(why)?;
    let wire = manager.create().await.map_err(why)?;
    Ok(RedisConnection::new(Transport::One(wire), dead))
}

impl Connect for Connector {
    type Connection = RedisConnection;

    fn connect(&self) -> BoxFuture<'static, Result<RedisConnection, ConnectError>> {
        let server = self.server.clone();
        async move { open(&server).await }.boxed()
    }

    fn check(&self, link: Arc<RedisConnection>) -> BoxFuture<'static, Result<(), ConnectError>> {
        async move {
            // Behind an open `MULTI` the answer would be another, and the connection is closed.
            let mut ping = pipe();
            ping.cmd("UNWATCH").ignore().cmd("PING");
            let answer = ping.query_async::<(String,)>(&mut link.wire()).await;
            let (answer,) = answer.map_err(|error| explain(&error))?;
            if answer == "PONG" {
                return Ok(());
            }
            let words = "redis did not answer as it should";
            Err(ConnectError::new(ConnectErrorKind::Protocol, words))
        }
        .boxed()
    }

    fn is_closed(&self, link: &RedisConnection) -> bool {
        link.is_dead()
    }

    fn clean(&self, link: Arc<RedisConnection>) -> BoxFuture<'static, Result<(), ConnectError>> {
        self.check(link)
    }

    fn bytes_per_connection(&self) -> u64 {
        BYTES_PER_CONNECTION
    }
}
