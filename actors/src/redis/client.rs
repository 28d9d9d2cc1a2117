//! What callers hold: commands with deadlines over shared connections. Fails closed.

use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use deadpool_redis::redis::{Cmd, FromRedisValue, Pipeline, RedisResult, ScriptInvocation, Value};
use tokio::time::{Instant, timeout_at};

use super::connector::Connector;
use super::error::Error;
use super::link::Link;
use crate::kernel::pool::{Checkout, CheckoutError, Lease, Mode, Pool, PoolStatus, Status};
use crate::kernel::{AskError, Handle};

/// A way to Redis. Clones are cheap and equal.
#[derive(Debug, Clone)]
pub struct Redis {
    pool: Handle<Pool<Connector>>,
}

impl Redis {
    /// Commands over the connections of `pool`.
    pub fn new(pool: Handle<Pool<Connector>>) -> Self {
        Self { pool }
    }

    /// Sends `command` and waits at most `within` for the answer. Not for commands that block or
    /// change the connection.
    ///
    /// # Errors
    /// See [`Error`]: each says whether the command can have been carried out.
    #[track_caller]
    pub fn command<T: FromRedisValue + Send>(
        &self,
        command: &Cmd,
        within: Duration,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        let (redis, holder) = (self.clone(), Location::caller());
        async move {
            let (lease, deadline) = redis.lease(holder, within).await?;
            let mut wire = lease.wire();
            judge(
                &lease,
                timeout_at(deadline, command.query_async(&mut wire)).await,
            )
        }
    }

    /// Sends all commands of `pipeline` at once and waits at most `within` for all answers. An
    /// atomic one is carried out as a whole or not at all.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn pipeline<T: FromRedisValue + Send>(
        &self,
        pipeline: &Pipeline,
        within: Duration,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        let (redis, holder) = (self.clone(), Location::caller());
        async move {
            let (lease, deadline) = redis.lease(holder, within).await?;
            let mut wire = lease.wire();
            judge(
                &lease,
                timeout_at(deadline, pipeline.query_async(&mut wire)).await,
            )
        }
    }

    /// Calls a script by its hash, and sends its text first if the server does not know it.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn script<T: FromRedisValue + Send>(
        &self,
        script: &ScriptInvocation<'_>,
        within: Duration,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        let (redis, holder) = (self.clone(), Location::caller());
        async move {
            let (lease, deadline) = redis.lease(holder, within).await?;
            let mut wire = lease.wire();
            judge(
                &lease,
                timeout_at(deadline, script.invoke_async(&mut wire)).await,
            )
        }
    }

    /// How the pool does.
    ///
    /// # Errors
    /// When its owner does not answer.
    pub async fn status(&self, within: Duration) -> Result<PoolStatus, AskError> {
        self.pool.ask(Status, within).await
    }

    async fn lease(
        &self,
        holder: &'static Location<'static>,
        within: Duration,
    ) -> Result<(Lease<Link>, Instant), CheckoutError> {
        let deadline = Instant::now() + within;
        let checkout = Checkout::by(Mode::Shared, holder);
        let lease = self.pool.ask(checkout, within).await??;
        Ok((lease, deadline))
    }
}

/// What an answer, or none, says of the connection and to the caller. An answer of another type than
/// the caller expects says nothing of the connection.
fn judge<T: FromRedisValue>(
    link: &Link,
    answer: Result<RedisResult<Value>, tokio::time::error::Elapsed>,
) -> Result<T, Error> {
    match answer {
        Ok(Ok(value)) => {
            link.answered();
            T::from_redis_value(value).map_err(|_| Error::Type)
        }
        Ok(Err(error)) => {
            link.answered();
            link.failed(&error);
            Err(Error::of(&error))
        }
        Err(_) => {
            link.missed();
            Err(Error::Deadline)
        }
    }
}
