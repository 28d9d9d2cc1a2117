use super::*;
use crate::postgres::{Transaction, TransactionOptions};

/// Statements that change the session, and queries that return whether the change is still there.
const LEFT: &[(&str, &str)] = &[
    (
        "set work_mem = '7MB'",
        "select current_setting('work_mem') = '7MB'",
    ),
    (
        "set my.own = 'secret'",
        "select coalesce(current_setting('my.own', true), '') <> ''",
    ),
    ("set role somebody", "select current_user = 'somebody'"),
    (
        "set session authorization somebody",
        "select session_user = 'somebody' or current_user = 'somebody'",
    ),
    (
        "listen news",
        "select exists (select from pg_listening_channels())",
    ),
    (
        "create temp table scratch as select 1 as n",
        "select to_regclass('pg_temp.scratch') is not null",
    ),
    (
        "select pg_advisory_lock(42)",
        "select exists (select from pg_locks where locktype = 'advisory')",
    ),
    (
        "declare held cursor with hold for select 1",
        "select exists (select from pg_cursors where name = 'held')",
    ),
    (
        "select nextval('numbers')",
        // True in a session that has taken a number.
        "select has_number()",
    ),
];

const MAKE: &str = "
    create role somebody;
    create sequence numbers;
    create function has_number() returns bool language plpgsql as $$
    begin
        perform currval('numbers');
        return true;
    exception when object_not_in_prerequisite_state then
        return false;
    end $$";

/// How a transaction ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Commit,
    RollBack,
    /// Dropped while it is idle.
    Drop,
    /// Dropped after a failed statement.
    Fail,
}

async fn end(transaction: Transaction, end: End) {
    match end {
        End::Commit => transaction.commit().await.unwrap(),
        End::RollBack => transaction.rollback().await.unwrap(),
        End::Drop => drop(transaction),
        End::Fail => {
            assert!(transaction.batch("select 1/0").await.is_err());
            assert!(matches!(transaction.commit().await, Err(Error::Aborted)));
        }
    }
}

#[test]
fn the_next_user_sees_nothing_that_the_last_one_left_in_the_session() {
    with_database(1, |database| async move {
        let options = TransactionOptions::within(LONG);
        let setup = database.begin(options.clone()).await.unwrap();
        setup.batch(MAKE).await.unwrap();
        setup.commit().await.unwrap();
        for (leave, is_left) in LEFT {
            for way in [End::Commit, End::RollBack, End::Drop, End::Fail] {
                let user = database.begin(options.clone()).await.unwrap();
                // Committed, so that no rollback undoes it.
                user.batch(&format!("{leave}; commit; begin"))
                    .await
                    .unwrap();
                let seen = user.query(is_left, &[]).await.unwrap().one().unwrap();
                assert!(seen.get::<_, bool>(0), "without effect: {leave}");
                end(user, way).await;
                // There is only one connection, so the next call uses the same session.
                let next = database
                    .query(is_left, &[], LONG)
                    .await
                    .unwrap()
                    .one()
                    .unwrap();
                assert!(!next.get::<_, bool>(0), "{leave} {way:?}");
                let next = database.begin(options.clone()).await.unwrap();
                let seen = next.query(is_left, &[]).await.unwrap().one().unwrap();
                assert!(!seen.get::<_, bool>(0), "{leave} {way:?}");
                next.rollback().await.unwrap();
            }
        }
        // All of it ran on one connection, which keeps its prepared statements.
        let sql = "select count(*) from pg_prepared_statements where not from_sql";
        let prepared = count(&database, sql).await;
        assert!(prepared >= i64::try_from(LEFT.len()).unwrap(), "{prepared}");
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn a_statement_that_a_user_prepares_is_not_there_for_the_next_one() {
    with_database(1, |database| async move {
        let prepare = "prepare mine as select 1";
        for way in [End::Commit, End::RollBack, End::Drop, End::Fail] {
            let options = TransactionOptions::within(LONG);
            let user = database.begin(options).await.unwrap();
            user.query(prepare, &[]).await.unwrap();
            user.query("execute mine", &[]).await.unwrap();
            end(user, way).await;
            let options = TransactionOptions::within(LONG);
            let user = database.begin(options).await.unwrap();
            let rows = user.rows(prepare, &[]).await.unwrap();
            rows.finish().await.unwrap();
            end(user, way).await;
            // Also if the rest of the batch fails: a rollback does not undo it.
            let user = database.exclusive(LONG).await.unwrap();
            let failed = user.batch(&format!("{prepare}; select 1/0")).await;
            assert_eq!(failed.unwrap_err().sqlstate(), Some("22012"), "{way:?}");
        }
        let sql = "select count(*) from pg_prepared_statements where from_sql";
        assert_eq!(count(&database, sql).await, 0);
    });
}

#[test]
fn a_session_of_ones_own_has_no_transaction_and_leaves_nothing() {
    with_database(1, |database| async move {
        let user = database.exclusive(LONG).await.unwrap();
        user.batch(MAKE).await.unwrap();
        // Refused within a transaction.
        user.query("vacuum", &[]).await.unwrap();
        drop(user);
        for (leave, is_left) in LEFT {
            let user = database.exclusive(LONG).await.unwrap();
            user.batch(leave).await.unwrap();
            let seen = user.query(is_left, &[]).await.unwrap().one().unwrap();
            assert!(seen.get::<_, bool>(0), "without effect: {leave}");
            drop(user);
            let next = database
                .query(is_left, &[], LONG)
                .await
                .unwrap()
                .one()
                .unwrap();
            assert!(!next.get::<_, bool>(0), "{leave}");
            let next = database.exclusive(LONG).await.unwrap();
            let seen = next.query(is_left, &[]).await.unwrap().one().unwrap();
            assert!(!seen.get::<_, bool>(0), "{leave}");
        }
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn a_statement_or_transaction_that_a_session_leaves_is_ended() {
    with_database(2, |database| async move {
        let user = database.exclusive(LONG).await.unwrap();
        user.batch("create table t (n int8)").await.unwrap();
        user.batch("begin; insert into t values (1)").await.unwrap();
        drop(user);
        let user = database.exclusive(LONG).await.unwrap();
        // What does not fail in a session is not undone with what fails.
        user.query("insert into t values (2)", &[]).await.unwrap();
        assert!(user.query("select 1/0", &[]).await.is_err());
        user.query("insert into t values (4)", &[]).await.unwrap();
        let sleep = user.query("select pg_sleep(60)", &[]);
        assert!(tokio::time::timeout(ms(20), sleep).await.is_err());
        drop(user);
        let user = database.exclusive(ms(200)).await.unwrap();
        let late = user.query("select pg_sleep(60)", &[]).await;
        assert!(
            matches!(late, Err(Error::Deadline { sent: true })),
            "{late:?}"
        );
        let late = user.query("insert into t values (8)", &[]).await;
        assert!(
            matches!(late, Err(Error::Deadline { sent: false })),
            "{late:?}"
        );
        drop(user);
        let running = "select count(*) from pg_stat_activity
            where state = 'active' and query ~ 'sleep.60' and pid <> pg_backend_pid()";
        eventually(async || (count(&database, running).await == 0).then_some(())).await;
        assert_eq!(count(&database, "select sum(n)::int8 from t").await, 6);
        assert_eq!(wait_until_unused(&database).await.shared_in_flight, 0);
    });
}

#[test]
fn a_session_does_not_get_a_connection_that_was_lost_while_it_was_idle() {
    with_database(2, |database| async move {
        let user = database.exclusive(LONG).await.unwrap();
        let pid = user.query("select pg_backend_pid()", &[]).await.unwrap();
        let pid: i32 = pid.one().unwrap().get(0);
        drop(user);
        wait_until_unused(&database).await;
        let admin = database.exclusive(LONG).await.unwrap();
        let other = database.exclusive(LONG).await.unwrap();
        for user in [&admin, &other] {
            let own = user.query("select pg_backend_pid()", &[]).await.unwrap();
            let own: i32 = own.one().unwrap().get(0);
            if own != pid {
                let kill = "select pg_terminate_backend($1)";
                user.query(kill, &[&pid]).await.unwrap();
            }
        }
        drop((admin, other));
        for _ in 0..2 {
            let user = database.exclusive(LONG).await.unwrap();
            user.query("select 1", &[]).await.unwrap();
        }
    });
}
