//! What callers hold.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::config::PostgresConfig;
use super::connection::Connection;
use super::connector::Connector;
use super::error::Error;
use super::migrate::Migration;
use super::pipelined::{at_most_one, one};
use super::repeat::{Failed, may_repeat};
use super::replicas::{ReadOnly, Replicas};
use super::server_info::{self, ServerInfo};
use super::transaction::{Transaction, TransactionOptions};
use crate::kernel::pool::{Checkout, CheckoutError, Lease, Mode, Pool, PoolConfig, Status};
use crate::kernel::pressure::PressureReader;
use crate::kernel::{AskError, ChildSpec, Handle};

/// The values of a statement's parameters, `$1` first.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Longer than anything waits; a deadline further away than this is none.
pub(super) const FOR_EVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// A database. Clones are cheap and equal. Works on any thread with a tokio runtime.
#[derive(Clone)]
pub struct Database {
    pub(super) shared: Arc<Shared>,
    pub(super) replicas: Option<Arc<Replicas>>,
}

pub(super) struct Shared {
    pool: Handle<Pool<Connector>>,
    connector: Arc<Connector>,
    pool_config: PoolConfig,
    pub(super) settings: PostgresConfig,
    pub(super) migrations: &'static [Migration],
    /// Set once the schema is up to date, to when it was.
    pub(super) ready: OnceCell<Instant>,
    retries: AtomicU64,
}

/// A call's place in the code and its time.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    pub(super) holder: &'static Location<'static>,
    pub(super) deadline: Instant,
}

impl Caller {
    #[track_caller]
    pub(super) fn new(within: Duration) -> Self {
        Self {
            holder: Location::caller(),
            deadline: Instant::now() + within.min(FOR_EVER),
        }
    }

    /// The same with `within` left at most.
    pub(super) fn at_most(self, within: Duration) -> Self {
        Self {
            deadline: self.deadline.min(Instant::now() + within),
            ..self
        }
    }

    pub(super) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl Database {
    /// A database called `name`, with the schema that `migrations` make. Nothing is opened yet; the
    /// owner of its connections is [`Database::child`].
    pub fn new(
        name: impl Into<String>,
        connector: Connector,
        settings: PostgresConfig,
        pool_config: PoolConfig,
        migrations: &'static [Migration],
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                pool: Pool::handle(name, &pool_config),
                connector: Arc::new(connector),
                pool_config,
                settings,
                migrations,
                ready: OnceCell::new(),
                retries: AtomicU64::new(0),
            }),
            replicas: None,
        }
    }

    /// The owner of the connections, as a child of a supervisor.
    pub fn child(&self, pressure: Option<PressureReader>) -> ChildSpec {
        Pool::child(
            &self.shared.pool,
            self.shared.pool_config.clone(),
            Arc::clone(&self.shared.connector),
            pressure,
        )
    }

    /// The same with `replicas` for what is marked as reading only, as long as they are no more than
    /// `lag_max` behind. They are a database of their own ([`Connector::replicas`], no migrations), with
    /// its own owner of connections.
    #[must_use]
    pub fn with_replicas(mut self, replicas: Database, lag_max: Duration) -> Self {
        self.replicas = Some(Arc::new(Replicas::new(replicas, lag_max)));
        self
    }

    /// The owner of the connections.
    pub fn pool(&self) -> &Handle<Pool<Connector>> {
        &self.shared.pool
    }

    /// Calls tried again so far.
    pub fn retries(&self) -> u64 {
        self.shared.retries.load(Ordering::Relaxed)
    }

    /// The rows that `sql` returns, over a connection shared with others.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn query<'a>(
        &'a self,
        sql: &'a str,
        params: Params<'a>,
        within: Duration,
    ) -> impl Future<Output = Result<Vec<Row>, Error>> + Send + 'a {
        let caller = Caller::new(within);
        async move { Ok(self.statement(sql, params, false, caller).await?.rows) }
    }

    /// The one row that `sql` returns.
    ///
    /// # Errors
    /// [`Error::Rows`] when there is none or more than one; else see [`Error`].
    #[track_caller]
    pub fn query_one<'a>(
        &'a self,
        sql: &'a str,
        params: Params<'a>,
        within: Duration,
    ) -> impl Future<Output = Result<Row, Error>> + Send + 'a {
        let caller = Caller::new(within);
        async move { one(self.statement(sql, params, false, caller).await?.rows) }
    }

    /// The row that `sql` returns, if there is one.
    ///
    /// # Errors
    /// [`Error::Rows`] when there is more than one; else see [`Error`].
    #[track_caller]
    pub fn query_opt<'a>(
        &'a self,
        sql: &'a str,
        params: Params<'a>,
        within: Duration,
    ) -> impl Future<Output = Result<Option<Row>, Error>> + Send + 'a {
        let caller = Caller::new(within);
        async move { at_most_one(self.statement(sql, params, false, caller).await?.rows) }
    }

    /// Runs `sql` and says how many rows it changed.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn execute<'a>(
        &'a self,
        sql: &'a str,
        params: Params<'a>,
        within: Duration,
    ) -> impl Future<Output = Result<u64, Error>> + Send + 'a {
        let caller = Caller::new(within);
        async move { Ok(self.statement(sql, params, false, caller).await?.affected) }
    }

    /// Begins a transaction on a connection of its own. Dropped unfinished, it is rolled back.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn begin(
        &self,
        options: TransactionOptions,
    ) -> impl Future<Output = Result<Transaction, Error>> + Send + '_ {
        let caller = Caller::new(options.within);
        async move { self.begin_by(options, caller).await }
    }

    /// Runs `work` in a transaction and commits it when `work` returns `Ok`, else rolls it back. With
    /// [`TransactionOptions::retryable`], `work` runs again when the server undid the transaction
    /// because of another, or its connection was lost before the commit.
    ///
    /// # Errors
    /// What `work` returns, or why there was no transaction or no commit.
    #[track_caller]
    pub fn transaction<T, E, F>(
        &self,
        options: TransactionOptions,
        work: F,
    ) -> impl Future<Output = Result<T, E>>
    where
        F: AsyncFnMut(&Transaction) -> Result<T, E>,
        E: From<Error>,
    {
        let caller = Caller::new(options.within);
        self.transact(options, caller, None, work)
    }

    /// With `first`, its first try may be on a replica.
    pub(super) async fn transact<T, E, F>(
        &self,
        options: TransactionOptions,
        caller: Caller,
        first: Option<ReadOnly<'_>>,
        mut work: F,
    ) -> Result<T, E>
    where
        F: AsyncFnMut(&Transaction) -> Result<T, E>,
        E: From<Error>,
    {
        let mut tries = 1;
        loop {
            let transaction = match first.filter(|_| tries == 1) {
                Some(first) => first.begin_by(options, caller).await?,
                None => self.begin_by(options, caller).await?,
            };
            let (error, again) = match work(&transaction).await {
                Ok(done) => match transaction.commit().await {
                    Ok(()) => return Ok(done),
                    Err(error) => {
                        let again = may_repeat(Failed::Commit, &error, false);
                        (error.into(), again)
                    }
                },
                Err(error) => {
                    let again = transaction.is_retryable();
                    // Its clean-up rolls back what this could not.
                    transaction.rollback().await.ok();
                    (error, again)
                }
            };
            if !again || tries >= options.attempts || !self.pause(tries, caller).await {
                return Err(error);
            }
            tries += 1;
        }
    }

    pub(super) async fn begin_by(
        &self,
        options: TransactionOptions,
        caller: Caller,
    ) -> Result<Transaction, Error> {
        self.ready(caller).await?;
        let mut tries = 1;
        loop {
            let lease = self.check_out(Mode::Exclusive, caller).await?;
            match Transaction::begin(lease, options, caller.deadline).await {
                Err(error)
                    if may_repeat(Failed::Begin, &error, false)
                        && self.may_retry(tries, caller).await =>
                {
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    /// What the server says of itself; `None` while no connection is open, which this does not change.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn facts(
        &self,
        within: Duration,
    ) -> impl Future<Output = Result<Option<ServerInfo>, Error>> + Send + '_ {
        let caller = Caller::new(within);
        async move {
            let status = self.shared.pool.ask(Status, caller.remaining()).await;
            if status.map_err(CheckoutError::from)?.size == 0 {
                return Ok(None);
            }
            let lease = self.check_out(Mode::Shared, caller).await?;
            let read = timeout_at(caller.deadline, server_info::read(lease.connection()));
            let facts = read.await.unwrap_or(Err(Error::Deadline { sent: true }))?;
            Ok(Some(facts))
        }
    }

    /// Brings the schema up to date, as the first use does otherwise.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn migrate(&self, within: Duration) -> impl Future<Output = Result<(), Error>> + Send + '_ {
        self.ready(Caller::new(within))
    }

    pub(super) async fn may_retry(&self, tries: u32, caller: Caller) -> bool {
        tries < self.shared.settings.attempts_max && self.pause(tries, caller).await
    }

    /// Waits before the next try. False when the deadline is before its end.
    async fn pause(&self, tries: u32, caller: Caller) -> bool {
        let delay = self.shared.settings.retry_backoff.delay(tries);
        if delay >= caller.remaining() {
            return false;
        }
        tokio::time::sleep(delay).await;
        self.shared.retries.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(
            "headroom_postgres_retries_total",
            "pool" => self.shared.pool.name().to_owned()
        )
        .increment(1);
        true
    }

    pub(super) async fn check_out(
        &self,
        mode: Mode,
        caller: Caller,
    ) -> Result<Lease<Connection>, Error> {
        let checkout = Checkout::new(mode, caller.holder);
        let asked = self.shared.pool.ask(checkout, caller.remaining()).await;
        Ok(asked.map_err(|error: AskError| CheckoutError::from(error))??)
    }
}
