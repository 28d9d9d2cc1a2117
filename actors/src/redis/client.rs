//! Redis as callers use it: commands with deadlines over shared connections. A failure is an error.

use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use deadpool_redis::redis::{Cmd, FromRedisValue, Pipeline, RedisResult, ScriptInvocation, Value};
use tokio::time::{Instant, timeout_at};

use super::connection::{RedisConnection, Transport};
use super::connector::Connector;
use super::error::Error;
use crate::kernel::pool::{Mode, Pool, PoolStatus, Status, check_out};
use crate::kernel::{AskError, Handle};

/// A client of Redis. Clones are cheap and share the connections.
#[derive(Debug, Clone)]
pub struct Redis {
    pool: Handle<Pool<Connector>>,
}

impl Redis {
    /// A client over the connections of `pool`.
    pub fn new(pool: Handle<Pool<Connector>>) -> Self {
        Self { pool }
    }

    /// Sends `command` and waits at most `within` for the answer. It must neither block nor change the
    /// connection's state.
    ///
    /// # Errors
    /// See [`Error`]: each says whether Redis may have run the command.
    #[track_caller]
    pub fn command<T: FromRedisValue + Send>(
        &self,
        command: &Cmd,
        within: Duration,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        self.run(within, move |mut transport| async move {
            command.query_async(&mut transport).await
        })
    }

    /// Sends all commands of `pipeline` at once and waits at most `within` for all answers. Redis runs
    /// all commands of an atomic pipeline, or none.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn pipeline<T: FromRedisValue + Send>(
        &self,
        pipeline: &Pipeline,
        within: Duration,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        self.run(within, move |mut transport| async move {
            pipeline.query_async(&mut transport).await
        })
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
        self.run(within, move |mut transport| async move {
            script.invoke_async(&mut transport).await
        })
    }

    /// The state of the pool.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn status(&self, within: Duration) -> Result<PoolStatus, AskError> {
        self.pool.ask(Status, within).await
    }

    /// Runs `request` over a shared connection. `within` bounds the checkout and the answer together.
    #[track_caller]
    fn run<T, F>(
        &self,
        within: Duration,
        request: impl FnOnce(Transport) -> F + Send,
    ) -> impl Future<Output = Result<T, Error>> + Send
    where
        T: FromRedisValue + Send,
        F: Future<Output = RedisResult<Value>> + Send,
    {
        let (pool, holder) = (self.pool.clone(), Location::caller());
        async move {
            let deadline = Instant::now() + within;
            let lease = check_out(&pool, Mode::Shared, holder, within).await?;
            let answer = timeout_at(deadline, request(lease.transport())).await;
            record(&lease, answer)
        }
    }
}

/// Records an answer or a failure on its connection, and converts it for the caller. An answer of an
/// unexpected type does not count against the connection.
fn record<T: FromRedisValue>(
    connection: &RedisConnection,
    answer: Result<RedisResult<Value>, tokio::time::error::Elapsed>,
) -> Result<T, Error> {
    match answer {
        Ok(Ok(value)) => {
            connection.record_answer();
            T::from_redis_value(value).map_err(|_| Error::Type)
        }
        Ok(Err(error)) => {
            connection.record_error(&error);
            Err(Error::of(&error))
        }
        Err(_) => {
            connection.record_timeout();
            Err(Error::Deadline)
        }
    }
}
