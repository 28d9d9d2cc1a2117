//! Cached statements that a change of the schema or of the session puts out of date.

use std::sync::Arc;

use tokio_postgres::types::{IsNull, Type, to_sql_checked};

use super::*;
use crate::postgres::{ToSql, Transaction, TransactionOptions};

/// A value of the enumerated type `mood`.
#[derive(Debug)]
pub(super) struct Mood(pub(super) &'static str);

impl ToSql for Mood {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        ty.name() == "mood"
    }

    to_sql_checked!();
}

pub(super) const INSERT: &str = "insert into t values ($1) returning *";

pub(super) const MAKE: &str = "create type mood as enum ('good'); create table t (m mood)";

/// What a migration does to a type that it replaces.
const REPLACE_TYPE: &str = "
    alter table t alter m type text;
    drop type mood;
    create type mood as enum ('good', 'bad');
    alter table t alter m type mood using m::mood";

fn options() -> TransactionOptions {
    TransactionOptions::within(LONG)
}

/// Runs `sql` in one transaction.
async fn migrate(database: &Database, sql: &str) {
    let transaction = database.begin(options()).await.unwrap();
    transaction.batch(sql).await.unwrap();
    transaction.commit().await.unwrap();
}

/// Inserts over each of the pool's four connections, so that each has the statement cached.
async fn insert_over_all(database: &Database) {
    let mut open = Vec::new();
    for _ in 0..4 {
        let transaction = database.begin(options()).await.unwrap();
        transaction.query(INSERT, &[&Mood("good")]).await.unwrap();
        open.push(transaction);
    }
    for transaction in open {
        transaction.commit().await.unwrap();
    }
}

/// Changes of the schema after which the cached statement cannot run.
pub(super) const CHANGES: [&str; 3] = [
    REPLACE_TYPE,
    "alter table t add b int8",
    "drop table t; create table t (m mood, c text, d text)",
];

#[test]
fn single_statements_run_again_after_any_change_of_the_schema() {
    let counters = &Counters::of(METRICS);
    let _recording = metrics::set_default_local_recorder(counters);
    with_database(4, |database| async move {
        migrate(&database, MAKE).await;
        for (before, change) in CHANGES.into_iter().enumerate() {
            insert_over_all(&database).await;
            migrate(&database, change).await;
            for _ in 0..25 {
                let done = database.query(INSERT, &[&Mood("good")], LONG).await;
                assert!(done.is_ok(), "{change}: {done:?}");
            }
            // Once for all connections. No call was repeated.
            let retries = database.retries();
            assert_eq!(retries.prepared_again, before as u64 + 1, "{change}");
            assert_eq!(retries.repeated, 0, "{change}");
        }
        let counted = counters.get("headroom_postgres_prepared_again_total");
        assert_eq!(counted, CHANGES.len() as u64);
    });
}

#[test]
fn a_transaction_begins_again_if_its_first_statement_is_out_of_date() {
    with_database(4, |database| async move {
        migrate(&database, MAKE).await;
        for change in CHANGES {
            insert_over_all(&database).await;
            migrate(&database, change).await;
            let rows = count(&database, "select count(*) from t").await;
            let serializable = TransactionOptions {
                isolation: crate::postgres::Isolation::Serializable,
                ..options()
            };
            let transaction = database.begin(serializable).await.unwrap();
            for _ in 0..2 {
                let done = transaction.query(INSERT, &[&Mood("good")]).await;
                assert!(done.is_ok(), "{change}: {done:?}");
            }
            let level = "select current_setting('transaction_isolation')";
            let level = transaction.query(level, &[]).await.unwrap().one().unwrap();
            assert_eq!(level.get::<_, String>(0), "serializable");
            transaction.commit().await.unwrap();
            let found = count(&database, "select count(*) from t").await;
            assert_eq!(found, rows + 2, "{change}");
        }
    });
}

#[test]
fn one_repeat_of_a_transaction_is_enough_however_many_connections_are_out_of_date() {
    with_database(4, |database| async move {
        migrate(&database, &format!("{MAKE}; create table u (n int8)")).await;
        for change in CHANGES {
            insert_over_all(&database).await;
            migrate(&database, change).await;
            let (rows, others) = (
                count(&database, "select count(*) from t").await,
                count(&database, "select count(*) from u").await,
            );
            let twice = async |transaction: Arc<Transaction>| {
                transaction.query("insert into u values (1)", &[]).await?;
                transaction.query(INSERT, &[&Mood("good")]).await
            };
            let calls = (0..4).map(|_| {
                let retryable = options().retryable(2);
                database.transaction::<_, Error, _, _>(retryable, twice)
            });
            for done in futures_util::future::join_all(calls).await {
                assert!(done.is_ok(), "{change}: {done:?}");
            }
            assert_eq!(
                (
                    count(&database, "select count(*) from t").await,
                    count(&database, "select count(*) from u").await
                ),
                (rows + 4, others + 4),
                "{change}"
            );
        }
    });
}

#[test]
fn one_failure_is_enough_for_all_connections() {
    with_database(4, |database| async move {
        migrate(&database, MAKE).await;
        for change in CHANGES {
            insert_over_all(&database).await;
            migrate(&database, change).await;
            let mut open = Vec::new();
            let mut failed = 0;
            for _ in 0..4 {
                let transaction = database.begin(options()).await.unwrap();
                transaction.query("select 1", &[]).await.unwrap();
                let inserted = transaction.query(INSERT, &[&Mood("good")]).await;
                failed += u32::from(inserted.is_err());
                open.push(transaction);
            }
            assert_eq!(failed, 1, "{change}");
            for transaction in open {
                transaction.rollback().await.unwrap();
            }
        }
    });
}

#[test]
fn a_transaction_that_is_not_marked_runs_once() {
    with_database(1, |database| async move {
        migrate(&database, MAKE).await;
        database
            .query(INSERT, &[&Mood("good")], LONG)
            .await
            .unwrap();
        migrate(&database, REPLACE_TYPE).await;
        let transaction = database.begin(options()).await.unwrap();
        transaction.query("select 1", &[]).await.unwrap();
        let refused = transaction.query(INSERT, &[&Mood("good")]).await;
        assert!(matches!(refused, Err(Error::Server(_))), "{refused:?}");
        assert!(matches!(transaction.commit().await, Err(Error::Aborted)));
        // The next one is served.
        let transaction = database.begin(options()).await.unwrap();
        transaction.query("select 1", &[]).await.unwrap();
        transaction.query(INSERT, &[&Mood("good")]).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(count(&database, "select count(*) from t").await, 2);
    });
}

#[test]
fn a_session_that_began_a_transaction_gets_the_error_itself() {
    with_database(4, |database| async move {
        migrate(&database, MAKE).await;
        for change in &CHANGES[..2] {
            insert_over_all(&database).await;
            let user = database.exclusive(LONG).await.unwrap();
            user.query("begin", &[]).await.unwrap();
            user.query("select 1", &[]).await.unwrap();
            migrate(&database, change).await;
            let refused = user.query(INSERT, &[&Mood("good")]).await.unwrap_err();
            assert_ne!(refused.sqlstate(), Some("25P02"), "{refused}");
            user.query("rollback", &[]).await.unwrap();
            user.query("begin", &[]).await.unwrap();
            user.query(INSERT, &[&Mood("good")]).await.unwrap();
            user.query("commit", &[]).await.unwrap();
            drop(user);
            // One failure is enough for the others.
            let before = database.retries().prepared_again;
            insert_over_all(&database).await;
            assert_eq!(database.retries().prepared_again, before);
        }
    });
}

#[test]
fn a_session_whose_statements_were_all_removed_serves_on_or_is_replaced() {
    with_database(1, |database| async move {
        migrate(&database, MAKE).await;
        let deallocate = "do $$begin execute 'deallocate all'; end$$";
        for round in 0..5 {
            // A type that the driver does not know yet: it asks with statements of its own.
            migrate(&database, REPLACE_TYPE).await;
            let done = database.query(INSERT, &[&Mood("good")], LONG).await;
            assert!(done.is_ok(), "{round}: {done:?}");
            database.query(deallocate, &[], LONG).await.unwrap();
        }
        assert_eq!(count(&database, "select count(*) from t").await, 5);
    });
}

#[test]
fn tenants_with_tables_of_their_own_take_turns() {
    with_database(1, |database| async move {
        let make = "create schema a; create schema b; create table a.t as select 1::int8 as n;
                    create table b.t as select 2::int8 as n, 'x' as more, 3::int8 as o";
        migrate(&database, make).await;
        let function = "select set_config('search_path', $1, true)";
        for round in 0..40 {
            let (tenant, columns) = if round % 2 == 0 { ("a", 1) } else { ("b", 3) };
            let transaction = database.begin(options()).await.unwrap();
            if round % 4 < 2 {
                let set = format!("set local search_path to {tenant}");
                transaction.batch(&set).await.unwrap();
            } else {
                transaction.query(function, &[&tenant]).await.unwrap();
            }
            let row = transaction.query("select * from t", &[]).await;
            assert_eq!(row.unwrap().one().unwrap().len(), columns, "{round}");
            transaction.commit().await.unwrap();
        }
        // Each tenant's statement stays prepared.
        let sql = "select count(*) from pg_prepared_statements where statement = 'select * from t'";
        let prepared = count(&database, sql).await;
        assert_eq!(prepared, 4);
    });
}
