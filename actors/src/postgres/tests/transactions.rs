use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::future::join_all;

use super::*;
use crate::kernel::pool::Mode;
use crate::postgres::call::Caller;
use crate::postgres::connector::check_out;
use crate::postgres::statements::Begin;
use crate::postgres::wire::TransactionState;
use crate::postgres::{Isolation, Transaction, TransactionOptions};

fn options() -> TransactionOptions {
    TransactionOptions::within(LONG)
}

#[test]
fn a_thousand_abandoned_transactions_roll_back_and_lose_no_connection() {
    with_callers_elsewhere(4, |database| async move {
        database
            .query("create table t (n int8)", &[], LONG)
            .await
            .unwrap();
        let callers = [0, 1000, 2000, 3000].map(|from: i64| {
            let database = database.clone();
            tokio::spawn(async move {
                for n in from..from + 250 {
                    let transaction = database.begin(options()).await.unwrap();
                    let insert = "insert into t values ($1)";
                    transaction.query(insert, &[&n]).await.unwrap();
                    transaction
                        .batch("set statement_timeout = 7777")
                        .await
                        .unwrap();
                    // Some are dropped while the server works for them.
                    if n % 50 == 0 {
                        let sleep = transaction.query("select pg_sleep(60)", &[]);
                        assert!(tokio::time::timeout(ms(2), sleep).await.is_err());
                    }
                }
            })
        });
        for ended in join_all(callers).await {
            ended.unwrap();
        }
        let rest = wait_until_unused(&database).await;
        assert!(rest.size <= 4 && rest.opened <= 4 + 20, "{rest:?}");
        assert_eq!(count(&database, "select count(*) from t").await, 0);
        let open = "select count(*) from pg_stat_activity where state like 'idle in transaction%'";
        assert_eq!(count(&database, open).await, 0);
        let timeout = "select setting::int8 from pg_settings where name = 'statement_timeout'";
        assert_eq!(
            count(&database, timeout).await,
            30_000,
            "the setting is reset"
        );
    });
}

#[test]
fn nothing_is_committed_after_a_failed_or_unfinished_statement() {
    with_callers_elsewhere(2, |database| async move {
        database
            .query("create table t (n int8)", &[], LONG)
            .await
            .unwrap();
        let failed = database.begin(options()).await.unwrap();
        failed.query("insert into t values (1)", &[]).await.unwrap();
        assert!(failed.query("select 1/0", &[]).await.is_err());
        assert!(matches!(failed.commit().await, Err(Error::Aborted)));
        let given_up = database.begin(options()).await.unwrap();
        given_up
            .query("insert into t values (2)", &[])
            .await
            .unwrap();
        let sleep = given_up.query("select pg_sleep(60)", &[]);
        assert!(tokio::time::timeout(ms(20), sleep).await.is_err());
        drop(given_up);
        let late = TransactionOptions::within(ms(100));
        let late = database.begin(late).await.unwrap();
        let answer = late.query("select pg_sleep(60)", &[]).await;
        assert!(
            matches!(answer, Err(Error::Deadline { sent: true })),
            "{answer:?}"
        );
        drop(late);
        let done = database.begin(options()).await.unwrap();
        done.query("insert into t values (3)", &[]).await.unwrap();
        done.commit().await.unwrap();
        assert_eq!(count(&database, "select sum(n)::int8 from t").await, 3);
        // The server stops the statements of callers that left.
        let running =
            "select count(*) from pg_stat_activity where state = 'active' and query ~ 'sleep.60'
                       and pid <> pg_backend_pid()";
        eventually(async || (count(&database, running).await == 0).then_some(())).await;
    });
}

#[test]
fn a_transaction_commits_what_a_return_to_a_savepoint_left_of_it() {
    with_callers_elsewhere(1, |database| async move {
        let make = "create table t (n int8 unique)";
        database.query(make, &[], LONG).await.unwrap();
        let insert = "insert into t values ($1)";
        let transaction = database.begin(options()).await.unwrap();
        transaction.query(insert, &[&1_i64]).await.unwrap();
        transaction.batch("savepoint here").await.unwrap();
        // Refused by the server before it runs, while it runs, in a batch, and by the client.
        for sql in [
            insert,
            "select no_such_function($1)",
            "select 1/($1::int8 - 1)",
        ] {
            assert!(transaction.query(sql, &[&1_i64]).await.is_err(), "{sql}");
            transaction.batch("rollback to here").await.unwrap();
        }
        assert!(transaction.batch("select 1/0").await.is_err());
        transaction.query("rollback to here", &[]).await.unwrap();
        assert!(transaction.query(insert, &[&"two"]).await.is_err());
        transaction.query(insert, &[&2_i64]).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(count(&database, "select sum(n)::int8 from t").await, 3);

        // Without the return, nothing is committed.
        let transaction = database.begin(options()).await.unwrap();
        transaction.batch("savepoint here").await.unwrap();
        transaction.query(insert, &[&4_i64]).await.unwrap();
        assert!(transaction.query(insert, &[&1_i64]).await.is_err());
        assert!(matches!(transaction.commit().await, Err(Error::Aborted)));
        assert_eq!(count(&database, "select sum(n)::int8 from t").await, 3);
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn a_transaction_that_its_own_statements_ended_says_how_it_ended() {
    with_callers_elsewhere(1, |database| async move {
        let make = "create table t (n int8 unique deferrable initially deferred)";
        database.query(make, &[], LONG).await.unwrap();
        let sum = "select coalesce(sum(n), 0)::int8 from t";
        let insert = "insert into t values ($1)";
        // Statements, whether the last one succeeds, whether the transaction was committed.
        for (statements, succeeds, commits) in [
            (&["commit"][..], true, true),
            (&["savepoint a; release a; end"], true, true),
            (&["commit; select 1/0"], false, true),
            (&["rollback"], true, false),
            (&["savepoint a; select 1; rollback"], true, false),
            // The server answers without an error that it has rolled back.
            (&["select 1/0", "commit"], false, false),
            (&["select 1/0", "-- now\nend"], false, false),
            (&["select 1/0", "rollback"], true, false),
            // The check comes with the commit.
            (&["insert into t values (1)", "commit"], false, false),
            (&["commit and chain; rollback"], true, false),
        ] {
            let before = count(&database, sum).await;
            let transaction = database.begin(options()).await.unwrap();
            transaction.query(insert, &[&1_i64]).await.unwrap();
            let mut last = Ok(());
            for sql in statements {
                last = if sql.contains(';') {
                    transaction.batch(sql).await
                } else {
                    transaction.query(sql, &[]).await.map(drop)
                };
            }
            assert_eq!(last.is_ok(), succeeds, "{statements:?}: {last:?}");
            // It would run outside of a transaction.
            let late = transaction.query(insert, &[&100_i64]).await;
            assert!(late.is_err(), "{statements:?}");
            let committed = transaction.commit().await;
            match committed {
                Ok(()) => assert!(commits, "{statements:?}"),
                Err(Error::Aborted) => assert!(!commits, "{statements:?}"),
                Err(other) => panic!("{statements:?}: {other:?}"),
            }
            let chained = statements[0].contains("chain");
            let lasts = before + i64::from(commits || chained);
            assert_eq!(count(&database, sum).await, lasts, "{statements:?}");
            database.query("delete from t", &[], LONG).await.unwrap();
        }
        // What begins another one goes on.
        let transaction = database.begin(options()).await.unwrap();
        transaction.batch("rollback; begin").await.unwrap();
        transaction.query(insert, &[&1_i64]).await.unwrap();
        transaction.batch("commit and chain").await.unwrap();
        transaction.query(insert, &[&2_i64]).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(count(&database, sum).await, 3);
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn a_transaction_begins_with_its_first_statement() {
    with_callers_elsewhere(2, |database| async move {
        let make = "create table t (n int8)";
        database.query(make, &[], LONG).await.unwrap();
        let open = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
        // On a connection that was silent for long, it begins at once.
        eventually(async || {
            let transaction = database.begin(options()).await.unwrap();
            let is_open = count(&database, open).await == 1;
            transaction.commit().await.unwrap();
            (!is_open).then_some(())
        })
        .await;
        let insert = "insert into t values ($1)";
        // At first, the statement is not prepared.
        for round in 0..3 {
            let transaction = database.begin(options()).await.unwrap();
            transaction.query(insert, &[&1_i64]).await.unwrap();
            assert_eq!(count(&database, open).await, 1, "{round}");
            transaction.rollback().await.unwrap();
            let transaction = database.begin(options()).await.unwrap();
            transaction.batch("insert into t values (2)").await.unwrap();
            assert_eq!(count(&database, open).await, 1, "{round}");
            drop(transaction);
            // What cannot be sent begins nothing.
            let transaction = database.begin(options()).await.unwrap();
            assert!(transaction.query(insert, &[&"one"]).await.is_err());
            assert!(transaction.batch("\0").await.is_err());
            transaction.query(insert, &[&4_i64]).await.unwrap();
            transaction.rollback().await.unwrap();
            // Whichever is the first of several.
            let transaction = database.begin(options()).await.unwrap();
            let (one, other, third) = tokio::join!(
                transaction.query(insert, &[&8_i64]),
                transaction.batch("insert into t values (16)"),
                transaction.query(insert, &[&32_i64]),
            );
            assert!(one.is_ok() && other.is_ok() && third.is_ok());
            transaction.rollback().await.unwrap();
            // A failure at the first statement is one of the transaction.
            for sql in ["select 1/0", "no sql"] {
                let transaction = database.begin(options()).await.unwrap();
                assert!(transaction.batch(sql).await.is_err());
                assert!(transaction.query(insert, &[&64_i64]).await.is_err());
                assert!(matches!(transaction.commit().await, Err(Error::Aborted)));
                let transaction = database.begin(options()).await.unwrap();
                assert!(transaction.query(sql, &[]).await.is_err());
                assert!(transaction.query(insert, &[&64_i64]).await.is_err());
                assert!(matches!(transaction.commit().await, Err(Error::Aborted)));
            }
            assert_eq!(count(&database, "select count(*) from t").await, 0);
        }
        let transaction = database.begin(options()).await.unwrap();
        transaction.query(insert, &[&1_i64]).await.unwrap();
        transaction.query(insert, &[&2_i64]).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(count(&database, "select sum(n)::int8 from t").await, 3);
        // One that did nothing ends.
        database
            .begin(options())
            .await
            .unwrap()
            .commit()
            .await
            .unwrap();
        database
            .begin(options())
            .await
            .unwrap()
            .rollback()
            .await
            .unwrap();
        assert!(wait_until_unused(&database).await.opened <= 2);
    });
}

#[test]
fn a_statement_never_runs_without_the_begin_that_is_sent_with_it() {
    with_callers_elsewhere(1, |database| async move {
        let make = "create table t (n int8)";
        database.query(make, &[], LONG).await.unwrap();
        let insert = "insert into t values ($1)";
        let lease = check_out(database.pool(), Mode::Exclusive, Caller::new(LONG))
            .await
            .unwrap();
        let sent = AtomicBool::new(false);
        lease
            .run_once(insert, &[&1_i64], &sent, None, None)
            .await
            .unwrap();
        for (begin, timeout) in [
            ("select 1/0", "select 1"),
            ("begin isolation level no", "select 1"),
            ("begin", "set local statement_timeout = no"),
        ] {
            let begin = Begin {
                statements: vec![begin.to_owned(), timeout.to_owned()],
                within: None,
            };
            let done = lease
                .run_once(insert, &[&2_i64], &sent, None, Some(&begin))
                .await;
            assert!(matches!(done, Err(Error::Server(_))), "{begin:?}: {done:?}");
            lease.batch("rollback").await.unwrap();
        }
        let timeout = "set local statement_timeout = 7777".to_owned();
        let begin = Begin {
            statements: vec!["begin".to_owned(), timeout],
            within: None,
        };
        let done = lease
            .run_once(insert, &[&4_i64], &sent, None, Some(&begin))
            .await;
        assert_eq!(done.unwrap().rows_affected, 1);
        assert_eq!(lease.wire.transaction(), TransactionState::Open);
        let timeout = "select current_setting('statement_timeout')";
        let timeout = lease.run_once(timeout, &[], &sent, None, None).await;
        assert_eq!(
            timeout.unwrap().one().unwrap().get::<_, String>(0),
            "7777ms"
        );
        lease.batch("rollback").await.unwrap();
        drop(lease);
        assert_eq!(count(&database, "select sum(n)::int8 from t").await, 1);
    });
}

#[test]
fn retryable_transactions_run_again_after_serialization_failures() {
    let counters = &Counters::of(METRICS);
    let _recording = metrics::set_default_local_recorder(counters);
    with_database(4, |database| async move {
        database
            .query("create table t as select 0::int8 as n", &[], LONG)
            .await
            .unwrap();
        let add = |attempts: u32| {
            let database = database.clone();
            // The future is Send.
            tokio::spawn(async move {
                let options = TransactionOptions {
                    isolation: Isolation::Serializable,
                    ..options().retryable(attempts)
                };
                database
                    .transaction(options, async |transaction| {
                        let n: i64 = transaction
                            .query("select n from t", &[])
                            .await?
                            .one()?
                            .get(0);
                        tokio::time::sleep(ms(5)).await;
                        transaction
                            .query("update t set n = $1", &[&(n + 1)])
                            .await?;
                        Ok::<_, Error>(())
                    })
                    .await
            })
        };
        let calls: Vec<_> = (0..4).map(|_| add(50)).collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        assert_eq!(count(&database, "select n from t").await, 4);
        let before = counters.get(RETRIES);
        assert!(before > 0);
        let calls: Vec<_> = (0..4).map(|_| add(1)).collect();
        let mut failed = 0;
        for call in calls {
            if let Err(error) = call.await.unwrap() {
                assert!(error.is_serialization_failure(), "{error}");
                failed += 1;
            }
        }
        assert!(failed > 0);
        assert_eq!(counters.get(RETRIES), before);
        assert_eq!(database.read_only().retries().repeated, before);
    });
}

#[test]
fn a_retryable_transaction_runs_again_also_if_its_work_passes_no_failure_on() {
    with_database(4, |database| async move {
        let make = "create table t as select 0::int8 as n";
        database.query(make, &[], LONG).await.unwrap();
        let add = "update t set n = n + 1";
        let twice = async |attempts, first: &'static str, second: &'static str| {
            let tries = std::cell::Cell::new(0);
            let options = TransactionOptions {
                isolation: Isolation::RepeatableRead,
                ..options().retryable(attempts)
            };
            let work = async |transaction: Arc<Transaction>| {
                transaction.query("select n from t", &[]).await?;
                if tries.replace(tries.get() + 1) == 0 {
                    database.query(first, &[], LONG).await?;
                }
                transaction.query(second, &[]).await.ok();
                Ok(())
            };
            let done: Result<(), Error> = database.transaction(options, work).await;
            (done, tries.get())
        };
        let (done, tries) = twice(3, add, add).await;
        assert!(done.is_ok() && tries == 2, "{done:?} {tries}");
        assert_eq!(count(&database, "select n from t").await, 2);
        let (done, tries) = twice(1, add, add).await;
        assert!(
            matches!(done, Err(Error::Aborted)) && tries == 1,
            "{done:?}"
        );
        // Nor is it repeated after a failure that a repeat cannot mend.
        let (done, tries) = twice(3, add, "select 1/0").await;
        assert!(
            matches!(done, Err(Error::Aborted)) && tries == 1,
            "{done:?} {tries}"
        );
    });
}

#[test]
fn a_savepoint_undoes_a_part_of_its_transaction() {
    with_callers_elsewhere(1, |database| async move {
        let make = "create table t (n int8)";
        database.query(make, &[], LONG).await.unwrap();
        let insert = "insert into t values ($1)";
        let transaction = database.begin(options()).await.unwrap();
        transaction.query(insert, &[&1_i64]).await.unwrap();
        let kept = transaction.savepoint().await.unwrap();
        transaction.query(insert, &[&2_i64]).await.unwrap();
        let undone = transaction.savepoint().await.unwrap();
        transaction.query(insert, &[&4_i64]).await.unwrap();
        undone.rollback().await.unwrap();
        kept.release().await.unwrap();
        let dropped = transaction.savepoint().await.unwrap();
        transaction.query(insert, &[&8_i64]).await.unwrap();
        drop(dropped);
        // Nothing is left of it at the server.
        transaction.query(insert, &[&16_i64]).await.unwrap();
        let forgotten = transaction.savepoint().await.unwrap();
        transaction.query(insert, &[&32_i64]).await.unwrap();
        drop(forgotten);
        transaction.commit().await.unwrap();
        assert_eq!(count(&database, "select sum(n)::int8 from t").await, 19);
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn statements_run_again_after_the_rollback_of_a_savepoint_with_a_failure() {
    with_callers_elsewhere(1, |database| async move {
        let transaction = database.begin(options()).await.unwrap();
        for is_dropped in [false, true] {
            let savepoint = transaction.savepoint().await.unwrap();
            assert!(transaction.query("select 1/0", &[]).await.is_err());
            let refused = transaction.query("select 1", &[]).await.unwrap_err();
            assert_eq!(refused.sqlstate(), Some("25P02"));
            if is_dropped {
                drop(savepoint);
            } else {
                savepoint.rollback().await.unwrap();
            }
            transaction.query("select 1", &[]).await.unwrap();
        }
        let failed = transaction.savepoint().await.unwrap();
        assert!(transaction.query("select 1/0", &[]).await.is_err());
        assert!(failed.release().await.is_err());
        transaction.query("select 1", &[]).await.unwrap();
        transaction.rollback().await.unwrap();
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn nothing_is_left_of_a_savepoint_that_has_ended() {
    with_database(1, |database| async move {
        for way in ["release", "rollback", "drop"] {
            let transaction = database.begin(options()).await.unwrap();
            let savepoint = transaction.savepoint().await.unwrap();
            match way {
                "release" => savepoint.release().await.unwrap(),
                "rollback" => savepoint.rollback().await.unwrap(),
                _ => drop(savepoint),
            }
            let back = transaction.batch("rollback to headroom_0").await;
            assert_eq!(back.unwrap_err().sqlstate(), Some("3B001"), "{way}");
        }
    });
}

#[test]
fn a_dropped_savepoint_that_an_outer_one_has_ended_fails_the_transaction() {
    with_database(1, |database| async move {
        let transaction = database.begin(options()).await.unwrap();
        let outer = transaction.savepoint().await.unwrap();
        let inner = transaction.savepoint().await.unwrap();
        outer.rollback().await.unwrap();
        transaction.query("select 1", &[]).await.unwrap();
        drop(inner);
        // The server would answer with a rollback and without an error.
        let committed = transaction.query("commit", &[]).await;
        assert!(matches!(committed, Err(Error::Aborted)), "{committed:?}");
    });
}

#[test]
fn no_statement_of_callers_on_other_threads_runs_without_its_begin() {
    with_callers_elsewhere(4, |database| async move {
        let create = "create table t (n int8)";
        database.query(create, &[], LONG).await.unwrap();
        let callers = (0..8).map(|caller: i64| {
            let database = database.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    let transaction = database.begin(options()).await.unwrap();
                    let insert = "insert into t values ($1)";
                    transaction.query(insert, &[&caller]).await.unwrap();
                    transaction.rollback().await.unwrap();
                }
            })
        });
        for ended in join_all(callers).await {
            ended.unwrap();
        }
        assert_eq!(count(&database, "select count(*) from t").await, 0);
    });
}

#[test]
fn a_rollback_after_a_dropped_statement_costs_the_next_transaction_nothing() {
    with_database(1, |database| async move {
        for way in 0..3 {
            let dropped = database.begin(options()).await.unwrap();
            dropped.query("select 1", &[]).await.unwrap();
            match way {
                0 => drop(dropped.rows("select generate_series(1, 9)", &[]).await),
                1 => {
                    let sleep = dropped.query("select pg_sleep(60)", &[]);
                    assert!(tokio::time::timeout(ms(20), sleep).await.is_err());
                }
                _ => {
                    let rows = dropped.rows("select generate_series(1, 99999)", &[]);
                    let mut rows = rows.await.unwrap();
                    rows.next().await.unwrap();
                }
            }
            dropped.rollback().await.unwrap();
            let next = database.begin(options()).await.unwrap();
            next.query("select 1", &[]).await.unwrap();
            next.commit().await.unwrap();
        }
    });
}

#[test]
fn the_work_of_a_transaction_ends_at_its_deadline() {
    with_database(1, |database| async move {
        let table = "create table t (n int8)";
        database.query(table, &[], LONG).await.unwrap();
        for begins in [false, true] {
            let options = TransactionOptions::within(ms(300));
            let done: Result<(), Error> = database
                .transaction(options, async |transaction| {
                    if begins {
                        let insert = "insert into t values (1)";
                        transaction.query(insert, &[]).await?;
                    }
                    std::future::pending().await
                })
                .await;
            assert!(
                matches!(done, Err(Error::Deadline { sent: false })),
                "{done:?}"
            );
            assert_eq!(count(&database, "select count(*) from t").await, 0);
        }
        let options = TransactionOptions::within(ms(300));
        let done: Result<(), Error> = database
            .transaction(options, async |transaction| {
                transaction
                    .batch("insert into t values (1); commit")
                    .await?;
                std::future::pending().await
            })
            .await;
        assert!(
            matches!(done, Err(Error::Deadline { sent: true })),
            "{done:?}"
        );
        assert_eq!(count(&database, "select count(*) from t").await, 1);
    });
}
