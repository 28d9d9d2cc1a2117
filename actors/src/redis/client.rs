//! Redis as callers use it: commands with deadlines over shared connections. A failure is an error.

use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use deadpool_redis::redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisResult, ScriptInvocation, Value,
};
use tokio::time::{Instant, timeout_at};

use super::commands::check_shared;
use super::connection::{RedisConnection, Transport};
use super::connector::Connector;
use super::error::Error;
use super::request::Request;
use crate::kernel::pool::{Mode, PoolHandle, PoolStatus, Status};
use crate::kernel::{AskError, deadline};

/// A client of Redis. Clones are cheap and share the connections.
#[derive(Debug, Clone)]
pub struct Redis {
    pub(super) pool: PoolHandle<Connector>,
}

impl Redis {
    /// A client over the connections of `pool`.
    pub fn new(pool: PoolHandle<Connector>) -> Self {
        Self { pool }
    }

    /// Sends `command` and waits at most `within` for the answer. Other callers use the connection at
    /// the same time, so a command that blocks or changes the connection is refused: see
    /// [`Redis::lease`].
    ///
    /// # Errors
    /// See [`Error`]: [`Error::done`] says what Redis has done.
    #[track_caller]
    pub fn command<T: FromRedisValue + Send>(
        &self,
        command: &Cmd,
        within: Duration,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        self.run(within, Asked::Command(command))
    }

    /// Sends all commands of `pipeline` at once and waits at most `within` for all answers.
    ///
    /// Redis runs the commands of an atomic pipeline one after the other, with no other client's
    /// command between them, or runs none of them if it refuses one beforehand. A command that fails
    /// while they run stops none of the others, and Redis undoes nothing.
    ///
    /// # Errors
    /// See [`Error`]: the first command that failed, and [`Error::done`].
    #[track_caller]
    pub fn pipeline<T: FromRedisValue + Send>(
        &self,
        pipeline: &Pipeline,
        within: Duration,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        self.run(within, Asked::Pipeline(pipeline))
    }

    /// Calls a script by its hash. Sends its text first if the server does not have it.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn script<T: FromRedisValue + Send>(
        &self,
        script: &ScriptInvocation<'_>,
        within: Duration,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        self.run(within, Asked::Script(script))
    }

    /// The state of the pool.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn status(&self, within: Duration) -> Result<PoolStatus, AskError> {
        self.pool.ask(Status, within).await
    }

    /// Sends `asked` over a shared connection. `within` bounds the checkout and the answer together.
    #[track_caller]
    fn run<T: FromRedisValue + Send>(
        &self,
        within: Duration,
        asked: Asked<'_>,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        let (pool, holder) = (self.pool.clone(), Location::caller());
        async move {
            asked.check(check_shared)?;
            let deadline = deadline(within);
            let lease = pool.check_out(Mode::Shared, holder, within).await?;
            send(&lease, asked, deadline).await
        }
    }
}

/// What a caller asks of Redis.
#[derive(Clone, Copy)]
pub(super) enum Asked<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
    Script(&'a ScriptInvocation<'a>),
}

impl<'a> Asked<'a> {
    async fn send(self, transport: &mut Transport) -> RedisResult<Value> {
        match self {
            Self::Command(command) => command.query_async(transport).await,
            Self::Pipeline(pipeline) => pipeline.query_async(transport).await,
            Self::Script(script) => match script.invoke_async(transport).await {
                // The text of a script goes to all nodes of a cluster. It has reached those that are there.
                Err(error) if error.kind() == ErrorKind::ClusterConnectionNotFound => {
                    script.invoke_async(transport).await
                }
                answer => answer,
            },
        }
    }

    /// Applies `check` to each command.
    pub(super) fn check(self, check: fn(&Cmd) -> Result<(), Error>) -> Result<(), Error> {
        match self {
            Self::Command(command) => check(command),
            Self::Pipeline(pipeline) => pipeline.cmd_iter().try_for_each(check),
            Self::Script(_) => Ok(()),
        }
    }

    fn request(self, in_cluster: bool) -> Request<'a> {
        match self {
            Self::Command(command) => Request::command(command, in_cluster),
            Self::Pipeline(pipeline) => Request::Pipeline(pipeline),
            Self::Script(_) => Request::Script,
        }
    }
}

/// Sends `asked` over `connection`, records the answer or the failure on it, and converts it for the
/// caller. An answer of an unexpected type does not count against the connection.
pub(super) async fn send<T: FromRedisValue>(
    connection: &RedisConnection,
    asked: Asked<'_>,
    deadline: Instant,
) -> Result<T, Error> {
    let mut transport = connection.transport();
    let waiting = connection.begin();
    let answer = timeout_at(deadline, asked.send(&mut transport)).await;
    let answer = answer.map_err(|_| Error::Deadline)?;
    waiting.end(&answer);
    match answer {
        Ok(value) => T::from_redis_value(value).map_err(|_| Error::Type),
        Err(error) => Err(Error::of(&error, asked.request(transport.is_cluster()))),
    }
}
