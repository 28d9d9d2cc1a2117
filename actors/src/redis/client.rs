//! What callers hold: commands with deadlines over shared connections. Fails closed.

use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use deadpool_redis::redis::{Cmd, FromRedisValue, Pipeline, RedisResult, ScriptInvocation, Value};
use tokio::time::{Instant, timeout_at};

use super::connection::{RedisConnection, Transport};
use super::connector::Connector;
use super::error::Error;
use crate::kernel::pool::{Checkout, CheckoutError, Mode, Pool, PoolStatus, Status};
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
        self.over(Location::caller(), within, move |mut wire| async move {
            command.query_async(&mut wire).await
        })
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
        self.over(Location::caller(), within, move |mut wire| async move {
            pipeline.query_async(&mut wire).await
        })
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
        self.over(Location::caller(), within, move |mut wire| async move {
            script.invoke_async(&mut wire).await
        })
    }

    /// How the pool does.
    ///
    /// # Errors
    /// When its owner does not answer.
    pub async fn status(&self, within: Duration) -> Result<PoolStatus, AskError> {
        self.pool.ask(Status, within).await
    }

    /// Does `work` over a connection, which both have to be there and answer `within` the time.
    fn over<T, F>(
        &self,
        holder: &'static Location<'static>,
        within: Duration,
        work: impl FnOnce(Transport) -> F + Send,
    ) -> impl Future<Output = Result<T, Error>> + Send
    where
        T: FromRedisValue + Send,
        F: Future<Output = RedisResult<Value>> + Send,
    {
        let pool = self.pool.clone();
        async move {
            let deadline = Instant::now() + within;
            let checkout = Checkout::new(Mode::Shared, holder);
            let asked = pool.ask(checkout, within).await;
            let lease = asked.map_err(CheckoutError::from)??;
            let answer = timeout_at(deadline, work(lease.wire())).await;
            judge(&lease, answer)
        }
    }
}

/// What an answer, or none, says of the connection and to the caller. An answer of another type than
/// the caller expects says nothing of the connection.
fn judge<T: FromRedisValue>(
    link: &RedisConnection,
    answer: Result<RedisResult<Value>, tokio::time::error::Elapsed>,
) -> Result<T, Error> {
    match answer {
        Ok(Ok(value)) => {
            link.answered();
            T::from_redis_value(value).map_err(|_| Error::Type)
        }
        Ok(Err(error)) => {
            link.failed(&error);
            Err(Error::of(&error))
        }
        Err(_) => {
            link.missed();
            Err(Error::Deadline)
        }
    }
}
