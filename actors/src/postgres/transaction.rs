//! A transaction on a connection of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;

use super::connection::{Answer, Connection, ROLLBACK};
use super::database::Params;
use super::error::Error;
use super::pipelined::{at_most_one, one};
use super::repeat::{Failed, may_repeat};
use crate::kernel::pool::Lease;

/// What transactions may see of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// The server's default.
    #[default]
    ReadCommitted,
    /// All statements see the same state.
    RepeatableRead,
    /// As if one ran after the other. Fails now and then: mark it retryable.
    Serializable,
}

/// How a transaction is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionOptions {
    /// What it may see of others.
    pub isolation: Isolation,
    /// Whether it only reads.
    pub read_only: bool,
    /// How often its work may run; 1 unless it is marked retryable.
    pub attempts: u32,
    /// How long all of it may take: getting the connection, every statement, every try.
    pub within: Duration,
}

impl Default for TransactionOptions {
    fn default() -> Self {
        Self {
            isolation: Isolation::default(),
            read_only: false,
            attempts: 1,
            within: Duration::from_secs(30),
        }
    }
}

impl TransactionOptions {
    /// A transaction that may take `within`.
    pub fn within(within: Duration) -> Self {
        Self {
            within,
            ..Self::default()
        }
    }

    /// What it may see of others.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// It only reads.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Its work has no effect outside of the database, so that it may run up to `attempts` times.
    #[must_use]
    pub fn retryable(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    fn begin(self) -> &'static str {
        match (self.isolation, self.read_only) {
            (Isolation::ReadCommitted, false) => "BEGIN",
            (Isolation::ReadCommitted, true) => "BEGIN READ ONLY",
            (Isolation::RepeatableRead, false) => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            (Isolation::RepeatableRead, true) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            (Isolation::Serializable, false) => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            (Isolation::Serializable, true) => "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
        }
    }
}

/// A transaction that was begun. Dropped unfinished, it is rolled back, and what the server still
/// does for it is cancelled, before anybody else has the connection. What it left in the session
/// (settings, temporary tables, advisory locks, channels listened to) is taken away with its end,
/// whichever that is.
#[must_use = "a dropped transaction is rolled back"]
pub struct Transaction {
    lease: Lease<Connection>,
    deadline: Instant,
    read_only: bool,
    /// A statement failed or was given up: there is nothing left to commit.
    failed: AtomicBool,
    /// The server undid it in a way that lets the same again succeed.
    retryable: AtomicBool,
}

impl Transaction {
    pub(super) async fn begin(
        lease: Lease<Connection>,
        options: TransactionOptions,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let transaction = Self {
            lease,
            deadline,
            read_only: options.read_only,
            failed: AtomicBool::new(false),
            retryable: AtomicBool::new(false),
        };
        transaction.lease.mark_dirty();
        let begun = transaction.batch(options.begin()).await;
        begun.map_err(|error| match error {
            // An empty transaction that is gone has done nothing.
            Error::Lost { reason, .. } => Error::Lost {
                sent: false,
                reason,
            },
            Error::Deadline { .. } => Error::Deadline { sent: false },
            other => other,
        })?;
        Ok(transaction)
    }

    /// The rows that `sql` returns.
    ///
    /// # Errors
    /// See [`Error`]. After any, the transaction can only be rolled back.
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Error> {
        Ok(self.statement(sql, params).await?.rows)
    }

    /// The one row that `sql` returns.
    ///
    /// # Errors
    /// [`Error::Rows`] when there is none or more than one; else as [`Transaction::query`].
    pub async fn query_one(&self, sql: &str, params: Params<'_>) -> Result<Row, Error> {
        one(self.statement(sql, params).await?.rows)
    }

    /// The row that `sql` returns, if there is one.
    ///
    /// # Errors
    /// [`Error::Rows`] when there is more than one; else as [`Transaction::query`].
    pub async fn query_opt(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, Error> {
        at_most_one(self.statement(sql, params).await?.rows)
    }

    /// Runs `sql` and says how many rows it changed.
    ///
    /// # Errors
    /// As [`Transaction::query`].
    pub async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64, Error> {
        Ok(self.statement(sql, params).await?.affected)
    }

    /// Runs statements without parameters, separated by semicolons.
    ///
    /// # Errors
    /// As [`Transaction::query`].
    pub async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.watch(self.lease.connection().batch(sql)).await
    }

    /// Makes all of it last.
    ///
    /// # Errors
    /// [`Error::Aborted`] when a statement had failed or was given up. [`Error::Lost`] and
    /// [`Error::Deadline`] with `sent`: nobody can say whether it lasts. Else nothing of it does.
    pub async fn commit(self) -> Result<(), Error> {
        // The server answers a COMMIT after a failure with a rollback and no error.
        if self.failed.load(Ordering::Acquire) {
            self.rollback().await.ok();
            return Err(Error::Aborted);
        }
        if self.watch(self.lease.connection().commit()).await? {
            self.lease.mark_clean();
        } else {
            self.lease.mark_broken();
        }
        Ok(())
    }

    /// Undoes all of it.
    ///
    /// # Errors
    /// See [`Error`]. It is undone all the same, before the connection is used again.
    pub async fn rollback(self) -> Result<(), Error> {
        self.batch(ROLLBACK).await?;
        self.lease.mark_clean();
        Ok(())
    }

    /// Whether what went wrong lets the same again succeed.
    pub(super) fn is_retryable(&self) -> bool {
        self.retryable.load(Ordering::Acquire)
    }

    async fn statement(&self, sql: &str, params: Params<'_>) -> Result<Answer, Error> {
        let sent = AtomicBool::new(false);
        self.watch(self.lease.connection().run(sql, params, &sent))
            .await
    }

    /// Waits for `work` until the deadline, and keeps account of how it ends.
    async fn watch<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if self.deadline <= Instant::now() {
            self.failed.store(true, Ordering::Release);
            return Err(Error::Deadline { sent: false });
        }
        let running = Running::new(self);
        let Ok(done) = timeout_at(self.deadline, work).await else {
            return Err(Error::Deadline { sent: true });
        };
        running.ended();
        if let Err(error) = &done {
            self.note(error);
        }
        done
    }

    fn note(&self, error: &Error) {
        self.failed.store(true, Ordering::Release);
        let demoted = !self.read_only && self.lease.connection().was_demoted(error);
        if may_repeat(Failed::Work, error, demoted) {
            self.retryable.store(true, Ordering::Release);
        }
        if error.ends_connection() || demoted {
            self.lease.mark_broken();
        }
    }
}

/// A statement on its way. Dropped before its end, the transaction cannot be committed any more, and
/// the connection's clean-up has something to cancel.
struct Running<'a> {
    transaction: &'a Transaction,
    ended: bool,
}

impl<'a> Running<'a> {
    fn new(transaction: &'a Transaction) -> Self {
        Self {
            transaction,
            ended: false,
        }
    }

    fn ended(mut self) {
        self.ended = true;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.transaction.failed.store(true, Ordering::Release);
            self.transaction.lease.connection().abandon();
        }
    }
}
