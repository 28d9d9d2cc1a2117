//! A transaction on a connection of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout_at};

use super::call::{Params, QueryOutput};
use super::config::ResetAfter;
use super::connection::{Connection, Limit};
use super::error::Error;
use super::first_word::{asks_to_commit, may_change_session};
use super::repeat::{Decision, Step, decide};
use super::session::{Running, keep_if_prepared};
use super::statements::Begin;
use super::transaction_options::TransactionOptions;
use super::wire::{TransactionEnd, TransactionState};
use crate::kernel::pool::Lease;

/// A connection over which the server has sent nothing for this long may be lost. Its loss is found out
/// before anything is sent over it that cannot be repeated.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// An open transaction. If it is dropped, the server's work for it is cancelled and it is rolled back
/// before the connection gets another user. Its end, however it comes, also resets the session:
/// settings, temporary tables, advisory locks and `LISTEN`. [`ResetAfter`] makes exceptions. If it has sent a
/// `PREPARE`, the connection is closed instead.
#[must_use = "a dropped transaction is rolled back"]
pub struct Transaction {
    pub(super) lease: Lease<Connection>,
    pub(super) deadline: Instant,
    options: TransactionOptions,
    /// Its end resets the session.
    resets: AtomicBool,
    /// The begin was sent.
    is_sent: AtomicBool,
    /// The begin was answered.
    is_begun: AtomicBool,
    /// Held by the call that sends the begin, until it is answered.
    beginning: Mutex<()>,
    /// How many statements and batches have begun.
    calls: AtomicUsize,
    /// The deadline has passed, or the connection is of no more use: nothing can be committed.
    is_over: AtomicBool,
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
    /// Begins a transaction.
    pub(super) async fn begin(
        lease: Lease<Connection>,
        options: TransactionOptions,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let transaction = Self::unbegun(lease, options, deadline);
        transaction.run(async { Ok(()) }).await?;
        Ok(transaction)
    }

    /// Begins a transaction, and leaves it to the first statement to send the begin, which then needs no
    /// round trip of its own. Not where the connection may be found to be lost: a begin alone can be
    /// repeated.
    pub(super) async fn begin_lazily(
        lease: Lease<Connection>,
        options: TransactionOptions,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let is_alive = !lease.is_closed() && lease.wire.silent_for() < SILENT_MAX;
        if is_alive && !lease.is_for_replicas() && Instant::now() < deadline {
            Ok(Self::unbegun(lease, options, deadline))
        } else {
            Self::begin(lease, options, deadline).await
        }
    }

    fn unbegun(lease: Lease<Connection>, options: TransactionOptions, deadline: Instant) -> Self {
        lease.wire.forget_end();
        Self {
            resets: AtomicBool::new(lease.reset_after == ResetAfter::EveryTransaction),
            lease,
            deadline,
            options,
            is_sent: AtomicBool::new(false),
            is_begun: AtomicBool::new(false),
            beginning: Mutex::new(()),
            calls: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            unsettled: AtomicBool::new(false),
            retryable: AtomicBool::new(false),
            savepoints: AtomicUsize::new(0),
            is_taken_up: AtomicBool::new(false),
            is_cut_off: AtomicBool::new(false),
        }
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// See [`Error`]. After an error of the server, the transaction can only be rolled back, to a savepoint
    /// or whole. [`Error::Invalid`] also when an earlier statement ended the transaction, and
    /// [`Error::Aborted`] for a `commit` after an error: neither is sent.
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<QueryOutput, Error> {
        let is_first = self.count_call(sql)?;
        let work = async {
            let beginning = self.unless_begun().await;
            let begin = match &beginning {
                Some(_) => Some(self.beginning()),
                None => {
                    self.check(sql).await?;
                    None
                }
            };
            let done = self.statement(sql, params, is_first, begin.as_ref()).await;
            if begin.is_some() {
                self.record_begin(&done);
            }
            done
        };
        let output = self.wait(work).await?;
        self.lease.statements.session_ran(sql, params);
        Ok(output)
    }

    /// Runs statements without parameters and without output, separated by semicolons.
    ///
    /// # Errors
    /// As [`Transaction::query`].
    pub async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.count_call(sql)?;
        let work = async {
            let Some(_beginning) = self.unless_begun().await else {
                self.check(sql).await?;
                return self.lease.batch(sql).await;
            };
            // If the server refuses the begin, it runs nothing behind it.
            let begin = self.beginning();
            let begin_first = format!("{}; {sql}", begin.text());
            let done = self.lease.begin(&begin, &begin_first).await;
            self.record_begin(&done);
            done
        };
        self.wait(work).await?;
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
        if self.is_over.load(Ordering::Acquire) || self.lease.is_abandoned() {
            // The pool rolls back before the next user.
            return Err(Error::Aborted);
        }
        if !self.is_sent.load(Ordering::Acquire) {
            return Ok(());
        }
        let settled = self.wait(self.settle()).await;
        settled.map_err(Error::without_effect)?;
        let resets = self.resets.load(Ordering::Acquire);
        let mut reset = resets.then(|| self.lease.session_reset());
        let ended = if self.has_ended() {
            Ok(())
        } else {
            self.wait(self.lease.commit(reset.as_mut())).await
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
        match &ended {
            Ok(()) if reset.is_none() => self.lease.mark_clean(),
            Ok(()) | Err(Error::Server(_) | Error::Aborted) => {
                let connection = Arc::clone(&self.lease);
                let reset = reset.unwrap_or_else(|| connection.session_reset());
                connection.spawn(reset.end(self.lease));
            }
            Err(_) => {}
        }
        ended
    }

    /// Rolls the transaction back.
    ///
    /// # Errors
    /// See [`Error`]. Even then, it is rolled back before the connection gets another user.
    pub async fn rollback(self) -> Result<(), Error> {
        // The pool cancels a statement that did not end, and rolls back before the next user.
        if !self.is_sent.load(Ordering::Acquire) || self.lease.is_abandoned() {
            return Ok(());
        }
        let resets = self.resets.load(Ordering::Acquire);
        self.wait(self.lease.rollback(resets)).await?;
        self.lease.mark_clean();
        Ok(())
    }

    /// Whether a repeat of the failed transaction can succeed.
    pub(super) fn is_retryable(&self) -> bool {
        self.retryable.load(Ordering::Acquire)
    }

    /// Whether a statement has ended it, unless by a rollback.
    pub(super) fn may_be_committed(&self) -> bool {
        let is_begun = self.is_begun.load(Ordering::Acquire);
        is_begun
            && self.has_ended()
            && self.lease.wire.transaction_end() != TransactionEnd::RolledBack
    }

    /// Whether a statement has ended it.
    pub(super) fn has_ended(&self) -> bool {
        self.lease.wire.transaction() == TransactionState::None
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
        self.check_open().await?;
        // The server would answer with a rollback and without an error.
        let is_failed = self.lease.wire.transaction() == TransactionState::Failed;
        if is_failed && asks_to_commit(sql) {
            return Err(Error::Aborted);
        }
        Ok(())
    }

    async fn check_open(&self) -> Result<(), Error> {
        self.settle().await?;
        if self.has_ended() {
            let reason = "an earlier statement ended the transaction".to_owned();
            return Err(Error::Invalid(reason));
        }
        Ok(())
    }

    /// Waits for the call that sends the begin. `Some` if this call has to send it.
    async fn unless_begun(&self) -> Option<MutexGuard<'_, ()>> {
        if self.is_begun.load(Ordering::Acquire) {
            return None;
        }
        let beginning = self.beginning.lock().await;
        (!self.is_begun.load(Ordering::Acquire)).then_some(beginning)
    }

    /// What begins the transaction, with the time that is left for it. It is sent next.
    fn beginning(&self) -> Begin {
        self.lease.mark_dirty();
        self.is_sent.store(true, Ordering::Release);
        let within = self.deadline.saturating_duration_since(Instant::now());
        let mut begin = vec![self.options.begin()];
        let within = match self.lease.limit_of_transaction(within) {
            Limit::Statements(limits) => {
                begin.extend(limits);
                None
            }
            Limit::Session(within) => Some(within),
        };
        if let Some(set) = &self.options.search_path {
            // What is prepared next is prepared under this search path.
            self.lease.statements.session_begins_with(set);
            begin.push(set.to_string());
        }
        Begin {
            statements: begin,
            within,
        }
    }

    /// Records that the begin was answered, unless it was not sent with its statement, which has no form
    /// in the protocol.
    fn record_begin<T>(&self, done: &Result<T, Error>) {
        let may_be_unsent = matches!(done, Err(Error::Invalid(_)));
        if !may_be_unsent || !self.has_ended() {
            self.is_begun.store(true, Ordering::Release);
        }
    }

    /// Runs a statement. If it is the first one and its cached form is out of date, the transaction
    /// begins again: nothing was done in it.
    async fn statement(
        &self,
        sql: &str,
        params: Params<'_>,
        is_first: bool,
        begin: Option<&Begin>,
    ) -> Result<QueryOutput, Error> {
        let sent = AtomicBool::new(false);
        let done = self.lease.run_once(sql, params, &sent, None, begin).await;
        let error = match done {
            Ok(output) => return Ok(output),
            Err(error) => error,
        };
        let is_first = is_first && self.calls.load(Ordering::Acquire) == 1;
        if decide(Step::Work { is_first }, &error, false) == Decision::PrepareAgain {
            // By itself: a failed transaction takes no change of the session's timeout.
            self.lease.batch("ROLLBACK").await?;
            let begin = self.beginning();
            Box::pin(self.lease.begin(&begin, &begin.text())).await?;
            let again = self.lease.run_prepared_again(sql, params, &sent, None);
            return Box::pin(again).await;
        }
        if error.is_stale_statement() {
            // The repeat may get another connection.
            self.lease.statements.outdate_all();
        }
        Err(error)
    }

    /// Has the end of the transaction reset the session, if `sql` says that it changes it, or close the
    /// connection, if `sql` leaves what no reset removes.
    fn note_session(&self, sql: &str) {
        keep_if_prepared(&self.lease, sql);
        if !self.resets.load(Ordering::Acquire) && may_change_session(sql) {
            self.reset_at_end();
        }
    }

    /// Has the end of the transaction reset the session.
    pub(super) fn reset_at_end(&self) {
        self.resets.store(true, Ordering::Release);
    }

    /// Counts a call with `sql`, and notes what it may leave of the session. Returns whether it is the first.
    pub(super) fn count_call(&self, sql: &str) -> Result<bool, Error> {
        if self.is_taken_up.load(Ordering::Acquire) {
            return Err(Error::Invalid(
                "rows or a COPY of the transaction have not ended".to_owned(),
            ));
        }
        self.note_session(sql);
        Ok(self.calls.fetch_add(1, Ordering::AcqRel) == 0)
    }

    /// Waits for `work`, which the open transaction is begun for, until the deadline, and records its
    /// failure.
    pub(super) async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let begin = async {
            let Some(_beginning) = self.unless_begun().await else {
                return self.check_open().await;
            };
            let begin = self.beginning();
            let begun = self.lease.begin(&begin, &begin.text()).await;
            self.record_begin(&begun);
            begun
        };
        let begun = self.wait(begin).await;
        begun.map_err(Error::without_effect)?;
        self.wait(work).await
    }

    /// Waits for `work` until the deadline, and records its failure.
    async fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if self.is_cut_off.load(Ordering::Acquire) {
            return Err(Error::closed(false));
        }
        if self.deadline <= Instant::now() {
            self.is_over.store(true, Ordering::Release);
            return Err(Error::Deadline { sent: false });
        }
        let running = Running(&self.lease);
        let Ok(done) = timeout_at(self.deadline, work).await else {
            return Err(Error::Deadline { sent: true });
        };
        std::mem::forget(running);
        done.map_err(|error| self.lease.explain(error))
            .inspect_err(|error| self.record(error))
    }

    pub(super) fn record(&self, error: &Error) {
        self.unsettled.store(true, Ordering::Release);
        self.reset_at_end();
        let demoted = !self.options.read_only && self.lease.was_demoted(error);
        if decide(Step::Work { is_first: false }, error, demoted) == Decision::Repeat {
            self.retryable.store(true, Ordering::Release);
        }
        if error.ends_connection() || demoted {
            self.is_over.store(true, Ordering::Release);
            self.lease.mark_broken();
        }
    }
}
