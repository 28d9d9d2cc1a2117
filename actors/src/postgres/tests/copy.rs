//! `COPY` between this program and a table.

use bytes::Bytes;

use super::*;
use crate::postgres::{Transaction, TransactionOptions};

const IN: &str = "copy t from stdin";

async fn create(database: &Database) {
    let create = "create table t (n int8, said text)";
    database.query(create, &[], LONG).await.unwrap();
}

async fn begin(database: &Database) -> Transaction {
    let options = TransactionOptions::within(LONG);
    database.begin(options).await.unwrap()
}

/// Lines for `t`, in pieces of 1,000 bytes.
fn lines(count: usize) -> Vec<Bytes> {
    let lines: String = (0..count).map(|n| format!("{n}\tline {n}\n")).collect();
    let lines = Bytes::from(lines);
    let pieces = (0..lines.len()).step_by(1000);
    pieces
        .map(|at| lines.slice(at..lines.len().min(at + 1000)))
        .collect()
}

#[test]
fn data_is_copied_into_a_table_and_out_of_it() {
    with_database(1, |database| async move {
        create(&database).await;
        let transaction = begin(&database).await;
        for piece_max in [1000, 100_000] {
            let mut copy = transaction.copy_in(IN).await.unwrap();
            for pieces in lines(50_000).chunks(piece_max / 1000) {
                copy.send(pieces.concat().into()).await.unwrap();
            }
            let other = transaction.query("select 1", &[]).await;
            assert!(matches!(other, Err(Error::Invalid(_))), "{other:?}");
            assert_eq!(copy.finish().await.unwrap(), 50_000);
        }
        transaction
            .batch("delete from t where n = 7")
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(count(&database, "select count(*) from t").await, 99_998);

        let transaction = begin(&database).await;
        let out = "copy (select * from t order by n, said) to stdout";
        let mut copy = transaction.copy_out(out).await.unwrap();
        let mut read = Vec::new();
        while let Some(data) = copy.next().await.unwrap() {
            read.extend_from_slice(&data);
        }
        assert!(copy.next().await.unwrap().is_none());
        drop(copy);
        let expected = lines(50_000).concat();
        let expected = String::from_utf8(expected).unwrap();
        let expected = expected.lines().filter(|line| *line != "7\tline 7");
        let expected: String = expected.map(|line| format!("{line}\n{line}\n")).collect();
        assert!(read == expected.as_bytes(), "{} bytes", read.len());
        transaction.query("select 1", &[]).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn a_dropped_copy_leaves_nothing_and_no_statement() {
    with_database(1, |database| async move {
        create(&database).await;
        for sent in [0, 1, 100] {
            let transaction = begin(&database).await;
            let mut copy = transaction.copy_in(IN).await.unwrap();
            for piece in lines(10_000).into_iter().take(sent) {
                copy.send(piece).await.unwrap();
            }
            drop(copy);
            assert!(matches!(transaction.commit().await, Err(Error::Aborted)));

            let transaction = begin(&database).await;
            let mut copy = transaction.copy_in(IN).await.unwrap();
            copy.send(Bytes::from_static(b"1\tx\n")).await.unwrap();
            drop(copy);
            drop(transaction);
            assert_eq!(count(&database, "select count(*) from t").await, 0);

            let transaction = begin(&database).await;
            let many = "copy (select repeat('x', 100000) from generate_series(1, 10000)) to stdout";
            let mut copy = transaction.copy_out(many).await.unwrap();
            assert!(copy.next().await.unwrap().is_some());
            drop(copy);
            assert!(matches!(transaction.commit().await, Err(Error::Aborted)));
        }
        // When the server's error crosses the end of the data, the driver cannot tell the answers apart, and
        // the connection ends. That is rare.
        let status = wait_until_unused(&database).await;
        assert!(status.opened <= 4, "{status:?}");
    });
}

#[test]
fn data_that_the_server_refuses_is_told_at_the_end_without_the_data() {
    with_database(1, |database| async move {
        create(&database).await;
        let transaction = begin(&database).await;
        let mut copy = transaction.copy_in(IN).await.unwrap();
        copy.send(Bytes::from_static(b"secret\tx\n")).await.unwrap();
        for piece in lines(50_000) {
            copy.send(piece).await.unwrap();
        }
        let refused = copy.finish().await.unwrap_err();
        assert_eq!(refused.sqlstate(), Some("22P02"), "{refused}");
        assert!(!format!("{refused:?}").contains("secret"), "{refused:?}");
        assert!(matches!(transaction.commit().await, Err(Error::Aborted)));

        // The server fails after it has sent some of its data.
        let transaction = begin(&database).await;
        let fails = "copy (select 1 / (1000 - n) from generate_series(1, 2000) as n) to stdout";
        let mut copy = transaction.copy_out(fails).await.unwrap();
        let error = loop {
            match copy.next().await {
                Ok(data) => assert!(data.is_some(), "the end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.sqlstate(), Some("22012"));
        drop(copy);
        assert!(matches!(transaction.commit().await, Err(Error::Aborted)));

        // The server fails after it has sent all of it.
        let transaction = begin(&database).await;
        let trigger =
            "create function fail() returns trigger as 'begin raise exception ''no''; end'
                       language plpgsql;
                       create trigger fail after insert on t execute function fail()";
        transaction.batch(trigger).await.unwrap();
        let fails = "copy (insert into t values (1, 'x') returning n) to stdout";
        let mut copy = transaction.copy_out(fails).await.unwrap();
        assert_eq!(copy.next().await.unwrap().unwrap(), "1\n");
        let error = copy.next().await.unwrap_err();
        assert_eq!(error.sqlstate(), Some("P0001"));
        drop(copy);
        assert!(matches!(transaction.commit().await, Err(Error::Aborted)));
        assert_eq!(count(&database, "select count(*) from t").await, 0);
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn no_answer_is_taken_for_another_after_a_copy_that_the_server_does_not_begin() {
    with_database(1, |database| async move {
        create(&database).await;
        let transaction = begin(&database).await;
        transaction.batch("insert into t values (1)").await.unwrap();
        transaction.batch("savepoint s").await.unwrap();
        let refused = transaction.copy_in("copy missing from stdin").await;
        let refused = refused.map(drop).unwrap_err();
        assert_eq!(refused.sqlstate(), Some("42P01"), "{refused}");
        let back = transaction.batch("rollback to s").await;
        assert!(
            matches!(back, Err(Error::Lost { sent: false, .. })),
            "{back:?}"
        );
        assert!(transaction.commit().await.is_err());
        assert_eq!(count(&database, "select 7::int8").await, 7);

        let transaction = begin(&database).await;
        transaction.batch("insert into t values (1)").await.unwrap();
        let refused = transaction.copy_out("copy missing to stdout").await;
        assert!(refused.map(drop).is_err());
        assert!(transaction.commit().await.is_err());
        assert_eq!(count(&database, "select 7::int8").await, 7);

        let transaction = begin(&database).await;
        let (file, program) = ("copy t from '/f'", "copy t to program 'cat'");
        for other in ["select 1", "copy t to stdout", file, program] {
            let refused = transaction.copy_in(other).await.map(drop).unwrap_err();
            assert!(
                refused.to_string().ends_with("no `COPY … FROM STDIN`"),
                "{other}: {refused:?}"
            );
        }
        for other in ["select 1", IN, file, program] {
            let refused = transaction.copy_out(other).await.map(drop).unwrap_err();
            assert!(
                refused.to_string().ends_with("no `COPY … TO STDOUT`"),
                "{other}: {refused:?}"
            );
        }
        // None of them was sent.
        transaction.batch("insert into t values (2)").await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(count(&database, "select sum(n)::int8 from t").await, 2);
        wait_until_unused(&database).await;
    });
}
