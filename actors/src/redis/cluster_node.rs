//! A connection to one node of a cluster, as the driver's cluster client uses it.
//!
//! The driver is told to repeat nothing (see `cluster`). This module keeps apart what it would otherwise
//! mix up, so that a repeat is possible where nothing was done, and only there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use deadpool_redis::redis::cluster_async::Connect;
use deadpool_redis::redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, IntoConnectionInfo, Pipeline, RedisError, RedisFuture,
    RedisResult, ServerError, ServerErrorKind, Value, make_extension_error,
};

use super::commands::is_topology_query;
use super::connector::greet;
use super::liveness::{Liveness, Watched};

/// The name of the connections to the nodes. The driver opens them, and knows no pool.
const NAME: &str = "headroom:redis-cluster";

/// The longest wait for an answer to `PING`. The requests in flight end with the connection, so this is
/// longer than a node that runs a script keeps silent: after 5 seconds it answers that it is busy.
const PING_WITHIN: Duration = Duration::from_secs(6);

/// A connection to one node. Clones share it.
#[derive(Clone)]
pub(super) struct NodeConnection {
    watched: Watched,
    /// The node has redirected a command, and the driver has not seen that.
    redirected: Arc<AtomicBool>,
}

impl Connect for NodeConnection {
    fn connect_with_config<'a, T>(info: T, config: AsyncConnectionConfig) -> RedisFuture<'a, Self>
    where
        T: IntoConnectionInfo + Send + 'a,
    {
        Box::pin(async move {
            let connected = MultiplexedConnection::connect_with_config(info, config);
            let mut connection = connected.await?;
            // The driver must not take a refusal for one of a command in flight.
            greet(&mut connection, NAME).await.map_err(|_| lost())?;
            Ok(Self {
                watched: Watched::with_ping(
                    connection,
                    Arc::new(Liveness::default()),
                    PING_WITHIN,
                    None,
                ),
                redirected: Arc::default(),
            })
        })
    }
}

impl NodeConnection {
    /// Sends a command, and waits for the answer or the death of the connection. The driver has no
    /// deadlines: its own commands would wait for ever.
    async fn until_dead(&self, command: &Cmd) -> RedisResult<Value> {
        let mut watched = self.watched.clone();
        tokio::select! {
            answer = watched.req_packed_command(command) => answer,
            () = self.watched.liveness().death() => Err(lost()),
        }
    }

    /// Refuses to send over a connection that is lost, or that has learned that the slots have moved.
    /// The driver then connects again, or asks for the slots.
    fn admit(&self) -> RedisResult<()> {
        if self.watched.liveness().is_dead() {
            return Err(unsent());
        }
        if self.redirected.swap(false, Ordering::Relaxed) {
            let kind = ErrorKind::Server(ServerErrorKind::Moved);
            return Err(RedisError::from((kind, "a slot of this node has moved")));
        }
        Ok(())
    }

    fn record<T>(&self, answer: &RedisResult<T>) {
        if let Err(error) = answer
            && (error.is_connection_dropped() || error.is_unrecoverable_error())
        {
            self.watched.liveness().die();
        }
    }

    /// Tells the driver what the answers of a pipeline mean.
    fn judge(&self, pipeline: &Pipeline, mut answers: Vec<Value>) -> Vec<Value> {
        let is_refused = |answer: &Value| match answer {
            Value::ServerError(error) => is_about_the_node(error),
            _ => false,
        };
        if pipeline.is_transaction() || answers.iter().all(is_refused) {
            return answers;
        }
        // Some commands may have been run, in part if they failed. The driver would report the first
        // redirection as if it were the answer to all of them. Under another kind it keeps the answers as
        // they are.
        for answer in &mut answers {
            if let Value::ServerError(error) = answer
                && is_about_the_node(error)
            {
                self.redirected.store(true, Ordering::Relaxed);
                let plain = make_extension_error(error.code().to_owned(), None);
                if let Ok(plain) = ServerError::try_from(plain) {
                    *error = plain;
                }
            }
        }
        answers
    }
}

impl ConnectionLike for NodeConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            if is_topology_query(cmd) {
                let answer = self.until_dead(cmd).await;
                self.record(&answer);
                // If no node answers this, the driver reports the failure to the callers of all
                // commands in flight. Some of these have been sent.
                return answer.and_then(Value::extract_error).map_err(|_| lost());
            }
            self.admit()?;
            let answer = self.until_dead(cmd).await;
            self.record(&answer);
            answer
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            self.admit()?;
            let mut watched = self.watched.clone();
            let answers = tokio::select! {
                answers = watched.req_packed_commands(pipeline, offset, count) => answers,
                () = self.watched.liveness().death() => Err(lost()),
            };
            self.record(&answers);
            match answers {
                Ok(answers) => Ok(self.judge(pipeline, answers)),
                Err(error) => Err(cause_of_abort(error)),
            }
        })
    }

    fn get_db(&self) -> i64 {
        self.watched.get_db()
    }
}

/// Of a transaction that was not run since another node has its keys, or this node cannot run it now,
/// the error that says so. With it the driver asks for the slots. Other errors stay as they are.
fn cause_of_abort(error: RedisError) -> RedisError {
    if error.kind() != ErrorKind::Server(ServerErrorKind::ExecAbort) {
        return error;
    }
    let errors = error.clone().into_server_errors();
    let mut errors = errors.iter().flat_map(|errors| errors.iter());
    let cause = errors.find(|(_, error)| is_about_the_node(error));
    cause.map_or(error, |(_, cause)| cause.clone().into())
}

/// Whether the error is about the node and not about the command.
fn is_about_the_node(error: &ServerError) -> bool {
    error.kind().is_some_and(is_kind_about_the_node)
}

/// Whether an error of this kind says that the node has done nothing, and why another one, or the same
/// one later, may.
pub(super) fn is_kind_about_the_node(kind: ServerErrorKind) -> bool {
    use ServerErrorKind as Kind;
    matches!(
        kind,
        Kind::Moved
            | Kind::Ask
            | Kind::TryAgain
            | Kind::ClusterDown
            | Kind::MasterDown
            | Kind::BusyLoading
            | Kind::ReadOnly
    )
}

/// The error of a request that was not sent, since its connection was lost before.
fn unsent() -> RedisError {
    RedisError::from((ErrorKind::Io, "the connection to the node is lost"))
}

/// The error of a request that was sent over a connection that was lost before the answer.
fn lost() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()
}

/// Whether the request was certainly not sent. Failures of a sent one have a cause.
pub(super) fn is_unsent(error: &RedisError) -> bool {
    let is_without_cause = std::error::Error::source(error).is_none();
    match error.kind() {
        ErrorKind::Io => is_without_cause,
        ErrorKind::ClusterConnectionNotFound => true,
        _ => false,
    }
}
