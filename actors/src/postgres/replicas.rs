//! Reads that a replica may serve.
//!
//! A replica is a relief and never a condition: whatever is wrong with it (behind by too much, away,
//! slow, promoted, not even there) makes the call one for the primary, within the same deadline. So it
//! gets a part of the time only, and what it says of the statement itself is all that is passed on.

use std::time::Duration;

use tokio::time::timeout_at;
use tokio_postgres::Row;

use super::connection::{Answer, Connection};
use super::database::{Caller, Database, Params};
use super::error::Error;
use super::freshness::{Verdict, Wanted};
use super::pipelined::{at_most_one, attempt, one};
use super::repeat::may_go_elsewhere;
use super::transaction::{Transaction, TransactionOptions};
use crate::kernel::pool::{Lease, Mode};

/// How long a call waits for a replica to give it a connection and to say how far behind it is. The
/// connect outlives the call and is there for the next.
const READY_WITHIN: Duration = Duration::from_millis(500);

/// The part of a call's time that a replica may take: a half. The rest is the primary's.
const TIME_PART: u32 = 2;

/// The replicas of a database.
pub(super) struct Replicas {
    database: Database,
    lag_max: Duration,
}

/// Why the primary serves what a replica might have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// There is no connection, for the reason that this is the label of.
    Checkout(&'static str),
    /// It is too far behind, or cannot say how far.
    Lag,
    /// It was promoted.
    Promoted,
    /// No answer in its part of the time.
    Slow,
    /// The connection ended.
    Lost,
    /// It gave the statement up for what it had to replay.
    Conflict,
}

impl Reason {
    /// Why the primary has to be asked after `error`; `None` when it would say the same.
    fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Checkout(error) => Some(Self::Checkout(error.label())),
            Error::Deadline { .. } => Some(Self::Slow),
            Error::Lost { .. } | Error::Protocol(_) => Some(Self::Lost),
            error if error.is_serialization_failure() || error.is_stale_statement() => {
                Some(Self::Conflict)
            }
            Error::Server(_)
            | Error::Aborted
            | Error::Rows { .. }
            | Error::Invalid(_)
            | Error::Schema(_) => None,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Checkout(label) => label,
            Self::Lag => "lag",
            Self::Promoted => "promoted",
            Self::Slow => "slow",
            Self::Lost => "lost",
            Self::Conflict => "conflict",
        }
    }
}

impl Replicas {
    pub(super) fn new(database: Database, lag_max: Duration) -> Self {
        Self { database, lag_max }
    }

    /// A connection to a replica whose data is as `wanted`.
    async fn lease(
        &self,
        mode: Mode,
        wanted: Wanted,
        caller: Caller,
    ) -> Result<Lease<Connection>, Reason> {
        let caller = caller.at_most(READY_WITHIN);
        let lease = self.database.check_out(mode, caller).await;
        let lease = lease.map_err(|error| Reason::of(&error).unwrap_or(Reason::Lost))?;
        let connection = lease.connection();
        let judged = connection.freshness.judge(connection, wanted);
        let reason = match timeout_at(caller.deadline, judged).await {
            Ok(Ok(Verdict::Fresh)) => return Ok(lease),
            Ok(Ok(Verdict::Stale)) => return Err(Reason::Lag),
            Ok(Ok(Verdict::IsPrimary)) if !connection.is_for_replicas() => {
                return Err(Reason::Promoted);
            }
            Ok(Ok(Verdict::IsPrimary)) => Reason::Promoted,
            Ok(Err(_)) => Reason::Lost,
            Err(_) => Reason::Slow,
        };
        // It is_primary to the wrong server, or nowhere.
        lease.mark_broken();
        Err(reason)
    }

    async fn statement(
        &self,
        sql: &str,
        params: Params<'_>,
        wanted: Wanted,
        caller: Caller,
    ) -> Result<Result<Answer, Error>, Reason> {
        let caller = caller.at_most(caller.remaining() / TIME_PART);
        let lease = self.lease(Mode::Shared, wanted, caller).await?;
        let answer = attempt(lease, sql, params, caller.deadline).await;
        match answer.as_ref().err().and_then(Reason::of) {
            Some(reason) if may_go_elsewhere(sql) => Err(reason),
            _ => Ok(answer),
        }
    }

    async fn begin(
        &self,
        options: TransactionOptions,
        wanted: Wanted,
        caller: Caller,
    ) -> Result<Transaction, Reason> {
        let early = caller.at_most(caller.remaining() / TIME_PART);
        let lease = self.lease(Mode::Exclusive, wanted, early).await?;
        let begun = Transaction::begin(lease, options, caller.deadline);
        match timeout_at(early.at_most(READY_WITHIN).deadline, begun).await {
            Ok(Ok(transaction)) => Ok(transaction),
            Ok(Err(error)) => Err(Reason::of(&error).unwrap_or(Reason::Lost)),
            Err(_) => Err(Reason::Slow),
        }
    }
}

/// A database to read from only: over a replica where one is there and not too far behind, else over the
/// primary. Without replicas it is the database.
///
/// What was written before may not be there yet; [`ReadOnly::lag_max`] says for how long. A replica
/// refuses what writes; the primary does so in transactions, and takes a single statement at its
/// caller's word.
#[derive(Clone, Copy)]
pub struct ReadOnly<'a> {
    database: &'a Database,
    lag_max: Option<Duration>,
}

impl<'a> ReadOnly<'a> {
    /// How far the data may be behind, where that is not as the replicas' setting has it.
    #[must_use]
    pub fn lag_max(mut self, lag_max: Duration) -> Self {
        self.lag_max = Some(lag_max);
        self
    }

    /// The rows that `sql` returns.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn query(
        self,
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
    pub fn query_one(
        self,
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
    pub fn query_opt(
        self,
        sql: &'a str,
        params: Params<'a>,
        within: Duration,
    ) -> impl Future<Output = Result<Option<Row>, Error>> + Send + 'a {
        let caller = Caller::new(within);
        async move { at_most_one(self.statement(sql, params, caller).await?.rows) }
    }

    /// Begins a transaction that only reads. Where it was begun, it stays.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn begin(
        self,
        options: TransactionOptions,
    ) -> impl Future<Output = Result<Transaction, Error>> + Send + 'a {
        let caller = Caller::new(options.within);
        self.begin_by(options.read_only(), caller)
    }

    /// Runs `work` in a transaction that only reads, as [`Database::transaction`] does. What is tried
    /// again is tried on the primary.
    ///
    /// # Errors
    /// What `work` returns, or why there was no transaction.
    #[track_caller]
    pub fn transaction<T, E, F>(
        self,
        options: TransactionOptions,
        work: F,
    ) -> impl Future<Output = Result<T, E>>
    where
        F: AsyncFnMut(&Transaction) -> Result<T, E>,
        E: From<Error>,
    {
        let caller = Caller::new(options.within);
        let database = self.database;
        database.transact(options.read_only(), caller, Some(self), work)
    }

    /// Begins a transaction on a replica, or where that cannot be, on the primary.
    pub(super) async fn begin_by(
        self,
        options: TransactionOptions,
        caller: Caller,
    ) -> Result<Transaction, Error> {
        let database = self.database;
        database.ready(caller).await?;
        if let Some(replicas) = &database.replicas {
            let wanted = database.wanted(replicas, self.lag_max);
            let begun = replicas.begin(options, wanted, caller).await;
            note(begun.as_ref().err().copied());
            if let Ok(transaction) = begun {
                return Ok(transaction);
            }
        }
        database.begin_by(options, caller).await
    }

    async fn statement(
        self,
        sql: &str,
        params: Params<'_>,
        caller: Caller,
    ) -> Result<Answer, Error> {
        let database = self.database;
        database.ready(caller).await?;
        if let Some(replicas) = &database.replicas {
            let wanted = database.wanted(replicas, self.lag_max);
            let served = replicas.statement(sql, params, wanted, caller).await;
            note(served.as_ref().err().copied());
            if let Ok(answer) = served {
                return answer;
            }
        }
        database.statement(sql, params, true, caller).await
    }
}

impl Database {
    /// For calls that only read, and that a replica may serve.
    pub fn read_only(&self) -> ReadOnly<'_> {
        ReadOnly {
            database: self,
            lag_max: None,
        }
    }

    /// What data is wanted of a replica: the schema that this database has is a part of it.
    fn wanted(&self, replicas: &Replicas, lag_max: Option<Duration>) -> Wanted {
        Wanted {
            lag_max: lag_max.unwrap_or(replicas.lag_max),
            since: self.shared.ready.get().copied(),
        }
    }
}

/// Counts who served a read.
fn note(instead: Option<Reason>) {
    let (served_by, reason) = match instead {
        None => ("replica", "fresh"),
        Some(reason) => ("primary", reason.label()),
    };
    metrics::counter!(
        "headroom_postgres_reads_total",
        "served_by" => served_by,
        "reason" => reason
    )
    .increment(1);
}
