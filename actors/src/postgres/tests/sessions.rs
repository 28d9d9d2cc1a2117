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
        let setup = database.begin(options).await.unwrap();
        setup.batch(MAKE).await.unwrap();
        setup.commit().await.unwrap();
        for (leave, is_left) in LEFT {
            for way in [End::Commit, End::RollBack, End::Drop, End::Fail] {
                let user = database.begin(options).await.unwrap();
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
                let next = database.begin(options).await.unwrap();
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
