//! A connection for one caller alone: for `WATCH` and `MULTI`, and for commands that block.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use deadpool_redis::redis::{Cmd, FromRedisValue, Pipeline, ScriptInvocation};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout_at};

use super::client::{Asked, Redis, send};
use super::commands::check_leased;
use super::connection::{RedisConnection, Transport};
use super::error::Error;
use crate::kernel::deadline;
use crate::kernel::pool::{
    CheckoutError, ConnectError, ConnectErrorKind, Lease, Mode, TimeoutCause,
};

/// A connection that no other caller uses until this is dropped. What is left open then, a transaction or
/// watched keys, is ended.
///
/// If a command was not answered, because its deadline passed or its future was dropped, the lease takes
/// no more commands, and its connection is closed at its end: a command that blocks at the server then
/// ends there too. Let the server block for a shorter time than the deadline: what it gives to a caller
/// that has left is lost.
pub struct RedisLease {
    lease: Lease<RedisConnection>,
    /// Keeps the watchdog of the connection silent.
    _alone: OwnedMutexGuard<()>,
    /// Whether a command was sent and not answered.
    is_waiting: bool,
}

impl Redis {
    /// Takes a connection out of the pool and waits at most `within` for it. A cluster has none, since
    /// its keys are on several nodes.
    ///
    /// # Errors
    /// See [`Error`]. Nothing was sent.
    #[track_caller]
    pub fn lease(
        &self,
        within: Duration,
    ) -> impl Future<Output = Result<RedisLease, Error>> + Send + use<> {
        let (pool, holder) = (self.pool.clone(), Location::caller());
        async move {
            let deadline = deadline(within);
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let lease = pool.check_out(Mode::Exclusive, holder, left).await?;
                let Transport::One(watched) = lease.transport() else {
                    return Err(Error::Unsupported {
                        command: "a lease",
                        instead: "a cluster has several connections; use an atomic pipeline",
                    });
                };
                let alone = timeout_at(deadline, watched.liveness().alone()).await;
                let alone = alone.map_err(|_| is_being_checked())?;
                // A check of the connection may just have ended with its death.
                if !lease.is_dead() {
                    lease.mark_dirty();
                    return Ok(RedisLease {
                        lease,
                        _alone: alone,
                        is_waiting: false,
                    });
                }
            }
        }
    }
}

/// The error of a caller that would not wait for the end of a check of the connection.
fn is_being_checked() -> CheckoutError {
    let kind = ConnectErrorKind::TimedOut;
    let error = ConnectError::new(kind, "redis has not answered the check of a connection yet");
    CheckoutError::TimedOut {
        cause: TimeoutCause::Unreachable(error),
    }
}

impl RedisLease {
    /// As [`Redis::command`], also for commands that block, `WATCH`, `MULTI`, `EXEC` and `DISCARD`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn command<T: FromRedisValue>(
        &mut self,
        command: &Cmd,
        within: Duration,
    ) -> Result<T, Error> {
        self.run(Asked::Command(command), within).await
    }

    /// As [`Redis::pipeline`]. An atomic one after a `WATCH` gives nil and does nothing if a watched key has
    /// changed. Ask for an `Option`: `None` says so, and `()` hides it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn pipeline<T: FromRedisValue>(
        &mut self,
        pipeline: &Pipeline,
        within: Duration,
    ) -> Result<T, Error> {
        self.run(Asked::Pipeline(pipeline), within).await
    }

    /// As [`Redis::script`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn script<T: FromRedisValue>(
        &mut self,
        script: &ScriptInvocation<'_>,
        within: Duration,
    ) -> Result<T, Error> {
        self.run(Asked::Script(script), within).await
    }

    async fn run<T: FromRedisValue>(
        &mut self,
        asked: Asked<'_>,
        within: Duration,
    ) -> Result<T, Error> {
        asked.check(check_leased)?;
        if self.is_waiting {
            return Err(Error::Unsent(
                "an earlier command of the lease has no answer",
            ));
        }
        self.is_waiting = true;
        let answer = send(&self.lease, asked, deadline(within)).await;
        self.is_waiting = matches!(answer, Err(Error::Deadline | Error::Lost));
        answer
    }
}

impl fmt::Debug for RedisLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("RedisLease");
        text.field("is_waiting", &self.is_waiting)
            .finish_non_exhaustive()
    }
}

impl Drop for RedisLease {
    fn drop(&mut self) {
        if self.is_waiting {
            self.lease.mark_broken();
        }
    }
}
