//! One connection, and whether it is still usable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use deadpool_redis::redis::cluster_async::ClusterConnection;
use deadpool_redis::redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, ServerErrorKind, Value,
};

/// The number of calls in a row without an answer after which a connection counts as dead. The server
/// may be gone without having closed it.
const TIMEOUTS_MAX: u32 = 3;

/// The driver's connection to one server or to a cluster. Clones share the connection.
#[derive(Clone)]
pub(super) enum Transport {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Transport {
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

impl ConnectionLike for Transport {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let request = match self {
                Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
                Self::Cluster(connection) => {
                    connection.req_packed_commands(pipeline, offset, count)
                }
            };
            let answers = request.await?;
            match answers.last() {
                // Of a transaction, the driver keeps the answer of `EXEC` only, and reports its error
                // as an answer of an unexpected type.
                Some(Value::ServerError(error)) if pipeline.is_transaction() => {
                    Err(error.clone().into())
                }
                _ => Ok(answers),
            }
        })
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// A connection to Redis in a pool.
pub struct RedisConnection {
    transport: Transport,
    dead: Arc<AtomicBool>,
    timeouts: AtomicU32,
}

impl RedisConnection {
    /// `dead` becomes true when the driver sees the connection end.
    pub(super) fn new(transport: Transport, dead: Arc<AtomicBool>) -> Self {
        Self {
            transport,
            dead,
            timeouts: AtomicU32::new(0),
        }
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport.clone()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Records an answer.
    pub(super) fn record_answer(&self) {
        self.timeouts.store(0, Ordering::Relaxed);
    }

    /// Records a call whose deadline passed without an answer.
    pub(super) fn record_timeout(&self) {
        if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_MAX {
            self.dead.store(true, Ordering::Release);
        }
    }

    /// Records an error. Some errors make the connection unusable.
    pub(super) fn record_error(&self, error: &RedisError) {
        let demoted = matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
        );
        if !(error.is_unrecoverable_error() || error.is_connection_dropped() || demoted) {
            return self.record_answer();
        }
        match self.transport {
            Transport::One(_) => self.dead.store(true, Ordering::Release),
            // The driver reconnects to a single node by itself. All nodes may be gone, however.
            Transport::Cluster(_) => self.record_timeout(),
        }
    }
}
