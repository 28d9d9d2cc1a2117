//! One connection, with what is known of its health.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use deadpool_redis::redis::cluster_async::ClusterConnection;
use deadpool_redis::redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, ServerErrorKind, Value,
};

/// Deadlines missed in a row, with no answer in between, after which a connection counts as dead: the
/// other side may be gone without a word.
const MISSES_MAX: u32 = 3;

/// A way to one server or to a cluster. Clones are the same connection.
#[derive(Clone)]
pub(super) enum Transport {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Transport {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(wire) => wire.req_packed_command(cmd),
            Self::Cluster(wire) => wire.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(wire) => wire.req_packed_commands(pipeline, offset, count),
            Self::Cluster(wire) => wire.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(wire) => wire.get_db(),
            Self::Cluster(wire) => wire.get_db(),
        }
    }
}

/// A connection to Redis, as the pool keeps it.
pub struct RedisConnection {
    wire: Transport,
    dead: Arc<AtomicBool>,
    misses: AtomicU32,
}

impl RedisConnection {
    pub(super) fn new(wire: Transport, dead: Arc<AtomicBool>) -> Self {
        Self {
            wire,
            dead,
            misses: AtomicU32::new(0),
        }
    }

    pub(super) fn wire(&self) -> Transport {
        self.wire.clone()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// An answer came.
    pub(super) fn answered(&self) {
        self.misses.store(0, Ordering::Relaxed);
    }

    /// A deadline passed without an answer.
    pub(super) fn missed(&self) {
        if self.misses.fetch_add(1, Ordering::Relaxed) + 1 >= MISSES_MAX {
            self.dead.store(true, Ordering::Release);
        }
    }

    /// An error came: after some of them the connection is of no use.
    pub(super) fn failed(&self, error: &RedisError) {
        let replaced = matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
        );
        if !(error.is_unrecoverable_error() || error.is_connection_dropped() || replaced) {
            return self.answered();
        }
        match self.wire {
            Transport::One(_) => self.dead.store(true, Ordering::Release),
            // One node of many, to which the driver connects again by itself; or all of them.
            Transport::Cluster(_) => self.missed(),
        }
    }
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnection")
            .field("dead", &self.is_dead())
            .finish_non_exhaustive()
    }
}
