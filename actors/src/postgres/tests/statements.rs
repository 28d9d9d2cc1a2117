use futures_util::future::join_all;

use super::*;
use crate::postgres::{ToSql, TransactionOptions};

#[test]
fn many_callers_share_few_connections_and_an_error_touches_only_its_own() {
    with_database(4, |database| async move {
        let calls = (0..400_i64).map(|n| {
            let database = database.clone();
            async move {
                // Every fourth call divides by zero, between the others on the same connection.
                let by = n % 4;
                let sql = "select $1::int8 / $2::int8";
                (n, by, database.query(sql, &[&n, &by], LONG).await)
            }
        });
        for (n, by, answer) in join_all(calls).await {
            match answer {
                Ok(output) => assert_eq!(
                    (output.one().unwrap().get::<_, i64>(0), by != 0),
                    (n / by.max(1), true)
                ),
                Err(error) => assert_eq!((error.sqlstate(), by), (Some("22012"), 0), "{error}"),
            }
        }
        let status = wait_until_unused(&database).await;
        assert_eq!(status.checkouts, 400, "{status:?}");
    });
}

#[test]
fn a_caller_that_leaves_disturbs_no_other() {
    with_database(1, |database| async move {
        database
            .query("create table t (n int8)", &[], LONG)
            .await
            .unwrap();
        for round in 0..20_i64 {
            let slow = database.query("select pg_sleep(0.02)", &[], LONG);
            let insert = "insert into t values ($1) returning n";
            let calls = (0..10_i64).map(|n| {
                let (database, n) = (database.clone(), round * 10 + n);
                async move {
                    database
                        .query(insert, &[&n], LONG)
                        .await
                        .map(|output| (n, output.one().unwrap()))
                }
            });
            // The first caller leaves while the server works for it and the others wait.
            let gone = tokio::time::timeout(ms(5), slow);
            let (gone, answers) = tokio::join!(gone, join_all(calls));
            assert!(gone.is_err());
            for answer in answers {
                let (n, row) = answer.unwrap();
                assert_eq!(row.get::<_, i64>(0), n);
            }
        }
        assert_eq!(count(&database, "select count(*) from t").await, 200);
        let status = wait_until_unused(&database).await;
        assert_eq!((status.opened, status.size), (1, 1), "{status:?}");
    });
}

#[test]
fn a_caller_that_leaves_while_its_statement_is_prepared_leaks_none() {
    with_database(1, |database| async move {
        for _ in 0..20 {
            let mut call = Box::pin(database.query("select 7", &[], LONG));
            // Polled, and dropped before the answer.
            futures_util::poll!(&mut call).is_ready();
            tokio::task::yield_now().await;
            futures_util::poll!(&mut call).is_ready();
            drop(call);
            wait_until_unused(&database).await;
        }
        let sql = "select count(*) from pg_prepared_statements where statement = 'select 7'";
        let kept = count(&database, sql).await;
        assert!(kept <= 1, "{kept}");
    });
}

#[test]
fn a_deadline_ends_the_call_and_the_connection_stays_usable() {
    with_database(1, |database| async move {
        // The deadline is for the statement alone: the connection is open before.
        count(&database, "select 1::int8").await;
        let asked = Instant::now();
        let answer = database.query("select pg_sleep(0.5)", &[], ms(150)).await;
        assert!(
            matches!(answer, Err(Error::Deadline { sent: true })),
            "{answer:?}"
        );
        assert!(asked.elapsed() < ms(400));
        // The connection is not idle before the server is done.
        assert_eq!(status(&database).await.idle, 0);
        assert_eq!(count(&database, "select 1::int8").await, 1);
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn a_statement_whose_table_changed_is_prepared_again() {
    with_database(1, |database| async move {
        database
            .query("create table t as select 1::int8 as a", &[], LONG)
            .await
            .unwrap();
        let rows = database
            .query("select * from t", &[], LONG)
            .await
            .unwrap()
            .rows;
        assert_eq!(rows[0].len(), 1);
        database
            .query("alter table t add b text", &[], LONG)
            .await
            .unwrap();
        let rows = database
            .query("select * from t", &[], LONG)
            .await
            .unwrap()
            .rows;
        assert_eq!(rows[0].len(), 2);
        let deallocate = "do $$begin execute 'deallocate all'; end$$";
        database.query(deallocate, &[], LONG).await.unwrap();
        assert_eq!(
            database
                .query("select * from t", &[], LONG)
                .await
                .unwrap()
                .rows
                .len(),
            1
        );
    });
}

#[test]
fn too_many_parameters_are_refused_before_others_lose_their_connection() {
    with_database(1, |database| async move {
        let most = usize::from(u16::MAX);
        let list: Vec<_> = (1..=most + 1).map(|n| format!("${n}::int8")).collect();
        let list = list.join(",");
        let values = vec![7_i64; most + 1];
        let params: Vec<_> = values.iter().map(|n| n as &(dyn ToSql + Sync)).collect();
        let sql = format!("select 7 in ({list})");
        let refused = database.query(&sql, &params, LONG).await.unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)), "{refused}");
        assert!(refused.to_string().contains("65535"), "{refused}");
        let fits = sql.replace(&format!(",${}::int8", most + 1), "");
        database.query(&fits, &params[..most], LONG).await.unwrap();
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn what_would_affect_other_callers_is_refused_before_it_is_sent() {
    with_database(1, |database| async move {
        for view in [database.clone(), database.read_only()] {
            for sql in [
                "begin",
                "; set work_mem = '7MB'",
                "copy t from stdin",
                "listen news",
            ] {
                let refused = view.query(sql, &[], LONG).await;
                assert!(
                    matches!(refused, Err(Error::NotShared { .. })),
                    "{sql}: {refused:?}"
                );
            }
        }
        assert_eq!(status(&database).await.checkouts, 0);
    });
}

#[test]
fn a_connection_that_left_the_protocol_is_closed() {
    with_database(1, |database| async move {
        database
            .query("create table t (n int8)", &[], LONG)
            .await
            .unwrap();
        for sql in ["copy t from stdin", "copy t to stdout"] {
            let transaction = database
                .begin(TransactionOptions::within(LONG))
                .await
                .unwrap();
            let answer = transaction.query(sql, &[]).await;
            assert!(matches!(answer, Err(Error::Protocol(_))), "{answer:?}");
            assert!(transaction.commit().await.is_err());
            assert_eq!(count(&database, "select count(*) from t").await, 0);
            let batch = database
                .begin(TransactionOptions::within(LONG))
                .await
                .unwrap();
            let answer = batch.batch(sql).await;
            assert!(matches!(answer, Err(Error::Protocol(_))), "{answer:?}");
            drop(batch);
            assert_eq!(count(&database, "select count(*) from t").await, 0);
        }
        // What has no form in the protocol is not sent, and harms no connection.
        let before = wait_until_unused(&database).await.opened;
        let answer = database.query("select '\0'", &[], LONG).await;
        assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
        assert_eq!(count(&database, "select count(*) from t").await, 0);
        assert_eq!(status(&database).await.opened, before);
    });
}

#[test]
fn errors_hold_no_values() {
    with_database(1, |database| async move {
        let value = "hunter2".to_owned();
        database
            .query("create table t (v text primary key)", &[], LONG)
            .await
            .unwrap();
        let insert = "insert into t values ($1)";
        database.query(insert, &[&value], LONG).await.unwrap();
        let errors = [
            database.query(insert, &[&value], LONG).await.unwrap_err(),
            database
                .query("select $1::text::int4", &[&value], LONG)
                .await
                .unwrap_err(),
            database
                .query("select $1::int4", &[&value], LONG)
                .await
                .unwrap_err(),
            database
                .query("select $1::text::date", &[&value], LONG)
                .await
                .unwrap_err(),
            database
                .query("select 1", &[&value], LONG)
                .await
                .unwrap_err(),
            database
                .query("select to_date($1::text, 'YYYY')", &[&value], LONG)
                .await
                .unwrap_err(),
            database
                .query(
                    "select to_char(now(), 'x') where 'a' ~ ('(' || $1::text)",
                    &[&value],
                    LONG,
                )
                .await
                .unwrap_err(),
        ];
        for error in &errors {
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let Error::Server(error) = &errors[0] else {
            panic!("{:?}", errors[0]);
        };
        assert_eq!(
            (&*error.sqlstate, error.constraint.as_deref()),
            ("23505", Some("t_pkey"))
        );
        let sorts: Vec<_> = errors.iter().map(Error::label).collect();
        assert_eq!(
            sorts,
            [
                "server", "server", "invalid", "server", "invalid", "server", "server"
            ]
        );
    });
}

#[test]
fn the_session_has_its_settings_and_the_server_reports_about_itself() {
    with_database(2, |database| async move {
        assert_eq!(
            database.server_info(LONG).await.unwrap(),
            None,
            "no connection is opened"
        );
        let sql =
            "select current_setting('application_name'), current_setting('statement_timeout'),
                   current_setting('lock_timeout'),
                   current_setting('idle_in_transaction_session_timeout')";
        let row = database.query(sql, &[], LONG).await.unwrap().one().unwrap();
        let found: Vec<String> = (0..4).map(|index| row.get(index)).collect();
        assert_eq!(found, ["headroom", "30s", "10s", "30s"]);
        let info = database.server_info(LONG).await.unwrap().unwrap();
        assert!(!info.in_recovery && !info.read_only, "{info:?}");
        assert!(
            info.connections_max > 0 && info.started_at_unix_seconds > 1.0e9,
            "{info:?}"
        );
        assert!(info.latency_seconds > 0.0 && info.version.starts_with(char::is_numeric));
    });
}

/// Each await on the way of a call may copy its future. Once, these had 4.8 and 8.1 KB, and copying them
/// took a sixteenth of the time.
#[test]
fn the_futures_of_calls_are_small() {
    with_database(1, |database| async move {
        let query = database.query("select 1", &[], LONG);
        let size = size_of_val(&query);
        assert!(size < 3_500, "{size} bytes");
        drop(query);
        let transaction = database.begin(TransactionOptions::default()).await.unwrap();
        let size = size_of_val(&transaction.query("select 1", &[]));
        assert!(size < 2_500, "{size} bytes");
    });
}
