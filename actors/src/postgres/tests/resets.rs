//! Which transactions the reset of the session follows.

use super::*;
use crate::postgres::{ResetAfter, Transaction, TransactionOptions};

const WORK_MEM: &str = "select setting::int8 from pg_settings where name = 'work_mem'";
const LOCKS: &str = "select count(*) from pg_locks where locktype = 'advisory'";
const TEMPORARY: &str = "select count(*) from pg_class where relpersistence = 't'";

async fn begin(database: &Database) -> Transaction {
    let options = TransactionOptions::within(LONG);
    database.begin(options).await.unwrap()
}

/// Runs `test` with a database of one connection, which resets its session as `reset_after` says. Its
/// function `change` sets `work_mem` to 7 MiB for the session.
fn with_resets<F: Future<Output = ()>>(reset_after: ResetAfter, test: impl FnOnce(Database) -> F) {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let settings = PostgresConfig {
            reset_after,
            ..settings()
        };
        let url = ServerUrl::Configured(cluster.url("postgres", ""));
        let connector = Connector::new(url, settings.clone());
        let database = Database::new("postgres", connector, settings, pool(1));
        let root = start(&system, &database).await;
        let change = "create function change() returns void language plpgsql \
                      as $$ begin set work_mem = '7MB'; end $$";
        database.query(change, &[], LONG).await.unwrap();
        test(database).await;
        root.stop().await;
    });
}

#[test]
fn what_a_function_sets_for_the_session_ends_with_each_transaction() {
    with_resets(ResetAfter::EveryTransaction, |database| async move {
        let ordinary = count(&database, WORK_MEM).await;
        for commits in [true, false] {
            let transaction = begin(&database).await;
            transaction.query("select change()", &[]).await.unwrap();
            transaction
                .query("select pg_advisory_lock(1)", &[])
                .await
                .unwrap();
            if commits {
                transaction.commit().await.unwrap();
            } else {
                transaction.rollback().await.unwrap();
            }
            assert_eq!(count(&database, WORK_MEM).await, ordinary);
            assert_eq!(count(&database, LOCKS).await, 0);
        }
    });
}

#[test]
fn the_session_is_reset_after_statements_that_say_that_they_change_it() {
    with_resets(ResetAfter::SessionStatements, |database| async move {
        let ordinary = count(&database, WORK_MEM).await;
        // No reset follows: the function hides what it does.
        let hidden = begin(&database).await;
        hidden.query("select change()", &[]).await.unwrap();
        hidden.commit().await.unwrap();
        assert_eq!(count(&database, WORK_MEM).await, 7 * 1024);
        for changes in [
            "set work_mem = '9MB'",
            "select set_config('work_mem', '9MB', false)",
            "select pg_advisory_lock(1)",
            "select 1 as n into temp t",
        ] {
            for (commits, in_batch) in [(true, false), (false, false), (true, true)] {
                let transaction = begin(&database).await;
                if in_batch {
                    let two = format!("select 1; {changes}");
                    transaction.batch(&two).await.unwrap();
                } else {
                    transaction.query("select change()", &[]).await.unwrap();
                    transaction.query(changes, &[]).await.unwrap();
                }
                if commits {
                    transaction.commit().await.unwrap();
                } else {
                    transaction.rollback().await.unwrap();
                }
                for (look, expected) in [(WORK_MEM, ordinary), (LOCKS, 0), (TEMPORARY, 0)] {
                    assert_eq!(count(&database, look).await, expected, "{changes}: {look}");
                }
            }
        }
        assert_eq!(status(&database).await.opened, 1);
    });
}

#[test]
fn transactions_without_a_reset_end_as_others_do() {
    with_resets(ResetAfter::SessionStatements, |database| async move {
        let table = "create table t (n int8 unique deferrable initially deferred)";
        database.query(table, &[], LONG).await.unwrap();
        let insert = "insert into t values ($1)";
        let (kept, undone) = (begin(&database).await, 2_i64);
        kept.query(insert, &[&1_i64]).await.unwrap();
        kept.commit().await.unwrap();
        let rolled_back = begin(&database).await;
        rolled_back.query(insert, &[&undone]).await.unwrap();
        rolled_back.rollback().await.unwrap();
        let dropped = begin(&database).await;
        dropped.query(insert, &[&undone]).await.unwrap();
        drop(dropped);
        let refused = begin(&database).await;
        refused.query(insert, &[&1_i64]).await.unwrap();
        assert!(matches!(refused.commit().await, Err(Error::Server(_))));
        let failed = begin(&database).await;
        failed.query(insert, &[&undone]).await.unwrap();
        assert!(failed.query("select 1/0", &[]).await.is_err());
        assert!(matches!(failed.commit().await, Err(Error::Aborted)));
        // The reset follows a failure, whatever the statements say.
        let function = "create function take() returns void language sql \
                        as 'select pg_advisory_lock(1)'";
        database.query(function, &[], LONG).await.unwrap();
        let locked = begin(&database).await;
        locked.query("select take()", &[]).await.unwrap();
        assert!(locked.query("select 1/0", &[]).await.is_err());
        locked.rollback().await.unwrap();
        assert_eq!(count(&database, LOCKS).await, 0);
        assert_eq!(count(&database, "select sum(n)::int8 from t").await, 1);
        assert_eq!(status(&database).await.opened, 1);
    });
}

#[test]
fn the_servers_timeout_fits_transactions_without_a_reset() {
    with_resets(ResetAfter::SessionStatements, |database| async move {
        let shown = "select setting::int8 from pg_settings where name = 'statement_timeout'";
        for seconds in [1, 2, 2, 20, 1] {
            // The first statement may be cached, or not, or a batch.
            for first in ["select 1", "select 1", "select 2", ""] {
                let options = TransactionOptions::within(Duration::from_secs(seconds));
                let transaction = database.begin(options).await.unwrap();
                match first {
                    "" => transaction.batch("select 1").await.unwrap(),
                    sql => drop(transaction.query(sql, &[]).await.unwrap()),
                }
                let timeout = transaction.query(shown, &[]).await.unwrap();
                let timeout: i64 = timeout.one().unwrap().get(0);
                transaction.commit().await.unwrap();
                let least = i64::try_from(seconds).unwrap() * 1000 - 500;
                let most = (4 * (least + 1000)).min(30_000);
                assert!((least..=most).contains(&timeout), "{seconds} s: {timeout}");
            }
        }
    });
}
