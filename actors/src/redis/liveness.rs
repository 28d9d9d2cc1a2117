//! Whether a connection still carries answers.
//!
//! A server can be gone without having closed its connections, and the kernel notices that only after
//! many minutes. A caller that gives up says little: its command may be slow, or its time shorter than
//! the round trip. So whenever an answer stays out, a task of the connection sends `PING` on it. Only when
//! nothing comes back, neither this answer nor another one, the connection counts as dead.
//!
//! What this task sends must not get between the commands of a lease, and must not wait behind one that
//! blocks. So a lease and a question of this task exclude each other ([`Liveness::alone`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use deadpool_redis::redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value, cmd};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// The longest wait for an answer to `PING`, or for any other answer meanwhile. A server that is busy for
/// longer keeps its connection for the requests in flight; new ones get another connection.
const PING_WITHIN: Duration = Duration::from_secs(1);

/// How long commands may be in flight without any answer before a `PING` is sent.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// The pause between two checks.
const PAUSE: Duration = Duration::from_millis(250);

/// What is known of a connection. All its users share it.
#[derive(Default)]
pub(super) struct Liveness {
    dead: AtomicBool,
    /// Cancelled when the connection is dead.
    death: CancellationToken,
    /// Held by the lease that uses the connection alone, or by a question of the watchdog.
    alone: Arc<Mutex<()>>,
    in_flight: AtomicU32,
    /// The number of answers so far. An error of the server is an answer.
    answers: AtomicU64,
    /// Called at each answer, also to a question of the watchdog.
    on_answer: Option<Box<dyn Fn() + Send + Sync>>,
    /// Notified when a caller has given up and no answer has come since it asked.
    doubt: Notify,
}

impl Liveness {
    /// Calls `on_answer` at each answer.
    pub(super) fn with_on_answer(on_answer: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            on_answer: Some(Box::new(on_answer)),
            ..Self::default()
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// The connection is lost. It never lives again.
    pub(super) fn die(&self) {
        self.dead.store(true, Ordering::Release);
        self.death.cancel();
    }

    /// Waits until the connection is dead.
    pub(super) async fn death(&self) {
        self.death.cancelled().await;
    }

    /// While the guard lives, the watchdog asks nothing: the commands of a lease may be a transaction, and
    /// may block for as long as they like. Waits for the end of a question that has begun, which ends
    /// within [`PING_WITHIN`]. The connection may be dead then.
    pub(super) async fn alone(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.alone).lock_owned().await
    }

    #[cfg(test)]
    pub(super) fn is_taken(&self) -> bool {
        self.alone.try_lock().is_err()
    }

    fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    fn tell_answer(&self) {
        if let Some(on_answer) = &self.on_answer {
            on_answer();
        }
    }

    fn is_waiting(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }
}

/// A request without an answer yet. Its caller may leave at any time.
struct Pending<'a> {
    liveness: &'a Liveness,
    /// The number of answers when the request was sent.
    before: u64,
}

impl<'a> Pending<'a> {
    fn begin(liveness: &'a Liveness) -> Self {
        liveness.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            liveness,
            before: liveness.answers(),
        }
    }

    fn end<T>(self, answer: &RedisResult<T>) {
        let is_answer = match answer {
            Ok(_) => true,
            Err(error) => error.clone().into_server_errors().is_some(),
        };
        if is_answer {
            self.liveness.answers.fetch_add(1, Ordering::Relaxed);
            self.liveness.tell_answer();
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.liveness.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.liveness.answers() == self.before {
            self.liveness.doubt.notify_one();
        }
    }
}

/// What to do when the server of a connection turns out to be a replica.
pub(super) struct RoleWatch {
    /// How often to ask.
    pub(super) every: Duration,
    pub(super) on_replica: Box<dyn Fn() + Send + Sync>,
}

/// A connection to one server, with the task that watches it. Clones share the connection.
#[derive(Clone)]
pub(super) struct Watched {
    connection: MultiplexedConnection,
    liveness: Arc<Liveness>,
    _watchdog: Arc<AbortOnDrop>,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watched {
    /// Watches `connection` until the last clone is dropped or the connection is dead.
    pub(super) fn new(
        connection: MultiplexedConnection,
        liveness: Arc<Liveness>,
        role: Option<RoleWatch>,
    ) -> Self {
        Self::with_ping(connection, liveness, PING_WITHIN, role)
    }

    /// Waits for the answer to a `PING` for `ping_within`.
    pub(super) fn with_ping(
        connection: MultiplexedConnection,
        liveness: Arc<Liveness>,
        ping_within: Duration,
        role: Option<RoleWatch>,
    ) -> Self {
        let watchdog = Watchdog {
            connection: connection.clone(),
            liveness: Arc::clone(&liveness),
            ping_within,
            role,
        };
        let task = tokio::spawn(watchdog.run());
        Self {
            connection,
            liveness,
            _watchdog: Arc::new(AbortOnDrop(task.abort_handle())),
        }
    }

    pub(super) fn liveness(&self) -> &Liveness {
        &self.liveness
    }
}

impl ConnectionLike for Watched {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let pending = Pending::begin(&self.liveness);
            let answer = self.connection.send_packed_command(cmd).await;
            pending.end(&answer);
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
            let pending = Pending::begin(&self.liveness);
            let sent = self
                .connection
                .send_packed_commands(pipeline, offset, count);
            let answers = sent.await;
            pending.end(&answers);
            let answers = answers?;
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
        self.connection.get_db()
    }
}

/// The task that watches one connection.
struct Watchdog {
    connection: MultiplexedConnection,
    liveness: Arc<Liveness>,
    ping_within: Duration,
    role: Option<RoleWatch>,
}

impl Watchdog {
    async fn run(mut self) {
        let mut asks_role_at = self.next_role();
        while !self.liveness.is_dead() {
            let answers = self.liveness.answers();
            tokio::select! {
                () = self.liveness.doubt.notified() => {}
                () = sleep(SILENCE_MAX) => {
                    if !self.liveness.is_waiting() || self.liveness.answers() != answers {
                        continue;
                    }
                }
                () = until(asks_role_at) => {
                    self.ask_role().await;
                    asks_role_at = self.next_role();
                    continue;
                }
            }
            self.ping().await;
            sleep(PAUSE).await;
        }
    }

    async fn ping(&mut self) {
        let Ok(_alone) = self.liveness.alone.try_lock() else {
            return;
        };
        let before = self.liveness.answers();
        let ping = cmd("PING");
        let sent = self.connection.send_packed_command(&ping);
        let is_silent = match timeout(self.ping_within, sent).await {
            Ok(Ok(_)) => false,
            Ok(Err(error)) => error.is_io_error(),
            Err(_) => true,
        };
        let is_heard = self.liveness.answers() != before;
        if !is_silent {
            self.liveness.tell_answer();
        } else if !is_heard {
            self.liveness.die();
        }
    }

    fn next_role(&self) -> Option<Instant> {
        let every = self.role.as_ref()?.every;
        Some(Instant::now() + every)
    }

    /// A demoted server goes on answering reads. Without a write, nothing else would show that.
    async fn ask_role(&mut self) {
        let Some(role) = &self.role else {
            return;
        };
        let Ok(_alone) = self.liveness.alone.try_lock() else {
            return;
        };
        let ask = cmd("ROLE");
        let answer = timeout(PING_WITHIN, self.connection.send_packed_command(&ask)).await;
        let Ok(Ok(Value::Array(answer))) = answer else {
            return;
        };
        if matches!(answer.first(), Some(Value::BulkString(role)) if role == b"slave") {
            (role.on_replica)();
        }
    }
}

/// Waits until the time, or for ever if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
