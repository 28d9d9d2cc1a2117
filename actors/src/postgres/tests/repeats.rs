//! Which calls are repeated, counted by their effects.

use super::*;
use crate::postgres::{Transaction, TransactionOptions};
use std::sync::Arc;

/// A procedure that pays, commits, and then fails with the given code.
const PAY: &str = "create procedure pay(code text, said text) language plpgsql as $$
    begin
        insert into paid default values;
        commit;
        if code = 'cut' then
            perform pg_terminate_backend(pg_backend_pid());
        else
            raise exception using errcode = code, message = said;
        end if;
    end $$";

/// The failures after which calls may be repeated.
const FAILURES: [(&str, &str); 6] = [
    ("40001", "could not serialize access"),
    ("40P01", "deadlock detected"),
    ("25006", "cannot execute INSERT in a read-only transaction"),
    ("26000", "prepared statement does not exist"),
    ("0A000", "cached plan must not change result type"),
    ("cut", ""),
];

async fn set_up(database: &Database) {
    for sql in [
        "create table paid (n int8 generated always as identity)",
        "create sequence tries",
        PAY,
        // Not undone by a rollback, so that every try counts.
        "create function fails_at_first() returns int8 language plpgsql as $$
         begin
             if nextval('tries') < 3 then
                 raise exception using errcode = '40001';
             end if;
             return currval('tries');
         end $$",
    ] {
        database.query(sql, &[], LONG).await.unwrap();
    }
}

async fn paid(database: &Database) -> i64 {
    count(database, "select count(*) from paid").await
}

#[test]
fn a_procedure_that_commits_runs_once_however_it_fails() {
    let counters = &Counters::of(METRICS);
    let _recording = metrics::set_default_local_recorder(counters);
    with_database(4, |database| async move {
        set_up(&database).await;
        let mut expected = 0;
        for (code, said) in FAILURES {
            let call = format!("call pay('{code}', '{said}')");
            let block = format!("do $$begin call pay('{code}', '{said}'); end$$");
            let commented = format!("-- pays\n/* once */ {call}");
            for sql in [&call, &block, &commented] {
                let failed = [
                    database.query(sql, &[], LONG).await.map(drop),
                    database.query(sql, &[], LONG).await.map(drop),
                    database.read_only().query(sql, &[], LONG).await.map(drop),
                ];
                for failed in failed {
                    assert!(failed.is_err(), "{sql}");
                    if code == "cut" {
                        assert!(
                            matches!(failed, Err(Error::Lost { sent: true, .. })),
                            "{failed:?}"
                        );
                    }
                }
                expected += 3;
                assert_eq!(paid(&database).await, expected, "{sql}");
            }
        }
        assert_eq!(counters.get(RETRIES), 0);
    });
}

#[test]
fn a_started_call_is_repeated_only_if_its_caller_allows_that() {
    with_database(4, |database| async move {
        set_up(&database).await;
        let sql = "select fails_at_first()";
        let once = database.query(sql, &[], LONG).await;
        assert!(once.unwrap_err().is_serialization_failure());
        assert_eq!(count(&database, "select last_value from tries").await, 1);
        let write = "insert into paid select from fails_at_first()";
        let once = database.query(write, &[], LONG).await;
        assert!(once.unwrap_err().is_serialization_failure());
        assert_eq!(count(&database, "select last_value from tries").await, 2);

        // A read: it is tried until it succeeds.
        database
            .query("alter sequence tries restart", &[], LONG)
            .await
            .unwrap();
        let row = database.read_only().query(sql, &[], LONG).await;
        assert_eq!(row.unwrap().one().unwrap().get::<_, i64>(0), 3);

        // A transaction: as often as it is marked for.
        for (attempts, succeeds) in [(1, false), (2, false), (3, true)] {
            database
                .query("alter sequence tries restart", &[], LONG)
                .await
                .unwrap();
            let options = TransactionOptions::within(LONG).retryable(attempts);
            let work = async |transaction: Arc<Transaction>| transaction.query(write, &[]).await;
            let done = database.transaction::<_, Error, _, _>(options, work).await;
            assert_eq!(done.is_ok(), succeeds, "{attempts}: {done:?}");
            let tries = count(&database, "select last_value from tries").await;
            assert_eq!(tries, i64::from(attempts));
        }
        assert_eq!(paid(&database).await, 1);
    });
}

#[test]
fn a_query_whose_answer_is_lost_is_repeated_only_if_its_caller_allows_that() {
    with_database(4, |database| async move {
        set_up(&database).await;
        let make = "create function is_cut_at_first() returns int8 language plpgsql as $$
            begin
                if nextval('tries') < 2 then
                    perform pg_terminate_backend(pg_backend_pid());
                    perform pg_sleep(60);
                end if;
                return currval('tries');
            end $$";
        database.query(make, &[], LONG).await.unwrap();
        let (read, write) = (
            "select is_cut_at_first()",
            "insert into paid select from is_cut_at_first()",
        );
        let repeatable = database.repeatable();
        for (view, sql, is_repeated) in [
            (&database, read, false),
            (&database.read_only(), read, false),
            (&repeatable, write, false),
            (&repeatable, read, true),
        ] {
            let restart = "alter sequence tries restart";
            database.query(restart, &[], LONG).await.unwrap();
            let done = view.query(sql, &[], LONG).await;
            match done {
                Ok(output) => {
                    assert!(is_repeated, "{sql}");
                    assert_eq!(output.one().unwrap().get::<_, i64>(0), 2);
                }
                Err(Error::Lost { sent: true, .. }) => assert!(!is_repeated, "{sql}"),
                Err(error) => panic!("{sql}: {error}"),
            }
            let tries = count(&database, "select last_value from tries").await;
            assert_eq!(tries, 1 + i64::from(is_repeated), "{sql}");
        }
        assert_eq!(paid(&database).await, 0);
    });
}

#[test]
fn a_commit_succeeds_although_the_session_cannot_be_reset_after_it() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let owner = database(&cluster.url("postgres", ""), 2, &[]);
        let root = start(&system, &owner).await;
        set_up(&owner).await;
        for sql in [
            "create role clerk login",
            "grant insert on paid to clerk",
            "revoke execute on function pg_catalog.pg_advisory_unlock_all() from public",
        ] {
            owner.query(sql, &[], LONG).await.unwrap();
        }
        root.stop().await;

        let url = ServerUrl::Configured(cluster.url("clerk", ""));
        // The reset is a message of its own, or one with the commit.
        for statements_max in [256, 0] {
            let settings = PostgresConfig {
                statements_max,
                ..settings()
            };
            let connector = Connector::new(url.clone(), settings.clone());
            let clerk = Database::new("clerk", connector, settings, pool(2));
            let root = start(&system, &clerk).await;
            let options = TransactionOptions::within(LONG).retryable(3);
            let work = async |transaction: Arc<Transaction>| {
                let insert = "insert into paid default values";
                transaction.query(insert, &[]).await
            };
            let done = clerk.transaction::<_, Error, _, _>(options, work).await;
            assert!(done.is_ok(), "{done:?}");
            let rest = wait_until_unused(&clerk).await;
            assert_eq!(
                (rest.size, rest.opened),
                (0, 1),
                "nobody else gets the session"
            );
            root.stop().await;
        }

        let owner = database(&cluster.url("postgres", ""), 2, &[]);
        let root = start(&system, &owner).await;
        assert_eq!(paid(&owner).await, 2);
        root.stop().await;
    });
}

#[test]
fn a_commit_is_told_before_the_session_is_reset() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        // Nothing but this test ends the wait for the lock.
        let settings = PostgresConfig {
            lock_timeout: Duration::ZERO,
            statement_timeout: Duration::ZERO,
            ..settings()
        };
        let url = ServerUrl::Configured(cluster.url("postgres", ""));
        let connector = Connector::new(url, settings.clone());
        let database = Database::new("postgres", connector, settings, pool(3));
        let root = start(&system, &database).await;
        set_up(&database).await;

        // Another session holds a lock that the reset waits for: on a temporary table.
        let options = TransactionOptions::within(LONG);
        let transaction = database.begin(options.clone()).await.unwrap();
        let scratch = "create temp table scratch (n int8); commit; begin";
        transaction.batch(scratch).await.unwrap();
        let name = "select relnamespace::regnamespace || '.scratch'
                    from pg_class where relname = 'scratch'";
        let name = transaction.query(name, &[]).await.unwrap().one().unwrap();
        let name: String = name.get(0);
        let holder = database.begin(options).await.unwrap();
        let lock = format!("lock table {name} in access share mode");
        holder.batch(&lock).await.unwrap();

        let insert = "insert into paid default values";
        transaction.query(insert, &[]).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(paid(&database).await, 1);
        // Nobody else gets a session that is not reset.
        let open = eventually(async || {
            let status = status(&database).await;
            (status.in_use == 1).then_some(status.size)
        });
        assert_eq!(open.await, 2);
        holder.rollback().await.unwrap();
        root.stop().await;
    });
}

#[test]
fn a_commit_that_the_server_refuses_leaves_a_connection_for_the_next_user() {
    with_database(1, |database| async move {
        let make = "create table t (n int8 unique deferrable initially deferred)";
        database.query(make, &[], LONG).await.unwrap();
        for _ in 0..3 {
            let transaction = database
                .begin(TransactionOptions::within(LONG))
                .await
                .unwrap();
            let insert = "insert into t values (1), (1)";
            transaction.query(insert, &[]).await.unwrap();
            // A rollback alone would keep it.
            let lock = "select pg_advisory_lock(1)";
            transaction.query(lock, &[]).await.unwrap();
            let refused = transaction.commit().await.unwrap_err();
            assert_eq!(refused.sqlstate(), Some("23505"), "{refused}");
            let left = "select count(*) from pg_locks where locktype = 'advisory'";
            assert_eq!(count(&database, left).await, 0);
        }
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}
