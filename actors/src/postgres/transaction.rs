//! A transaction on a connection of its own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::call::{Params, QueryOutput};
use super::connection::Connection;
use super::error::Error;
use super::first_word::asks_to_commit;
use super::repeat::{Decision, Step, decide};
use super::watch::{TransactionEnd, TransactionState};
use crate::kernel::pool::Lease;

/// What a transaction sees of concurrent ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// The server's default.
    #[default]
    ReadCommitted,
    /// All statements see the same state.
    RepeatableRead,
    /// As if the transactions ran one after the other. These can fail at any time: make them
    /// retryable.
    Serializable,
}

/// The options of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionOptions {
    /// What it sees of concurrent transactions.
    pub isolation: Isolation,
    /// Whether it only reads.
    pub read_only: bool,
    /// How often its work may run. 1: it is not retryable.
    pub attempts: u32,
    /// The longest time for all of it: the checkout, every statement, every try.
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

    /// Makes it a transaction that only reads.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Makes it retryable: its work may run up to `attempts` times, because it has no effect outside of
    /// the database.
    #[must_use]
    pub fn retryable(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    fn begin(self) -> String {
        let isolation = match self.isolation {
            Isolation::ReadCommitted => "",
            Isolation::RepeatableRead => " ISOLATION LEVEL REPEATABLE READ",
            Isolation::Serializable => " ISOLATION LEVEL SERIALIZABLE",
        };
        let access = if self.read_only { " READ ONLY" } else { "" };
        format!("BEGIN{isolation}{access}")
    }
}

/// An open transaction. If it is dropped, the server's work for it is cancelled and it is rolled back
/// before the connection gets another user. Its end, however it comes, also resets the session:
/// settings, temporary tables, advisory locks and `LISTEN`.
#[must_use = "a dropped transaction is rolled back"]
pub struct Transaction {
    pub(super) lease: Lease<Connection>,
    pub(super) deadline: Instant,
    options: TransactionOptions,
    /// How many statements and batches have begun.
    calls: AtomicUsize,
    /// A statement did not end, or its connection is of no more use: nothing can be committed.
    unfinished: AtomicBool,
    /// A statement failed, and the server has not yet said what that means for the transaction.
    pub(super) unsettled: AtomicBool,
    /// The failure was one after which a repeat can succeed.
    retryable: AtomicBool,
    /// How many savepoints were set.
    pub(super) savepoints: AtomicUsize,
    /// Rows or a `COPY` take up the connection.
    pub(super) is_taken_up: AtomicBool,
    /// Nothing can be sent any more.
    pub(super) is_cut_off: AtomicBool,
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
            options,
            calls: AtomicUsize::new(0),
            unfinished: AtomicBool::new(false),
            unsettled: AtomicBool::new(false),
            retryable: AtomicBool::new(false),
            savepoints: AtomicUsize::new(0),
            is_taken_up: AtomicBool::new(false),
            is_cut_off: AtomicBool::new(false),
        };
        transaction.lease.mark_dirty();
        let begin = transaction.beginning();
        let begun = transaction.run(transaction.lease.batch(&begin)).await;
        begun.map_err(Error::without_effect)?;
        Ok(transaction)
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// See [`Error`]. After an error of the server, the transaction can only be rolled back, to a savepoint
    /// or whole. [`Error::Invalid`] also when an earlier statement ended the transaction, and
    /// [`Error::Aborted`] for a `commit` after an error: neither is sent.
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<QueryOutput, Error> {
        let is_first = self.count_call()?;
        let work = async {
            self.check(sql).await?;
            self.statement(sql, params, is_first).await
        };
        let output = self.run(work).await?;
        self.lease.statements.session_ran(sql, params);
        Ok(output)
    }

    /// Runs statements without parameters and without output, separated by semicolons.
    ///
    /// # Errors
    /// As [`Transaction::query`].
    pub async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.count_call()?;
        let work = async {
            self.check(sql).await?;
            self.lease.batch(sql).await
        };
        self.run(work).await?;
        self.lease.statements.session_ran(sql, &[]);
        Ok(())
    }

    /// Commits the transaction. If a statement in it has committed it, there is nothing left to do.
    ///
    /// # Errors
    /// [`Error::Aborted`] when the server rolled it back, or when a statement did not end. After
    /// [`Error::Lost`] and [`Error::Deadline`] with `sent`, and after [`Error::Protocol`], the transaction
    /// may be committed or not. After any other error, it is rolled back.
    pub async fn commit(self) -> Result<(), Error> {
        if self.unfinished.load(Ordering::Acquire) {
            // The pool rolls back before the next user.
            return Err(Error::Aborted);
        }
        let settled = self.run(self.settle()).await;
        settled.map_err(Error::without_effect)?;
        let mut reset = self.lease.session_reset();
        let ended = if self.lease.wire.transaction() == TransactionState::None {
            Ok(())
        } else {
            self.run(self.lease.commit(&mut reset)).await
        };
        // The server answers a COMMIT after a failure with a rollback and without an error.
        let is_aborted = self.lease.wire.transaction_end() == TransactionEnd::RolledBack;
        let ended = ended.and_then(|()| {
            if is_aborted {
                Err(Error::Aborted)
            } else {
                Ok(())
            }
        });
        // Whatever the server answered, the transaction has ended.
        if matches!(ended, Ok(()) | Err(Error::Server(_) | Error::Aborted)) {
            tokio::spawn(reset.end(self.lease));
        }
        ended
    }

    /// Rolls the transaction back.
    ///
    /// # Errors
    /// See [`Error`]. Even then, it is rolled back before the connection gets another user.
    pub async fn rollback(self) -> Result<(), Error> {
        self.run(self.lease.rollback()).await?;
        self.lease.mark_clean();
        Ok(())
    }

    /// Whether a repeat of the failed transaction can succeed.
    pub(super) fn is_retryable(&self) -> bool {
        self.retryable.load(Ordering::Acquire)
    }

    /// Waits until the server has told the state of the transaction after a failure.
    async fn settle(&self) -> Result<(), Error> {
        if self.unsettled.swap(false, Ordering::AcqRel) {
            self.lease.ping().await?;
        }
        Ok(())
    }

    /// Checks that `sql` can run in the transaction.
    async fn check(&self, sql: &str) -> Result<(), Error> {
        self.settle().await?;
        match self.lease.wire.transaction() {
            TransactionState::None => {
                let reason = "an earlier statement ended the transaction".to_owned();
                Err(Error::Invalid(reason))
            }
            // The server would answer with a rollback and without an error.
            TransactionState::Failed if asks_to_commit(sql) => Err(Error::Aborted),
            TransactionState::Open | TransactionState::Failed => Ok(()),
        }
    }

    /// What begins the transaction, with the time that is left for it.
    fn beginning(&self) -> String {
        let within = self.deadline.saturating_duration_since(Instant::now());
        let timeout = self.lease.timeout.of_transaction(within);
        format!("{}; {timeout}", self.options.begin())
    }

    /// Runs a statement. If it is the first one and its cached form is out of date, the transaction
    /// begins again: nothing was done in it.
    async fn statement(
        &self,
        sql: &str,
        params: Params<'_>,
        is_first: bool,
    ) -> Result<QueryOutput, Error> {
        let sent = AtomicBool::new(false);
        let error = match self.lease.run_once(sql, params, &sent, None).await {
            Ok(output) => return Ok(output),
            Err(error) => error,
        };
        let is_first = is_first && self.calls.load(Ordering::Acquire) == 1;
        if decide(Step::Work { is_first }, &error, false) == Decision::PrepareAgain {
            let begin_again = format!("ROLLBACK; {}", self.beginning());
            self.lease.batch(&begin_again).await?;
            return self
                .lease
                .run_prepared_again(sql, params, &sent, None)
                .await;
        }
        if error.is_stale_statement() {
            // The repeat may get another connection.
            self.lease.statements.outdate_all();
        }
        Err(error)
    }

    /// Counts a call. Returns whether it is the first.
    pub(super) fn count_call(&self) -> Result<bool, Error> {
        if self.is_taken_up.load(Ordering::Acquire) {
            return Err(Error::Invalid(
                "rows or a COPY of the transaction have not ended".to_owned(),
            ));
        }
        Ok(self.calls.fetch_add(1, Ordering::AcqRel) == 0)
    }

    /// Waits for `work` until the deadline, and records its failure.
    pub(super) async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if self.is_cut_off.load(Ordering::Acquire) {
            return Err(Error::closed(false));
        }
        if self.deadline <= Instant::now() {
            self.unfinished.store(true, Ordering::Release);
            return Err(Error::Deadline { sent: false });
        }
        let running = RunningStatement(self);
        let Ok(done) = timeout_at(self.deadline, work).await else {
            return Err(Error::Deadline { sent: true });
        };
        std::mem::forget(running);
        done.inspect_err(|error| self.record(error))
    }

    pub(super) fn record(&self, error: &Error) {
        self.unsettled.store(true, Ordering::Release);
        let demoted = !self.options.read_only && self.lease.was_demoted(error);
        if decide(Step::Work { is_first: false }, error, demoted) == Decision::Repeat {
            self.retryable.store(true, Ordering::Release);
        }
        if error.ends_connection() || demoted {
            self.unfinished.store(true, Ordering::Release);
            self.lease.mark_broken();
        }
    }
}

/// A sent statement. If it is dropped before its end, the transaction cannot be committed, and the
/// reset of the connection cancels the statement.
pub(super) struct RunningStatement<'a>(pub(super) &'a Transaction);

impl Drop for RunningStatement<'_> {
    fn drop(&mut self) {
        self.0.unfinished.store(true, Ordering::Release);
        self.0.lease.abandon();
    }
}
