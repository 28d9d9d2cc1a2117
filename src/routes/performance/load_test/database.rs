//! The scenario `database`: selects by primary key through the server's own pool, from a table that is
//! made for this and removed afterwards.
//!
//! The table is made in one transaction. A scenario that ends before the commit leaves none; if it ends during a
//! commit that takes long, the table is removed after it. The name has the time until which a load test may use the
//! table. If the server is killed before it has removed it, or PostgreSQL does not answer in time, the next load
//! test removes it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use headroom_actors::postgres::{Database as Postgres, Error, Transaction, TransactionOptions};
use headroom_measure::{Failure, Items};
use tokio::time::sleep;

use super::parameters::{Database, pace};
use super::report::EndedBy;
use super::run::{CALLER_BYTES, CannotRun, Measured, OPERATION_WITHIN, Run, workload};
use crate::pools::Client;

/// How the names of all tables of load tests begin.
const PREFIX: &str = "headroom_load_test_";

/// How long after the deadline of its job the table may be in use.
const GRACE: Duration = Duration::from_secs(60);

/// How long the table may take to be made. The first use of a private PostgreSQL starts it.
const MAKE_WITHIN: Duration = Duration::from_secs(120);

/// How long the commit may go on after the scenario had to end. With the removal it is shorter than the time in
/// which a cancelled job must end.
const COMMIT_WITHIN: Duration = Duration::from_secs(2);

/// How long the removal of the table may take.
const REMOVE_WITHIN: Duration = Duration::from_secs(2);

/// The tables of load tests in the present schema that are no longer in use: the name has the second until
/// which it may be. Those of another role cannot be removed. Other names may have no number there, and the
/// order of conditions that are joined by AND is not defined.
const LEFT_BEHIND: &str = "SELECT c.relname::text FROM pg_class c \
     WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' \
     AND pg_has_role(c.relowner, 'USAGE') \
     AND CASE WHEN c.relname ~ '^headroom_load_test_[0-9]{1,12}_[0-9a-f]{16}$' \
         THEN split_part(c.relname, '_', 4)::bigint < $1 ELSE false END";

pub(super) async fn run(parameters: &Database, run: &Run) -> Result<Measured, CannotRun> {
    let database = database(run)?;
    let Some(_held) = run.reserve_for(1, parameters.callers, CALLER_BYTES).await else {
        return Ok(Measured::default());
    };
    let items = Items::new(table_name(run), parameters.rows);
    if !make(&database, &items, run).await? {
        return Ok(Measured::default());
    }
    let measured = query(&database, &items, parameters, run).await;
    remove(&database, &items, run).await;
    measured
}

/// The database of the server's own pool.
fn database(run: &Run) -> Result<Postgres, CannotRun> {
    let clients = run.handles.pools.iter().map(|pool| &pool.client);
    let mut databases = clients.filter_map(|client| match client {
        Client::Postgres(database) => Some(database.clone()),
        Client::Redis(_) | Client::PubSub(_) => None,
    });
    // The first one is the primary.
    let none = || CannotRun("this server has no pool of PostgreSQL connections".into());
    databases.next().ok_or_else(none)
}

fn seconds_since_1970() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// A name that no other load test uses, and that nobody else would choose.
fn table_name(run: &Run) -> String {
    let now = seconds_since_1970();
    let until = (now + run.job.left() + GRACE).as_secs();
    let unique = (now.subsec_nanos(), std::process::id());
    format!("{PREFIX}{until}_{:08x}{:08x}", unique.0, unique.1)
}

/// Makes and fills the table. `false` if the scenario had to end before; then there is no table.
async fn make(database: &Postgres, items: &Items, run: &Run) -> Result<bool, CannotRun> {
    let options = TransactionOptions::within(MAKE_WITHIN);
    let filled = async {
        let transaction = database.begin(options).await?;
        let now = i64::try_from(seconds_since_1970().as_secs()).unwrap_or(i64::MAX);
        for row in transaction.query(LEFT_BEHIND, &[&now]).await?.rows {
            let name: String = row.get(0);
            tracing::info!(table = name, "removing a table that a load test has left");
            transaction.batch(&Items::new(name, 0).remove()).await?;
        }
        for statement in [items.create(), items.fill(), items.analyze()] {
            transaction.batch(&statement).await?;
        }
        Ok::<_, Error>(transaction)
    };
    let filled = tokio::select! {
        biased;
        // The transaction is rolled back when it is dropped.
        () = run.stop.cancelled() => return Ok(false),
        filled = filled => filled,
    };
    let made = match filled {
        Ok(transaction) => match commit(transaction, database, items, run).await {
            Some(committed) => committed,
            None => return Ok(false),
        },
        Err(error) => Err(error),
    };
    let Err(error) = made else { return Ok(true) };
    if matches!(error, Error::Lost { .. } | Error::Deadline { .. }) {
        // It may have been committed.
        remove(database, items, run).await;
    }
    Err(CannotRun(format!("the table cannot be made: {error}")))
}

/// Commits the transaction that makes the table. `None` if the scenario had to end long before the commit
/// has: then the table is removed after it.
async fn commit(
    transaction: Transaction,
    database: &Postgres,
    items: &Items,
    run: &Run,
) -> Option<Result<(), Error>> {
    let mut committing = Box::pin(transaction.commit());
    let too_late = async {
        run.stop.cancelled().await;
        sleep(COMMIT_WITHIN).await;
    };
    tokio::select! {
        committed = &mut committing => return Some(committed),
        () = too_late => {}
    }
    let (database, remove) = (database.clone(), items.remove());
    // If the commit were dropped, there could be a table and nobody to remove it.
    tokio::spawn(async move {
        committing.await.ok();
        if let Err(error) = database.query(&remove, &[], REMOVE_WITHIN).await {
            tracing::warn!(%error, "the table of a load test was not removed");
        }
    });
    None
}

async fn query(
    database: &Postgres,
    items: &Items,
    parameters: &Database,
    run: &Run,
) -> Result<Measured, CannotRun> {
    let pace = pace(parameters.rate_per_second);
    let workload = workload(parameters.callers, parameters.operations, pace);
    let statement: Arc<str> = items.select().into();
    let (database, items) = (database.clone(), items.clone());
    let select = move |number| {
        let (database, statement) = (database.clone(), Arc::clone(&statement));
        let key = items.key(number);
        async move { select(&database, &statement, key).await }
    };
    run.measure("query", workload, &parameters.thresholds, select)
        .await
}

async fn select(database: &Postgres, statement: &str, key: i64) -> Result<(), Failure> {
    let failed = |error: Error| Failure::new(error.label(), error.to_string());
    let found = database.query(statement, &[&key], OPERATION_WITHIN).await;
    let row = found.and_then(|found| found.one()).map_err(failed)?;
    let value: &str = row.try_get(0).map_err(|error| failed(error.into()))?;
    Items::check(key, value)
}

/// Removes the table. A failure is the outcome of the scenario.
async fn remove(database: &Postgres, items: &Items, run: &Run) {
    let removed = database.query(&items.remove(), &[], REMOVE_WITHIN).await;
    if let Err(error) = removed {
        let reason = format!(
            "its table was not removed ({error}); the next load test does that, once the table is out of use"
        );
        tracing::warn!(%error, "the table of a load test was not removed");
        run.end(EndedBy::Error, reason);
    }
}
