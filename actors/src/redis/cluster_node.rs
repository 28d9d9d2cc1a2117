//! A connection to one node of a cluster, as the driver's cluster client uses it.
//!
//! The driver is told to repeat nothing (see `cluster`). This module keeps apart what it would otherwise
//! mix up, so that a repeat is possible where nothing was done, and only there. Above all: when the driver
//! cannot learn the slots, it tells the failure of its own connects and commands to the callers of all
//! commands in flight. So none of these failures may look like one of a command that was not sent.

use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use deadpool_redis::redis::cluster_async::Connect;
use deadpool_redis::redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    Pipeline, RedisError, RedisFuture, RedisResult, ServerError, ServerErrorKind, Value, cmd,
    make_extension_error,
};
use tokio::time::{sleep, timeout};

use super::client_record::ClientRecord;
use super::cluster_replies::{complete_redirection, completed, with_addresses};
use super::commands::{is_ping, is_topology_query};
use super::connect_error::{io_cause, is_denied};
use super::connector::greet;
use super::liveness::{Liveness, Watched};

/// The name of the connections to the nodes. The driver opens them, and knows no pool.
const NAME: &str = "headroom:redis-cluster";

/// The longest wait for an answer to `PING`. New requests are refused after that, so this is longer than a
/// node that runs a script keeps silent: after 5 seconds it answers that it is busy.
const PING_WITHIN: Duration = Duration::from_secs(6);

/// The longest connect. The driver asks no other node meanwhile.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How often the driver looks whether the caller of a request on a lost connection has left.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The driver is told only after this pause that it cannot learn the slots, since it tries again at once, for
/// ever. So it is told of a failed connect, unless it has learned the slots just now.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection to one node. Clones share it.
#[derive(Clone)]
pub(super) struct NodeConnection {
    watched: Watched,
    /// The node has redirected a command, and the driver has not seen that.
    redirected: Arc<AtomicBool>,
    /// The host at which the node was reached.
    host: Arc<str>,
    record: ClientRecord,
}

impl Connect for NodeConnection {
    fn connect_with_config<'a, T>(info: T, config: AsyncConnectionConfig) -> RedisFuture<'a, Self>
    where
        T: IntoConnectionInfo + Send + 'a,
    {
        Box::pin(async move {
            let info = info.into_connection_info()?;
            let host = match info.addr() {
                ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.as_str(),
                _ => "",
            };
            let host = Arc::from(host);
            let connected = timeout(CONNECT_WITHIN, async {
                let connected = MultiplexedConnection::connect_with_config(info, config);
                let mut connection = connected.await?;
                greet(&mut connection, NAME).await?;
                Ok(connection)
            });
            let (connected, record) = ClientRecord::of_connect(connected).await;
            let connected = connected.unwrap_or_else(|_| Err(lost()));
            let (connection, record) = match (connected, record) {
                (Ok(connection), Some(record)) => (connection, record),
                (connected, record) => {
                    if !record.is_some_and(|record| record.has_just_learned_slots()) {
                        sleep(PAUSE).await;
                    }
                    return Err(as_lost(connected.err().unwrap_or_else(unrecorded)));
                }
            };
            let answered = record.clone();
            let liveness = Liveness::with_on_answer(move || answered.set_answered());
            let liveness = Arc::new(liveness);
            Ok(Self {
                watched: Watched::with_ping(connection, liveness, PING_WITHIN, None),
                redirected: Arc::default(),
                host,
                record,
            })
        })
    }
}

impl NodeConnection {
    /// Connects outside of the driver.
    pub(super) async fn connect(info: ConnectionInfo, record: &ClientRecord) -> RedisResult<Self> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_dns_resolver(record.clone());
        Self::connect_with_config(info, config).await
    }

    pub(super) fn is_dead(&self) -> bool {
        self.watched.liveness().is_dead()
    }

    /// Sends commands for a slot that this node is getting, outside of the driver. Fails as the driver would if
    /// the node refuses all of them.
    pub(super) async fn ask_each(&self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut asking = Pipeline::with_capacity(2 * commands.len());
        for command in commands.cmd_iter() {
            // `ASKING` holds for the next command of the connection only.
            asking
                .add_command(cmd("ASKING"))
                .add_command(command.clone());
        }
        let answers = self.send(&asking, 0, asking.len()).await?;
        // Every other answer is that to `ASKING`.
        let mut answers: Vec<_> = answers.into_iter().skip(1).step_by(2).collect();
        if answers.iter().all(is_refusal)
            && let Some(Value::ServerError(first)) = answers.first()
        {
            return Err(first.clone().into());
        }
        make_refusals_plain(&mut answers);
        Ok(answers)
    }

    /// Sends one of the driver's own commands, and waits for the answer or the death of the connection. The
    /// driver has no deadlines: it would wait for ever.
    async fn ask(&self, command: &Cmd) -> RedisResult<Value> {
        let mut watched = self.watched.clone();
        let answer = tokio::select! {
            biased;
            () = self.watched.liveness().death() => Err(lost()),
            answer = watched.req_packed_command(command) => answer,
        };
        self.notice(&answer);
        answer.map_err(as_lost)
    }

    /// Asks which node has which slots, for the driver.
    async fn ask_for_slots(&self, command: &Cmd) -> RedisResult<Value> {
        let answer = self.ask(command).await.and_then(Value::extract_error);
        match answer {
            Ok(slots) => {
                self.record.set_slots_learned();
                Ok(with_addresses(slots))
            }
            Err(error) => {
                sleep(PAUSE).await;
                Err(as_lost(error))
            }
        }
    }

    /// Waits for the answer to a request. Also after the death of the connection: the node may be busy with
    /// this request. The driver finds out that a caller has left when a request makes progress, so each is
    /// woken now and then.
    async fn answer<T>(&self, answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        let mut answer = pin!(answer);
        tokio::select! {
            answer = &mut answer => return answer,
            () = self.watched.liveness().death() => {}
        }
        loop {
            if let Ok(answer) = timeout(LOOK_EVERY, &mut answer).await {
                return answer;
            }
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
        self.record.count_sent();
        Ok(())
    }

    /// Notices that the connection is lost.
    fn notice<T>(&self, answer: &RedisResult<T>) {
        if let Err(error) = answer
            && (error.is_connection_dropped() || error.is_unrecoverable_error())
        {
            self.watched.liveness().die();
        }
    }

    /// Tells the driver what the answers of a pipeline mean.
    fn judge(&self, pipeline: &Pipeline, mut answers: Vec<Value>) -> Vec<Value> {
        let is_refused = answers.iter().all(is_refusal);
        if !pipeline.is_transaction() && !is_refused && make_refusals_plain(&mut answers) {
            self.redirected.store(true, Ordering::Relaxed);
        }
        answers
    }

    /// Sends a pipeline. Returns the answers as the node gave them.
    async fn send(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        self.admit()?;
        let mut watched = self.watched.clone();
        let answers = watched.req_packed_commands(pipeline, offset, count);
        let answers = self.answer(answers).await;
        self.notice(&answers);
        let mut answers = answers.map_err(|error| self.cause_of_abort(error))?;
        for answer in &mut answers {
            complete_redirection(answer, &self.host);
        }
        Ok(answers)
    }

    /// Of a transaction that was not run since another node has its keys, or this node cannot run it now,
    /// the error that says so. With it the driver asks for the slots. Other errors stay as they are.
    fn cause_of_abort(&self, error: RedisError) -> RedisError {
        if error.kind() != ErrorKind::Server(ServerErrorKind::ExecAbort) {
            return error;
        }
        let errors = error.clone().into_server_errors();
        let mut errors = errors.iter().flat_map(|errors| errors.iter());
        let cause = errors.find(|(_, error)| is_about_the_node(error));
        cause.map_or(error, |(_, cause)| {
            completed(cause, &self.host)
                .unwrap_or_else(|| cause.clone())
                .into()
        })
    }
}

impl ConnectionLike for NodeConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            if is_topology_query(cmd) {
                return self.ask_for_slots(cmd).await;
            }
            if is_ping(cmd) {
                let answer = self.ask(cmd).await.and_then(Value::extract_error);
                return match answer {
                    // The user may not use `PING`. The node has answered.
                    Err(error) if is_denied(&error) => Ok(Value::Okay),
                    answer => answer.map_err(as_lost),
                };
            }
            self.admit()?;
            let mut watched = self.watched.clone();
            let answer = self.answer(watched.req_packed_command(cmd)).await;
            self.notice(&answer);
            answer.map(|mut answer| {
                complete_redirection(&mut answer, &self.host);
                answer
            })
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let answers = self.send(pipeline, offset, count).await?;
            Ok(self.judge(pipeline, answers))
        })
    }

    fn get_db(&self) -> i64 {
        self.watched.get_db()
    }
}

/// Whether the answer says that the node has not run the command, for a reason that is not the command.
fn is_refusal(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if is_about_the_node(error))
}

/// Of a pipeline that was run in part, makes the refusals errors of another kind. Returns whether there are
/// any. The first redirection would be reported as if it were the answer to all commands, also to those that
/// were run, in part if they failed.
fn make_refusals_plain(answers: &mut [Value]) -> bool {
    let mut has_any = false;
    for answer in answers {
        if let Value::ServerError(error) = answer
            && is_about_the_node(error)
        {
            has_any = true;
            let plain = make_extension_error(error.code().to_owned(), None);
            if let Ok(plain) = ServerError::try_from(plain) {
                *error = plain;
            }
        }
    }
    has_any
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

/// What an error of a request that was not sent holds.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the node is lost")]
struct Unsent;

/// The error of a request that was not sent, since its connection was lost before.
pub(super) fn unsent() -> RedisError {
    io::Error::new(io::ErrorKind::BrokenPipe, Unsent).into()
}

/// The error of a request that was sent over a connection that was lost before the answer.
pub(super) fn lost() -> RedisError {
    io::Error::from(io::ErrorKind::ConnectionAborted).into()
}

/// The error of a connect for an unknown client. Nobody would know what was sent over the connection, so a
/// command that was sent would be told as unsent, and repeated.
fn unrecorded() -> RedisError {
    let kind = ErrorKind::InvalidClientConfig;
    RedisError::from((kind, "the record of the client was not asked for the host"))
}

/// The error of a request on a connection that was lost, because of `error`.
fn as_lost(error: RedisError) -> RedisError {
    io::Error::new(io::ErrorKind::ConnectionAborted, error).into()
}

/// Whether the request was certainly not sent, if no other one was sent meanwhile.
pub(super) fn is_unsent(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io => {
            let cause = io_cause(error).and_then(io::Error::get_ref);
            cause.is_some_and(<dyn Error + Send + Sync>::is::<Unsent>)
        }
        ErrorKind::ClusterConnectionNotFound => true,
        _ => false,
    }
}
