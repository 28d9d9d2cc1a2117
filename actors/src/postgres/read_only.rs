//! Calls that only read: on a replica if possible, otherwise on the primary.

use std::time::Duration;

use tokio::time::Instant;

use super::call::{Caller, Params, QueryOutput};
use super::database::Database;
use super::error::Error;
use super::freshness::FreshnessBound;
use super::replicas::{Replicas, count_read};
use super::transaction::{Transaction, TransactionOptions};

/// A database for calls that only read. A replica serves them if one is recent enough, otherwise the
/// primary. Without replicas, it is the primary.
///
/// Recent writes may be missing; [`ReadOnly::lag_max`] bounds for how long. Replicas refuse writes. The
/// primary refuses them in transactions, and runs a single statement without a check.
#[derive(Clone, Copy)]
pub struct ReadOnly<'a> {
    database: &'a Database,
    lag_max: Option<Duration>,
}

impl Database {
    /// A view of the database for calls that only read, which a replica may serve.
    pub fn read_only(&self) -> ReadOnly<'_> {
        ReadOnly {
            database: self,
            lag_max: None,
        }
    }
}

impl<'a> ReadOnly<'a> {
    /// Bounds how far the data may be behind, in place of the replicas' own bound.
    #[must_use]
    pub fn lag_max(mut self, lag_max: Duration) -> Self {
        self.lag_max = Some(lag_max);
        self
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// See [`Error`].
    #[track_caller]
    pub fn query(
        self,
        sql: &'a str,
        params: Params<'a>,
        within: Duration,
    ) -> impl Future<Output = Result<QueryOutput, Error>> + Send + 'a {
        let caller = Caller::new(within);
        async move {
            let database = self.database;
            let migrated_at = database.ready(caller).await?;
            if let Some(replicas) = &database.replicas {
                let bound = self.bound(replicas, migrated_at);
                let served = replicas.statement(sql, params, bound, caller).await;
                count_read(served.as_ref().err().copied());
                if let Ok(output) = served {
                    return output;
                }
            }
            database.statement(sql, params, true, caller).await
        }
    }

    /// Begins a transaction that only reads. All of it runs on the same server.
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

    /// Runs `work` in a transaction that only reads, as [`Database::transaction`] does. A repeat runs
    /// on the primary.
    ///
    /// # Errors
    /// The error of `work`, or of the transaction.
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
        let options = options.read_only();
        let caller = Caller::new(options.within);
        let first = self.begin_by(options, caller);
        self.database.transact(options, caller, first, work)
    }

    async fn begin_by(
        self,
        options: TransactionOptions,
        caller: Caller,
    ) -> Result<Transaction, Error> {
        let database = self.database;
        let migrated_at = database.ready(caller).await?;
        if let Some(replicas) = &database.replicas {
            let bound = self.bound(replicas, migrated_at);
            let begun = replicas.begin(options, bound, caller).await;
            count_read(begun.as_ref().err().copied());
            if let Ok(transaction) = begun {
                return Ok(transaction);
            }
        }
        database.begin_by(options, caller).await
    }

    /// How recent a replica's data must be. It must include the schema that this process has seen.
    fn bound(self, replicas: &Replicas, migrated_at: Option<Instant>) -> FreshnessBound {
        FreshnessBound {
            lag_max: self.lag_max.unwrap_or(replicas.lag_max),
            includes: migrated_at,
        }
    }
}
