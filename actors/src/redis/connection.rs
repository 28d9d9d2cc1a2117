//! One connection, and whether it is still usable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_redis::redis::aio::ConnectionLike;
use deadpool_redis::redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};

use super::cluster::Cluster;
use super::departures::{Departures, is_of_wrong_server};
use super::liveness::Watched;

/// A client of a cluster none of whose nodes has answered anything for so long, while calls failed, is
/// replaced: all of them may be gone. The driver replaces single nodes by itself.
const CLUSTER_SILENCE_MAX: Duration = Duration::from_secs(5);

/// The driver's connection to one server or to a cluster. Clones share the connection.
#[derive(Clone)]
pub(super) enum Transport {
    One(Watched),
    Cluster(Cluster),
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
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
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
    departures: Arc<Departures>,
    /// The number of departures when the connect began.
    seen: u64,
    /// Of a cluster: whether it is to be replaced.
    cluster_dead: AtomicBool,
}

impl RedisConnection {
    /// `seen` is the number of `departures` when the connect began.
    pub(super) fn new(transport: Transport, departures: Arc<Departures>, seen: u64) -> Self {
        Self {
            transport,
            departures,
            seen,
            cluster_dead: AtomicBool::new(false),
        }
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport.clone()
    }

    pub(super) fn is_dead(&self) -> bool {
        match &self.transport {
            Transport::One(watched) => {
                watched.liveness().is_dead() || self.departures.count() != self.seen
            }
            Transport::Cluster(_) => self.cluster_dead.load(Ordering::Acquire),
        }
    }

    /// A request that begins. Drop it if its caller leaves before the answer.
    pub(super) fn begin(&self) -> Waiting<'_> {
        Waiting {
            connection: self,
            is_answered: false,
        }
    }

    fn record_error(&self, error: &RedisError) {
        let Transport::One(watched) = &self.transport else {
            return;
        };
        if error.is_unrecoverable_error() || error.is_connection_dropped() {
            watched.liveness().die();
        } else if is_of_wrong_server(error) {
            self.departures.leave(self.seen);
        }
    }

    /// A request was not answered. A connection to one server is watched.
    fn record_silence(&self) {
        if let Transport::Cluster(cluster) = &self.transport
            && cluster.record().silence() >= CLUSTER_SILENCE_MAX
        {
            self.cluster_dead.store(true, Ordering::Release);
        }
    }
}

/// A request that waits for its answer.
pub(super) struct Waiting<'a> {
    connection: &'a RedisConnection,
    is_answered: bool,
}

impl Waiting<'_> {
    /// Records the answer or the failure.
    pub(super) fn end(mut self, answer: &RedisResult<Value>) {
        if let Err(error) = answer {
            self.connection.record_error(error);
        }
        self.is_answered = match answer {
            Ok(_) => true,
            Err(error) => error.code().is_some(),
        };
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.connection.record_silence();
        }
    }
}
