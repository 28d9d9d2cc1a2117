//! What callers hold.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::config::PostgresConfig;
use super::connection::{Answer, Connection};
use super::connector::Connector;
use super::error::Error;
use super::facts::{self, Facts};
use super::migrate::{self, Migration};
use super::transaction::{Transaction, TransactionOptions};
use crate::kernel::pool::{Checkout, CheckoutError, Lease, Mode, Pool, PoolConfig, Status};
use crate::kernel::pressure::PressureReader;
use crate::kernel::{AskError, ChildSpec, Handle};

/// The values of a statement's parameters, `$1` first.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Longer than anything waits; a deadline further away than this is none.
const FOR_EVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// How long a server may go on with what nobody waits for any more, before no new caller is put
/// behind it. A connection that leads nowhere is found in the same way.
const UNANSWERED_MAX: Duration = Duration::from_secs(2);

/// A database. Clones are cheap and equal. Works on any thread with a tokio runtime.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Handle<Pool<Connector>>,
    connector: Arc<Connector>,
    pool_config: PoolConfig,
    settings: PostgresConfig,
    migrations: &'static [Migration],
    /// Set once the schema is up to date.
    ready: OnceCell<()>,
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

    fn remaining(&self) -> Duration {
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
        async move { Ok(self.statement(sql, params, caller).await?.rows) }
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
        async move { one(self.statement(sql, params, caller).await?.rows) }
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
        async move { at_most_one(self.statement(sql, params, caller).await?.rows) }
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
        async move { Ok(self.statement(sql, params, caller).await?.affected) }
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
        self.transact(options, caller, work)
    }

    async fn transact<T, E, F>(
        &self,
        options: TransactionOptions,
        caller: Caller,
        mut work: F,
    ) -> Result<T, E>
    where
        F: AsyncFnMut(&Transaction) -> Result<T, E>,
        E: From<Error>,
    {
        let mut tries = 1;
        loop {
            let transaction = self.begin_by(options, caller).await?;
            let (error, again) = match work(&transaction).await {
                Ok(done) => match transaction.commit().await {
                    Ok(()) => return Ok(done),
                    Err(error) => {
                        let again = error.is_retryable();
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

    async fn begin_by(
        &self,
        options: TransactionOptions,
        caller: Caller,
    ) -> Result<Transaction, Error> {
        self.ready(caller).await?;
        let mut tries = 1;
        loop {
            let lease = self.check_out(Mode::Exclusive, caller).await?;
            match Transaction::begin(lease, options, caller.deadline).await {
                Err(error) if error.is_retryable() && self.may_retry(tries, caller).await => {
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
    ) -> impl Future<Output = Result<Option<Facts>, Error>> + Send + '_ {
        let caller = Caller::new(within);
        async move {
            let status = self.shared.pool.ask(Status, caller.remaining()).await;
            if status.map_err(CheckoutError::from)?.size == 0 {
                return Ok(None);
            }
            let lease = self.check_out(Mode::Shared, caller).await?;
            let read = timeout_at(caller.deadline, facts::read(lease.connection()));
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

    /// Waits until the schema is up to date. The work is done by a task of its own, once for all who
    /// wait: none of them ends it by going away.
    async fn ready(&self, caller: Caller) -> Result<(), Error> {
        let shared = &self.shared;
        if shared.ready.initialized() || shared.migrations.is_empty() {
            return Ok(());
        }
        let ready = shared.ready.get_or_try_init(|| async {
            let database = self.clone();
            let task = tokio::spawn(async move { database.bring_up_to_date(caller.holder).await });
            task.await.unwrap_or_else(|_| {
                Err(Error::Lost {
                    sent: true,
                    reason: "the task that changes the schema ended".to_owned(),
                })
            })
        });
        let waited = timeout_at(caller.deadline, ready).await;
        waited.unwrap_or(Err(Error::Deadline { sent: false }))?;
        Ok(())
    }

    async fn bring_up_to_date(&self, holder: &'static Location<'static>) -> Result<(), Error> {
        let shared = &self.shared;
        let caller = Caller {
            holder,
            deadline: Instant::now() + shared.settings.migrate_timeout.min(FOR_EVER),
        };
        let lease = self.check_out(Mode::Exclusive, caller).await?;
        let options = TransactionOptions::default();
        let transaction = Transaction::begin(lease, options, caller.deadline).await?;
        migrate::run(&transaction, shared.migrations).await?;
        transaction.commit().await
    }

    /// One statement over a shared connection, tried again where that is safe.
    async fn statement(
        &self,
        sql: &str,
        params: Params<'_>,
        caller: Caller,
    ) -> Result<Answer, Error> {
        self.ready(caller).await?;
        let mut tries = 1;
        loop {
            let lease = self.check_out(Mode::Shared, caller).await?;
            let connection = Arc::clone(lease.connection());
            let error = match attempt(lease, sql, params, caller.deadline).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // A statement by itself that the server refused for one of these reasons did nothing. A
            // server that was demoted was left by closing the connection.
            let again = error.is_retryable()
                || error.is_stale_statement()
                || connection.was_demoted(&error);
            drop(connection);
            if !again || !self.may_retry(tries, caller).await {
                return Err(error);
            }
            tries += 1;
        }
    }

    async fn may_retry(&self, tries: u32, caller: Caller) -> bool {
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

    async fn check_out(&self, mode: Mode, caller: Caller) -> Result<Lease<Connection>, Error> {
        let checkout = Checkout::by(mode, caller.holder);
        let asked = self.shared.pool.ask(checkout, caller.remaining()).await;
        Ok(asked.map_err(|error: AskError| CheckoutError::from(error))??)
    }
}

/// Runs a statement over a shared connection. If the caller goes away or its deadline passes while the
/// server works on it, the lease is kept until the server is done, so that the connection does not pass
/// for an idle one; and if that takes long, nobody new gets the connection.
async fn attempt(
    lease: Lease<Connection>,
    sql: &str,
    params: Params<'_>,
    deadline: Instant,
) -> Result<Answer, Error> {
    let mut using = Using { lease: Some(lease) };
    let Some(lease) = &using.lease else {
        return Err(Error::Deadline { sent: false });
    };
    let sent = AtomicBool::new(false);
    let answer = timeout_at(deadline, lease.connection().run(sql, params, &sent)).await;
    let Ok(answer) = answer else {
        let sent = sent.load(Ordering::Relaxed);
        return Err(Error::Deadline { sent });
    };
    if let Err(error) = &answer
        && (error.ends_connection() || lease.connection().was_demoted(error))
    {
        lease.broken();
    }
    using.lease = None;
    answer
}

struct Using {
    lease: Option<Lease<Connection>>,
}

impl Drop for Using {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // An end of the connection is an end of the wait too.
                let settled = lease.connection().settled();
                if tokio::time::timeout(UNANSWERED_MAX, settled).await.is_err() {
                    lease.broken();
                }
            });
        }
    }
}

/// The only row.
pub(super) fn one(rows: Vec<Row>) -> Result<Row, Error> {
    match <[Row; 1]>::try_from(rows) {
        Ok([row]) => Ok(row),
        Err(rows) => Err(Error::Rows {
            expected: "one",
            found: rows.len(),
        }),
    }
}

/// The only row, if there is one.
pub(super) fn at_most_one(mut rows: Vec<Row>) -> Result<Option<Row>, Error> {
    match rows.len() {
        0 | 1 => Ok(rows.pop()),
        found => Err(Error::Rows {
            expected: "at most one",
            found,
        }),
    }
}
