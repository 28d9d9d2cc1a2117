//! The database as callers use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::call::{Caller, Params, QueryOutput};
use super::config::PostgresConfig;
use super::connector::{Connector, check_out};
use super::error::Error;
use super::fallback::count_read;
use super::first_word::{check_shared, works_on_rows};
use super::freshness::FreshnessBound;
use super::metrics::RETRIES;
use super::migrate::MigrationSet;
use super::pipelined;
use super::repeat::{Decision, Step, decide};
use super::replicas::Replicas;
use super::retries::Retries;
use super::schema::Schema;
use super::server_info::{ServerInfo, server_info};
use super::statement_cache::SharedCaches;
use super::transaction::Transaction;
use super::transaction_options::TransactionOptions;
use crate::kernel::ChildSpec;
use crate::kernel::pool::{CheckoutError, Mode, PoolConfig, PoolHandle, Status};
use crate::kernel::pressure::PressureReader;

/// A database, or a view of it for calls that only read. Clones are cheap and refer to the same
/// database. It works on any thread with a tokio runtime.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
    /// What calls wait for, if the database has a schema.
    schema: Option<Arc<Schema>>,
    replicas: Option<Replicas>,
    /// How far replicas may be behind that serve calls of a view.
    lag_max: Duration,
    /// Whether this is a view for calls that only read.
    only_reads: bool,
    /// Whether this is a view for single statements that may run twice.
    repeatable: bool,
}

struct Shared {
    pool: PoolHandle<Connector>,
    settings: PostgresConfig,
    caches: Arc<SharedCaches>,
    /// How often something was tried again.
    repeated: AtomicU64,
}

impl Database {
    /// A database called `name`. This opens nothing. [`Database::child`] owns the connections.
    pub fn new(
        name: impl Into<String>,
        connector: Connector,
        settings: PostgresConfig,
        pool_config: PoolConfig,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                caches: Arc::clone(&connector.caches),
                repeated: AtomicU64::new(0),
                pool: PoolHandle::new(name, pool_config, connector),
                settings,
            }),
            schema: None,
            replicas: None,
            lag_max: Duration::ZERO,
            only_reads: false,
            repeatable: false,
        }
    }

    /// The owner of the connections, as a child of a supervisor.
    pub fn child(&self, pressure: Option<PressureReader>) -> ChildSpec {
        self.shared.pool.child(pressure)
    }

    /// A view of the same database, with the same connections, whose calls need the schema of `set`. The
    /// first of them brings it up to date. Make one view for each set, and clone it.
    #[must_use]
    pub fn with_migrations(&self, set: MigrationSet) -> Self {
        let within = self.shared.settings.migrate_timeout;
        Self {
            schema: Some(Schema::new(set, self.pool().clone(), within)),
            ..self.clone()
        }
    }

    /// Adds `replicas` for calls that only read, while they are at most `lag_max` behind. They are a
    /// database of their own: with [`Connector::replicas`], without migrations, and with an owner of
    /// their connections.
    #[must_use]
    pub fn with_replicas(mut self, replicas: &Database, lag_max: Duration) -> Self {
        let (pool, primary) = (replicas.pool().clone(), self.pool().clone());
        self.replicas = Some(Replicas::new(pool, primary));
        self.lag_max = lag_max;
        self
    }

    /// A view for calls that only read. A replica serves them if one is recent enough, otherwise the
    /// primary. Without replicas, it is the primary.
    ///
    /// Recent writes may be missing; [`Database::lag_max`] bounds for how long. Replicas refuse writes.
    /// The primary refuses them in transactions, and runs a single statement without a check.
    #[must_use]
    pub fn read_only(&self) -> Self {
        Self {
            only_reads: true,
            ..self.clone()
        }
    }

    /// A view for single statements that may run twice: one that begins as a query does, and whose answer
    /// was lost with the connection, is sent again, also to the primary. With that, the caller says that
    /// it only reads, and that functions which it calls do no harm when they run twice. Nothing else
    /// changes: other statements are not repeated, nor transactions for that reason.
    #[must_use]
    pub fn repeatable(&self) -> Self {
        Self {
            repeatable: true,
            ..self.clone()
        }
    }

    /// Bounds how far the data that a view shows may be behind, in place of the replicas' own bound.
    #[must_use]
    pub fn lag_max(self, lag_max: Duration) -> Self {
        Self { lag_max, ..self }
    }

    /// The pool of its connections.
    pub fn pool(&self) -> &PoolHandle<Connector> {
        &self.shared.pool
    }

    pub(super) fn settings(&self) -> &PostgresConfig {
        &self.shared.settings
    }

    /// Runs one statement over a shared connection.
    ///
    /// # Errors
    /// [`Error::NotShared`] for a statement that would begin something on the connection, or change its
    /// session. See [`Error`] for the others.
    #[track_caller]
    pub fn query<'a>(
        &'a self,
        sql: &'a str,
        params: Params<'a>,
        within: Duration,
    ) -> impl Future<Output = Result<QueryOutput, Error>> + Send + 'a {
        self.statement(sql, params, Caller::new(within))
    }

    /// Begins a transaction on a connection of its own. If it is dropped, it is rolled back. All of it
    /// runs on the same server, which usually learns of it with the first statement.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn begin(
        &self,
        options: TransactionOptions,
    ) -> impl Future<Output = Result<Transaction, Error>> + Send + '_ {
        let caller = Caller::new(options.within);
        self.begin_anywhere(self.restrict(options), caller)
    }

    /// Runs `work` in a transaction. Commits it when `work` returns `Ok`, otherwise rolls it back. With
    /// [`TransactionOptions::retryable`], `work` runs again if the server undid the transaction because
    /// of a concurrent one, or if the connection was lost before the commit. A repeat runs on the
    /// primary.
    ///
    /// `work` is a closure such as `async |transaction| …`. It may borrow what is around it, but not to change
    /// it, also in a task that is spawned. It is dropped when the time of the options is over, and the
    /// transaction is rolled back. It must not keep the transaction after its end: then it is rolled back,
    /// with [`Error::Invalid`].
    ///
    /// # Errors
    /// The error of `work`, or of the transaction.
    #[track_caller]
    pub fn transaction<T, E, F, W>(
        &self,
        options: TransactionOptions,
        work: F,
    ) -> impl Future<Output = Result<T, E>>
    where
        F: FnMut(Arc<Transaction>) -> W,
        W: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let caller = Caller::new(options.within);
        self.transact(self.restrict(options), caller, work)
    }

    async fn transact<T, E, F, W>(
        &self,
        options: TransactionOptions,
        caller: Caller,
        mut work: F,
    ) -> Result<T, E>
    where
        F: FnMut(Arc<Transaction>) -> W,
        W: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let mut tries = 1;
        let mut transaction = Arc::new(self.begin_anywhere(options.clone(), caller).await?);
        loop {
            let working = work(Arc::clone(&transaction));
            let Ok(done) = timeout_at(caller.deadline, working).await else {
                // The pool rolls back before the next user.
                let sent = transaction.may_be_committed();
                return Err(Error::Deadline { sent }.into());
            };
            let Some(open) = Arc::into_inner(transaction) else {
                let reason = "the work of a transaction kept it after its end".to_owned();
                return Err(Error::Invalid(reason).into());
            };
            let (error, may_repeat) = match done {
                Ok(value) => {
                    // A failure that the work did not pass on.
                    let has_failed = open.is_retryable();
                    match open.commit().await {
                        Ok(()) => return Ok(value),
                        Err(error @ Error::Aborted) => (error.into(), has_failed),
                        Err(error) => {
                            let decision = decide(Step::Commit, &error, false);
                            (error.into(), decision == Decision::Repeat)
                        }
                    }
                }
                Err(error) => {
                    let may_repeat = open.is_retryable();
                    // If this fails, the reset of the connection rolls back.
                    open.rollback().await.ok();
                    (error, may_repeat)
                }
            };
            if !may_repeat || tries >= options.attempts || !self.pause(tries, caller).await {
                return Err(error);
            }
            tries += 1;
            transaction = Arc::new(self.begin_on_primary(options.clone(), caller).await?);
        }
    }

    /// A transaction of a view only reads.
    fn restrict(&self, options: TransactionOptions) -> TransactionOptions {
        let read_only = options.read_only || self.only_reads;
        TransactionOptions {
            read_only,
            ..options
        }
    }

    /// The replicas that may serve a call, and how recent their data must be. It must include the schema
    /// that this process has seen.
    fn replicas(&self, migrated_at: Option<Instant>) -> Option<(&Replicas, FreshnessBound)> {
        let replicas = self.replicas.as_ref().filter(|_| self.only_reads)?;
        let bound = FreshnessBound {
            lag_max: self.lag_max,
            includes: migrated_at,
        };
        Some((replicas, bound))
    }

    async fn begin_anywhere(
        &self,
        options: TransactionOptions,
        caller: Caller,
    ) -> Result<Transaction, Error> {
        let migrated_at = self.ready(caller).await?;
        if let Some((replicas, bound)) = self.replicas(migrated_at) {
            let begun = replicas.begin(options.clone(), bound, caller).await;
            count_read(begun.as_ref().err().copied());
            if let Ok(transaction) = begun {
                return Ok(transaction);
            }
        }
        self.begin_on_primary(options, caller).await
    }

    async fn begin_on_primary(
        &self,
        options: TransactionOptions,
        caller: Caller,
    ) -> Result<Transaction, Error> {
        let mut tries = 1;
        loop {
            let lease = check_out(self.pool(), Mode::Exclusive, caller).await?;
            match Transaction::begin_lazily(lease, options.clone(), caller.deadline).await {
                Err(error)
                    if decide(Step::Begin, &error, false) == Decision::Repeat
                        && self.may_retry(tries, caller).await =>
                {
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    /// Runs one statement over a shared connection, and repeats it where [`decide`] says so.
    async fn statement(
        &self,
        sql: &str,
        params: Params<'_>,
        caller: Caller,
    ) -> Result<QueryOutput, Error> {
        check_shared(sql)?;
        // Nobody waits behind a statement that the server does not end soon after its caller's deadline.
        let has_no_limit = self.settings().is_pooled() && !works_on_rows(sql);
        let mode = if has_no_limit {
            Mode::Exclusive
        } else {
            Mode::Shared
        };
        let migrated_at = self.ready(caller).await?;
        if let Some((replicas, bound)) = self.replicas(migrated_at) {
            let served = Box::pin(replicas.statement(mode, sql, params, bound, caller)).await;
            count_read(served.as_ref().err().copied());
            if let Ok(output) = served {
                return output;
            }
        }
        let (repeatable, only_reads) = (self.repeatable, self.repeatable || self.only_reads);
        let mut tries = 1;
        loop {
            let lease = check_out(self.pool(), mode, caller).await?;
            let connection = Arc::clone(&lease);
            let error = match pipelined::run(lease, sql, params, caller.deadline).await {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            let step = Step::Statement {
                sql,
                only_reads,
                repeatable,
            };
            // The connection to a demoted server is closed by now: a repeat uses another server.
            let decision = decide(step, &error, connection.was_demoted(&error));
            drop(connection);
            if decision != Decision::Repeat || !self.may_retry(tries, caller).await {
                return Err(error);
            }
            tries += 1;
        }
    }

    /// Asks the server for its report. `None` while no connection is open; this opens none.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn server_info(
        &self,
        within: Duration,
    ) -> impl Future<Output = Result<Option<ServerInfo>, Error>> + Send + '_ {
        let caller = Caller::new(within);
        async move {
            let status = self.shared.pool.ask(Status, caller.remaining()).await;
            if status.map_err(CheckoutError::from)?.size == 0 {
                return Ok(None);
            }
            let lease = check_out(self.pool(), Mode::Shared, caller).await?;
            let connection = Arc::clone(&lease);
            let (sent, info) = (AtomicBool::new(true), server_info(&connection));
            let info = pipelined::with_lease(lease, caller.deadline, &sent, info).await?;
            Ok(Some(info))
        }
    }

    /// How often calls were tried again, of all views of the database.
    pub fn retries(&self) -> Retries {
        Retries {
            repeated: self.shared.repeated.load(Ordering::Relaxed),
            prepared_again: self.shared.caches.prepared_again(),
        }
    }

    /// Brings the schema up to date. Otherwise the first call does that. Does nothing without migrations.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn migrate(&self, within: Duration) -> impl Future<Output = Result<(), Error>> + Send + '_ {
        let caller = Caller::new(within);
        async move { self.ready(caller).await.map(drop) }
    }

    /// Waits until the schema is up to date. Returns since when it is; `None` without migrations.
    pub(super) async fn ready(&self, caller: Caller) -> Result<Option<Instant>, Error> {
        match &self.schema {
            Some(schema) => schema.ready(caller).await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) async fn may_retry(&self, tries: u32, caller: Caller) -> bool {
        tries < self.shared.settings.attempts_max && self.pause(tries, caller).await
    }

    /// Waits before the next try. Returns false if the deadline comes first.
    async fn pause(&self, tries: u32, caller: Caller) -> bool {
        let delay = self.shared.settings.retry_backoff.delay(tries);
        if delay >= caller.remaining() {
            return false;
        }
        tokio::time::sleep(delay).await;
        self.shared.repeated.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(
            RETRIES.name,
            "pool" => self.shared.pool.name().to_owned()
        )
        .increment(1);
        true
    }
}
