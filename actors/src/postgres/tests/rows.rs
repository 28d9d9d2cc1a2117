//! Rows that are read one by one.

use super::*;
use crate::postgres::TransactionOptions;
use crate::postgres::exchange::Exchange;

/// About a hundred megabytes.
const MANY: &str = "select n, repeat('x', 100000) from generate_series(1::int8, 1000) as n";

/// What sends `MANY` and waits until somebody reads it.
const STOPPED: &str = "select count(*) from pg_stat_activity
    where query ~ 'repeat' and wait_event = 'ClientWrite' and pid <> pg_backend_pid()";

const RUNNING: &str = "select count(*) from pg_stat_activity
    where query ~ 'repeat' and state = 'active' and pid <> pg_backend_pid()";

fn options() -> TransactionOptions {
    TransactionOptions::within(LONG)
}

#[test]
fn rows_are_read_one_by_one_within_their_transaction() {
    with_database(1, |database| async move {
        let transaction = database.begin(options()).await.unwrap();
        transaction.batch("create table t (n int8)").await.unwrap();
        let insert = "insert into t select generate_series(1, $1::int8) returning n";
        let mut rows = transaction.rows(insert, &[&1000_i64]).await.unwrap();
        let mut read = Vec::new();
        while let Some(row) = rows.next().await.unwrap() {
            read.push(row.get::<_, i64>(0));
        }
        assert!(read.into_iter().eq(1..=1000));
        assert!(rows.next().await.unwrap().is_none());
        assert_eq!(rows.finish().await.unwrap(), 1000);

        // Those that are not wanted do not cost the transaction.
        let mut rows = transaction.rows("table t", &[]).await.unwrap();
        assert!(rows.next().await.unwrap().is_some());
        assert_eq!(rows.finish().await.unwrap(), 1000);
        transaction.commit().await.unwrap();
        assert_eq!(count(&database, "select count(*) from t").await, 1000);
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn the_server_waits_for_the_reader_and_other_statements_are_refused() {
    with_database(2, |database| async move {
        let transaction = database.begin(options()).await.unwrap();
        let mut rows = transaction.rows(MANY, &[]).await.unwrap();
        assert!(rows.next().await.unwrap().is_some());
        eventually(async || (count(&database, STOPPED).await == 1).then_some(())).await;
        let others = [
            transaction.query("select 1", &[]).await.map(drop),
            transaction.batch("select 1").await,
            transaction.rows("select 1", &[]).await.map(drop),
            transaction.copy_out("copy t to stdout").await.map(drop),
        ];
        for other in others {
            assert!(matches!(other, Err(Error::Invalid(_))), "{other:?}");
        }
        // A refusal changes nothing, nor does a call that is given up.
        let next = tokio::time::timeout(Duration::ZERO, rows.next()).await;
        let mut expected = if next.is_ok() { 3 } else { 2 };
        while let Some(row) = rows.next().await.unwrap() {
            assert_eq!(row.get::<_, i64>(0), expected);
            expected += 1;
        }
        assert_eq!(expected, 1001);
        transaction.query("select 1", &[]).await.unwrap();
        drop(rows);
        transaction.commit().await.unwrap();
    });
}

#[test]
fn rows_that_are_dropped_end_their_statement_and_their_transaction() {
    with_database(2, |database| async move {
        let create = "create table t (n int8)";
        database.query(create, &[], LONG).await.unwrap();
        for _ in 0..3 {
            let transaction = database.begin(options()).await.unwrap();
            transaction.batch("insert into t values (1)").await.unwrap();
            let mut rows = transaction.rows(MANY, &[]).await.unwrap();
            assert!(rows.next().await.unwrap().is_some());
            drop(rows);
            let committed = transaction.commit().await;
            assert!(matches!(committed, Err(Error::Aborted)), "{committed:?}");
            let transaction = database.begin(options()).await.unwrap();
            drop(transaction.rows(MANY, &[]).await.unwrap());
            drop(transaction);
        }
        eventually(async || (count(&database, RUNNING).await == 0).then_some(())).await;
        assert_eq!(count(&database, "select count(*) from t").await, 0);
        let rest = wait_until_unused(&database).await;
        assert!(rest.opened <= 2, "{rest:?}");
    });
}

#[test]
fn rows_end_with_the_deadline_also_if_there_is_always_one() {
    with_database(2, |database| async move {
        let options = TransactionOptions::within(ms(3000));
        let transaction = database.begin(options).await.unwrap();
        // The server does not collect these before it sends them.
        let endless = "select 'repeat', generate_series(1, 1000000000000)";
        let mut rows = transaction.rows(endless, &[]).await.unwrap();
        let error = loop {
            match rows.next().await {
                Ok(row) => assert!(row.is_some()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Deadline { sent: true }), "{error}");
        assert!(rows.next().await.unwrap().is_none());
        drop(rows);
        assert!(matches!(transaction.commit().await, Err(Error::Aborted)));
        eventually(async || (count(&database, RUNNING).await == 0).then_some(())).await;
    });
}

#[test]
fn an_exchange_ends_with_the_deadline_also_if_it_never_waits() {
    with_database(1, |database| async move {
        let options = TransactionOptions::within(ms(300));
        let transaction = database.begin(options).await.unwrap();
        let begun = Exchange::begin(&transaction, "", async { Ok(()) }).await;
        let mut exchange = begun.unwrap().0;
        let error = loop {
            assert!(Instant::now() < transaction.deadline + LONG);
            if let Err(error) = exchange.step(async { Ok(()) }).await {
                break error;
            }
        };
        assert!(matches!(error, Error::Deadline { sent: true }), "{error}");
        assert!(exchange.has_ended());
    });
}

#[test]
fn rows_that_fail_midway_do_not_count_as_all() {
    with_database(1, |database| async move {
        let transaction = database.begin(options()).await.unwrap();
        let fails = "select 1 / (1000 - n) from generate_series(1, 2000) as n";
        let mut rows = transaction.rows(fails, &[]).await.unwrap();
        let mut read = 0;
        let error = loop {
            match rows.next().await {
                Ok(Some(_)) => read += 1,
                Ok(None) => panic!("the end"),
                Err(error) => break error,
            }
        };
        assert_eq!((read, error.sqlstate()), (999, Some("22012")));
        drop(rows);
        assert!(matches!(transaction.commit().await, Err(Error::Aborted)));
        // The part that failed can be taken back.
        let transaction = database.begin(options()).await.unwrap();
        let savepoint = transaction.savepoint().await.unwrap();
        let rows = transaction.rows(fails, &[]).await.unwrap();
        assert!(rows.finish().await.is_err());
        savepoint.rollback().await.unwrap();
        transaction.commit().await.unwrap();
        // What cannot be begun fails at once.
        let transaction = database.begin(options()).await.unwrap();
        let error = transaction.rows("select nothing", &[]).await.map(drop);
        assert_eq!(error.unwrap_err().sqlstate(), Some("42703"));
        drop(transaction);
        assert_eq!(count(&database, "select 1::int8").await, 1);
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}
