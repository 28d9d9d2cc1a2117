//! What is sent over one connection: prepared statements, batches, and the end of a transaction.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{BoxFuture, MaybeDone, maybe_done};
use futures_util::{FutureExt, TryStreamExt, poll};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{RowStream, Statement};

use super::call::{Params, QueryOutput};
use super::connection::Connection;
use super::error::{Error, Progress};
use super::first_word::works_on_rows;
use super::pooler::{column_types, null_parameters};
use super::prefix::Prefix;
use super::repeat::{Decision, Step, decide};
use super::statement_cache::StatementSlot;
use super::wire::{TransactionEnd, TransactionState};
use crate::kernel::pool::Lease;

/// Resets the session as `DISCARD ALL` does, except for the prepared statements, which
/// [`StatementCache`](super::statement_cache::StatementCache) still holds. Sent together with the end of
/// a transaction, it needs no round trip of its own.
pub(super) const RESET_SESSION: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
    SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

/// The most parameters of a statement: the server counts them with 16 bits.
pub(super) const PARAMETERS_MAX: usize = u16::MAX as usize;

/// The longest time for the reset behind a commit. After that, another connection is opened instead.
const RESET_MAX: Duration = Duration::from_secs(1);

impl Connection {
    /// Runs one statement outside of a transaction. If it was cached and is out of date, it is prepared
    /// again, once. `sent` becomes true as soon as the server may have acted on it.
    pub(super) async fn run(
        self: &Arc<Self>,
        sql: &str,
        params: Params<'_>,
        sent: &AtomicBool,
    ) -> Result<QueryOutput, Error> {
        self.run_within(sql, params, sent, Duration::MAX).await
    }

    /// As [`Connection::run`], for a caller that waits for `within`: the server stops soon after.
    pub(super) async fn run_within(
        self: &Arc<Self>,
        sql: &str,
        params: Params<'_>,
        sent: &AtomicBool,
        within: Duration,
    ) -> Result<QueryOutput, Error> {
        let within = Some(within);
        let done = self.run_once(sql, params, sent, within, None).await;
        let Err(error) = &done else {
            return done;
        };
        // A session may have begun one, which the failure has ended.
        let in_transaction = self.wire.transaction() != TransactionState::None;
        let step = if in_transaction {
            Step::Work { is_first: false }
        } else {
            Step::Statement {
                sql,
                only_reads: false,
                repeatable: false,
            }
        };
        if decide(step, error, false) == Decision::PrepareAgain {
            sent.store(false, Ordering::Relaxed);
            return Box::pin(self.run_prepared_again(sql, params, sent, within)).await;
        }
        if error.is_stale_statement() {
            self.statements.outdate_all();
        }
        done
    }

    /// Runs a statement whose cached form the server refused.
    pub(super) async fn run_prepared_again(
        self: &Arc<Self>,
        sql: &str,
        params: Params<'_>,
        sent: &AtomicBool,
        within: Option<Duration>,
    ) -> Result<QueryOutput, Error> {
        self.statements.count_prepared_again();
        let done = self.run_once(sql, params, sent, within, None).await;
        // If the server refuses it again, it was not out of date.
        let was_stale = match &done {
            Ok(_) => true,
            Err(Error::Server(error)) => error.progress == Progress::Begun,
            Err(_) => false,
        };
        if was_stale {
            self.statements.outdate_all();
        }
        done
    }

    /// Runs one statement, with its cached form if there is one. The server may work on it for about
    /// `within`; `None` in a transaction, which has a limit of its own. `begin` begins the transaction
    /// before it: without a round trip of its own if the statement is cached.
    pub(super) async fn run_once(
        self: &Arc<Self>,
        sql: &str,
        params: Params<'_>,
        sent: &AtomicBool,
        within: Option<Duration>,
        mut begin: Option<&Begin>,
    ) -> Result<QueryOutput, Error> {
        check_most(params)?;
        if self.statements.forget_outdated() {
            self.forget_types();
        }
        let slot = self.statements.slot(sql);
        let was_cached = slot.initialized();
        if !was_cached && let Some(begin) = begin.take() {
            let begun = Box::pin(self.begin(begin, &begin.text())).await;
            begun.map_err(Error::without_effect)?;
        }
        let statement = match slot.get() {
            Some(cached) => cached.clone(),
            None => {
                // Others may wait for it too, and for longer.
                let longest = within.map(|_| Duration::MAX);
                Box::pin(self.prepare(sql, &slot, longest)).await?
            }
        };
        if self.is_closed() {
            return Err(Error::closed(false));
        }
        check_number(&statement, params)?;
        sent.store(true, Ordering::Relaxed);
        let answered = self.send(sql, &statement, params, within, begin).await;
        let error = match answered {
            Ok(rows) => {
                let rows = collect(rows).await;
                if self.wire.take_new_types() {
                    self.statements.outdate_all();
                }
                return rows.map_err(|error| Error::of(&error, true));
            }
            // The server runs nothing of a statement whose parameters it cannot bind.
            Err(error) => Error::before_it_ran(&error, was_cached),
        };
        if error.is_stale_statement() {
            self.statements.forget(sql, &slot);
            self.forget_types();
        }
        Err(error)
    }

    /// Has the driver ask about types again. Not through a pooler: there, it asks while the server answers a
    /// statement, which it cannot do if the answer is large.
    fn forget_types(&self) {
        if self.pooled.is_none() {
            self.client.clear_type_cache();
        }
    }

    /// Sends `sql`, which is `statement`, with as many parameters as it has. `within` and `begin` are as in
    /// [`Connection::run_once`].
    pub(super) async fn send(
        &self,
        sql: &str,
        statement: &Statement,
        params: Params<'_>,
        within: Option<Duration>,
        begin: Option<&Begin>,
    ) -> Result<RowStream, tokio_postgres::Error> {
        let params = params.iter().copied();
        if let Some(pooled) = &self.pooled {
            let mut prefix = match (begin, within) {
                (Some(begin), _) => begin.prefix(),
                (None, Some(within)) if works_on_rows(sql) => pooled.of_statement(within),
                (None, _) => Prefix::default(),
            };
            // With the types, the server reads the parameters as they were written, and what it describes
            // is the answer that follows.
            let types = column_types(statement);
            prefix.column_types = types.iter().map(Type::oid).collect();
            let typed = params.zip(statement.params().iter().cloned());
            let typed = typed.chain(null_parameters(statement, types));
            let query = Box::pin(self.client.query_typed_raw(sql, typed));
            return self.wire.send_behind(prefix, query).await;
        }
        // It is large, and moves several times before it is polled.
        let query = Box::pin(self.client.query_raw(statement, params));
        match begin {
            Some(begin) => {
                let query = Box::pin(self.wire.send_behind(begin.prefix(), query));
                self.send_within(begin.within, query).await
            }
            None => self.send_within(within, query).await,
        }
    }

    /// Runs statements without parameters and without output, separated by semicolons.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), Error> {
        let sent = !self.is_closed();
        let done = self.client.batch_execute(sql).await;
        done.map_err(|error| Error::of(&error, sent))
    }

    /// Runs `sql`, which contains `begin`.
    pub(super) async fn begin(&self, begin: &Begin, sql: &str) -> Result<(), Error> {
        self.send_within(begin.within, self.batch(sql)).await
    }

    /// Rolls the open transaction back. `resets` says whether the session is reset with it.
    pub(super) async fn rollback(&self, resets: bool) -> Result<(), Error> {
        self.end_transaction("ROLLBACK", resets).await
    }

    /// Ends the open transaction with `end`. `resets` is as in [`Connection::rollback`].
    async fn end_transaction(&self, end: &str, resets: bool) -> Result<(), Error> {
        if resets {
            return self.reset_behind(&format!("{end}; ")).await;
        }
        // Names that the transaction has set for itself end with it.
        self.statements.session_was_reset();
        self.batch(end).await
    }

    /// Resets the session, behind `end` in the same message.
    async fn reset_behind(&self, end: &str) -> Result<(), Error> {
        self.statements.session_was_reset();
        self.timeout.session_was_reset();
        let pooled = self.pooled.as_ref();
        let reset = pooled.map_or(RESET_SESSION, |pooled| &pooled.reset);
        self.batch(&[end, reset].concat()).await
    }

    /// Commits the open transaction, and sends `reset` right behind, if there is one. The server answers the
    /// commit before it begins the reset.
    pub(super) async fn commit(&self, reset: Option<&mut SessionReset>) -> Result<(), Error> {
        let Some(reset) = reset else {
            return self.end_transaction("COMMIT", false).await;
        };
        if self.pooled.is_some() {
            return self.commit_with(reset).await;
        }
        // Each message is sent when its future is polled first.
        let mut commit = pin!(self.batch("COMMIT"));
        if let Poll::Ready(failed) = poll!(commit.as_mut()) {
            return failed;
        }
        poll!(&mut reset.0).is_ready();
        commit.await
    }

    /// Commits the open transaction and resets the session in one message. Through a pooler, a second
    /// message may get to another session.
    async fn commit_with(&self, reset: &mut SessionReset) -> Result<(), Error> {
        // What is deferred is checked before the commit: if the commit were refused, the session would go to
        // somebody else without its reset. A failed transaction is only rolled back.
        let commit = match self.wire.transaction() {
            TransactionState::Failed => "COMMIT",
            TransactionState::Open | TransactionState::None => {
                "SET CONSTRAINTS ALL IMMEDIATE; COMMIT"
            }
        };
        let done = self.end_transaction(commit, true).await;
        let is_committed = self.wire.transaction_end() == TransactionEnd::Committed;
        match done {
            // The reset failed.
            Err(Error::Server(_)) if is_committed => reset.0 = MaybeDone::Done(done),
            Ok(()) => reset.0 = MaybeDone::Done(done),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The reset of the session, which is not sent yet.
    pub(super) fn session_reset(self: &Arc<Self>) -> SessionReset {
        let connection = Arc::clone(self);
        let reset = async move {
            if connection.pooled.is_some() {
                // Sent after a refusal, which may have left the transaction open. Its state comes behind it.
                connection.ping().await?;
                if connection.wire.transaction() != TransactionState::None {
                    return connection.rollback(true).await;
                }
            }
            connection.reset_behind("").await
        };
        SessionReset(maybe_done(reset.boxed()))
    }

    /// The prepared statement for `sql`, whose slot is `slot`. A task of its own prepares it: if its
    /// caller leaves, other callers still get the statement, and no statement leaks on the server.
    async fn prepare(
        self: &Arc<Self>,
        sql: &str,
        slot: &StatementSlot,
        within: Option<Duration>,
    ) -> Result<Statement, Error> {
        let prepared = slot.get_or_try_init(|| async {
            let connection = Arc::clone(self);
            let text = sql.to_owned();
            let task = tokio::spawn(async move {
                let preparing = connection.client.prepare(&text);
                connection.send_within(within, preparing).await
            });
            match task.await {
                Ok(prepared) => prepared.map_err(|error| unprepared(&error)),
                Err(_) => Err(Error::Lost {
                    sent: false,
                    reason: "the runtime stops".to_owned(),
                }),
            }
        });
        match prepared.await {
            Ok(statement) => Ok(statement.clone()),
            Err(error) => {
                self.statements.forget(sql, slot);
                Err(error)
            }
        }
    }
}

/// What begins a transaction.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) statements: Vec<String>,
    /// The time that the session's timeout has to fit, unless the statements limit the transaction.
    pub(super) within: Option<Duration>,
}

impl Begin {
    /// All of it as one text.
    pub(super) fn text(&self) -> String {
        self.statements.join("; ")
    }

    fn prefix(&self) -> Prefix {
        let statements: Vec<_> = self.statements.iter().map(String::as_str).collect();
        Prefix::new(&statements)
    }
}

/// The reset of a session after a commit: a message of its own, so that neither its failure nor the time
/// that it takes hides the answer to the commit.
pub(super) struct SessionReset(MaybeDone<BoxFuture<'static, Result<(), Error>>>);

impl SessionReset {
    /// Ends `lease` after the reset that was sent over it. Unless the reset succeeds soon, nobody else
    /// gets the connection. Sends the reset if it is not sent yet.
    pub(super) async fn end(mut self, lease: Lease<Connection>) {
        let answered = timeout(RESET_MAX, &mut self.0).await;
        let reset = answered
            .ok()
            .and_then(|()| Pin::new(&mut self.0).take_output());
        match reset {
            Some(Ok(())) => lease.mark_clean(),
            Some(Err(_)) | None => lease.mark_broken(),
        }
    }
}

/// Checks that a statement can have so many parameters. The server describes a statement with more in a way
/// that makes no sense.
///
/// # Errors
/// [`Error::Invalid`], which says how many it can have.
pub(super) fn check_most(params: Params<'_>) -> Result<(), Error> {
    let (most, found) = (PARAMETERS_MAX, params.len());
    if found <= most {
        return Ok(());
    }
    let reason = format!("expected at most {most} parameters but got {found}; an array is one");
    Err(Error::Invalid(reason))
}

/// Checks that there are as many parameters as `statement` has.
///
/// # Errors
/// [`Error::Invalid`], which says how many it has.
pub(super) fn check_number(statement: &Statement, params: Params<'_>) -> Result<(), Error> {
    let (expected, found) = (statement.params().len(), params.len());
    if expected == found {
        return Ok(());
    }
    let reason = format!("expected {expected} parameters but got {found}");
    Err(Error::Invalid(reason))
}

/// The error of a statement that could not be prepared.
pub(super) fn unprepared(error: &tokio_postgres::Error) -> Error {
    if error.code() == Some(&SqlState::INVALID_SQL_STATEMENT_NAME) {
        // The driver asks for types with statements that it prepares once for each connection.
        return Error::Lost {
            sent: false,
            reason:
                "the session's prepared statements were removed, or it leads through a pooler and \
                     statements_max is not 0"
                    .to_owned(),
        };
    }
    Error::of(error, false)
}

async fn collect(stream: RowStream) -> Result<QueryOutput, tokio_postgres::Error> {
    let mut stream = pin!(stream);
    let mut rows = Vec::new();
    while let Some(row) = stream.try_next().await? {
        rows.push(row);
    }
    let rows_affected = stream.rows_affected().unwrap_or_default();
    Ok(QueryOutput {
        rows,
        rows_affected,
    })
}
