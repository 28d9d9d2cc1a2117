//! Connections through a pooler in transaction mode.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use super::custom_types::{Mood, Place};
use super::pgbouncer::{Pgbouncer, SERVERS};
use super::*;
use crate::postgres::{Isolation, Row, Transaction, TransactionOptions};

/// More than the pooler has connections to the server.
const CALLERS: i64 = 40;

/// A database through a pooler.
fn pooled(url: &str, connections_max: u32) -> Database {
    let settings = PostgresConfig {
        statements_max: 0,
        lock_timeout: ms(7000),
        ..settings()
    };
    let connector = Connector::new(ServerUrl::Configured(url.to_owned()), settings.clone());
    Database::new("pooled", connector, settings, pool(connections_max))
}

/// Runs `test` with a database through a pooler, and with the same one without the pooler.
fn through_pgbouncer<F: Future<Output = ()>>(test: impl FnOnce(Database, Database) -> F) {
    let cluster = Cluster::start(&[]);
    let Some(pgbouncer) = Pgbouncer::start(&cluster, "") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let pooled = pooled(&pgbouncer.url(), 10);
        let direct = database(&cluster.url("postgres", ""), 2, &[]);
        let roots = (start(&system, &pooled).await, start(&system, &direct).await);
        test(pooled, direct).await;
        roots.0.stop().await;
        roots.1.stop().await;
    });
}

fn options() -> TransactionOptions {
    TransactionOptions::within(LONG)
}

/// What `sql` returns on each of the pooler's connections to the server.
async fn on_all_servers(database: &Database, sql: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut open = Vec::new();
    for _ in 0..SERVERS {
        let transaction = database.begin(options()).await.unwrap();
        rows.push(transaction.query(sql, &[]).await.unwrap().one().unwrap());
        open.push(transaction);
    }
    for transaction in open {
        transaction.rollback().await.unwrap();
    }
    rows
}

async fn batch(database: &Database, sql: &str) {
    let transaction = database.begin(options()).await.unwrap();
    transaction.batch(sql).await.unwrap();
    transaction.commit().await.unwrap();
}

#[test]
fn statements_of_many_callers_leave_nothing_prepared_behind_a_pooler() {
    through_pgbouncer(|database, server| async move {
        let create = "create type mood as enum ('sad', 'happy');
            create type place as (x int8, y int8);
            create table t (id int8, small int2, said text, yes bool, share float8, data bytea,
                            tags text[], mood mood, place place)";
        batch(&database, create).await;
        let insert = "insert into t values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning *";
        let callers = (0..CALLERS).map(async |caller| {
            for round in 0..20 {
                let (id, small) = (caller * 100 + round, i16::try_from(round).unwrap());
                let said = (round % 3 != 0).then(|| format!("it's {id}"));
                let (yes, share, data) = (round % 2 == 0, 0.5, vec![7_u8; 3]);
                let tags = vec!["a".to_owned(), format!("b{id}")];
                let mood = if yes { Mood::Happy } else { Mood::Sad };
                let place = Place { x: id, y: caller };
                let done = database
                    .query(
                        insert,
                        &[
                            &id, &small, &said, &yes, &share, &data, &tags, &mood, &place,
                        ],
                        LONG,
                    )
                    .await;
                let row = done.unwrap().one().unwrap();
                assert_eq!(row.get::<_, i64>(0), id);
                assert_eq!(row.get::<_, i16>(1), small);
                assert_eq!(row.get::<_, Option<String>>(2), said);
                assert_eq!((row.get::<_, bool>(3), row.get::<_, f64>(4)), (yes, share));
                assert_eq!(row.get::<_, Vec<u8>>(5), data);
                assert_eq!(row.get::<_, Vec<String>>(6), tags);
                assert_eq!(
                    (row.get::<_, Mood>(7), row.get::<_, Place>(8)),
                    (mood, place)
                );
                let again = "select said from t where id = $1 and mood = $2";
                let found = database.query(again, &[&id, &mood], LONG).await;
                let found = found.unwrap().one().unwrap();
                assert_eq!(found.get::<_, Option<String>>(0), said);
            }
        });
        join_all(callers).await;
        assert_eq!(count(&server, "select count(*) from t").await, CALLERS * 20);
        let prepared = "select count(*), current_setting('application_name'),
            current_setting('client_encoding') from pg_prepared_statements";
        for row in on_all_servers(&database, prepared).await {
            assert_eq!(row.get::<_, i64>(0), 0);
            let kept = (row.get::<_, String>(1), row.get::<_, String>(2));
            assert_eq!(kept, ("headroom".to_owned(), "UTF8".to_owned()));
        }
        let too_few = database.query(insert, &[&1_i64], LONG).await.unwrap_err();
        assert!(
            too_few
                .to_string()
                .contains("expected 9 parameters but got 1"),
            "{too_few}"
        );
    });
}

#[test]
fn statements_behind_a_pooler_follow_changes_of_the_schema() {
    use super::stale::{CHANGES, INSERT, MAKE, Mood};
    through_pgbouncer(|database, _| async move {
        batch(&database, MAKE).await;
        let insert = async |columns: usize| {
            let done = database.query(INSERT, &[&Mood("good")], LONG).await;
            assert_eq!(done.unwrap().one().unwrap().len(), columns);
        };
        let mut columns = 1;
        for change in CHANGES {
            join_all((0..12).map(|_| insert(columns))).await;
            batch(&database, change).await;
            columns += usize::from(change != CHANGES[0]);
            join_all((0..25).map(|_| insert(columns))).await;
        }
        // An answer of another form, to a statement that is still right.
        let select = "select n from u where n > $1::int4 and said <> $2";
        batch(
            &database,
            "create table u as select 1::int4 as n, 'x'::text as said",
        )
        .await;
        for change in ["select 1", "alter table u alter n type int8 using n + 5"] {
            batch(&database, change).await;
            for _ in 0..10 {
                let done = database.query(select, &[&0_i32, &"y"], LONG).await;
                let row = done.unwrap().one().unwrap();
                let read = row.try_get::<_, i32>(0).map(i64::from);
                let read = read.or_else(|_| row.try_get::<_, i64>(0)).unwrap();
                assert_eq!(read, if change == "select 1" { 1 } else { 6 });
            }
        }
    });
}

/// Gives `t` a column of a type that no statement was described with.
const NEW_TYPE: &str = "create type mood as enum ('sad', 'happy');
    alter table t add mood mood default 'happy'";

#[test]
fn a_column_of_a_new_type_holds_up_no_answer_behind_a_pooler() {
    const ROWS: usize = 5000;
    through_pgbouncer(|database, _| async move {
        // Much more than the driver reads ahead.
        let make = format!(
            "create table t as select n, repeat('x', 500) as said from generate_series(1, {ROWS}) n"
        );
        batch(&database, &make).await;
        let all = async || {
            let done = database.query("select * from t", &[], LONG).await;
            done.unwrap().rows
        };
        let mood = |rows: &[Row]| rows[ROWS - 1].get::<_, Mood>("mood");
        join_all((0..6).map(|_| all())).await;
        batch(&database, NEW_TYPE).await;
        let rows = all().await;
        assert_eq!(rows.len(), ROWS);
        let whole = |row: &Row| row.get::<_, String>("said").len() == 500;
        assert!(rows.iter().all(whole));
        // It has a type that the statement was not described with, but the next one was.
        rows[0].try_get::<_, Mood>("mood").unwrap_err();
        assert_eq!(mood(&all().await), Mood::Happy);
        for rows in join_all((0..6).map(|_| all())).await {
            assert_eq!(mood(&rows), Mood::Happy);
        }
        // The statement was described with a type that has gone: the server does not run it.
        let replace = "alter table t drop mood; drop type mood";
        batch(&database, &format!("{replace}; {NEW_TYPE}")).await;
        assert_eq!(mood(&all().await), Mood::Happy);
    });
}

#[test]
fn a_statement_is_told_as_done_although_nobody_may_ask_about_a_new_type_behind_a_pooler() {
    let cluster = Cluster::start(&[]);
    let Some(pgbouncer) = Pgbouncer::start(&cluster, "") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let admin = database(&cluster.url("postgres", ""), 1, &[]);
        let database = pooled(&pgbouncer.url_of("plain"), 1);
        let roots = (
            start(&system, &admin).await,
            start(&system, &database).await,
        );
        let make = "create role plain login; create table t (n int8); grant all on t to plain";
        batch(&admin, make).await;
        let insert = async |n: i64| {
            let sql = "insert into t values ($1) returning *";
            let done = database.query(sql, &[&n], LONG).await;
            done.map(|output| output.one().unwrap().get::<_, i64>(0))
        };
        let rows = async || count(&admin, "select count(*) from t").await;
        assert_eq!(insert(1).await.unwrap(), 1);
        let revoke = "revoke select on pg_type from public";
        batch(&admin, &format!("{NEW_TYPE}; {revoke}")).await;
        assert_eq!(insert(2).await.unwrap(), 2);
        assert_eq!(rows().await, 2);
        // From here on, the question comes before the statement.
        assert_eq!(insert(3).await.unwrap_err().sqlstate(), Some("42501"));
        assert_eq!(rows().await, 2);
        roots.0.stop().await;
        roots.1.stop().await;
    });
}

#[test]
fn transactions_of_many_callers_work_behind_a_pooler() {
    through_pgbouncer(|database, server| async move {
        batch(&database, "create table t (id int8, n int8); insert into t select g, 0 from generate_series(0, 3) g").await;
        let callers = (0..CALLERS).map(async |caller| {
            for round in 0..5 {
                let id = (caller + round) % 4;
                let retryable = TransactionOptions {
                    isolation: Isolation::Serializable,
                    ..options().retryable(1000)
                };
                let add = async |transaction: Arc<Transaction>| {
                    let n = transaction
                        .query("select n from t where id = $1", &[&id])
                        .await?;
                    let n: i64 = n.one()?.get(0);
                    let savepoint = transaction.savepoint().await?;
                    let update = "update t set n = $1 where id = $2";
                    transaction.query(update, &[&(n + 1), &id]).await?;
                    savepoint.release().await
                };
                database
                    .transaction::<_, Error, _, _>(retryable, add)
                    .await
                    .unwrap();
            }
        });
        join_all(callers).await;
        assert_eq!(
            count(&server, "select sum(n)::int8 from t").await,
            CALLERS * 5
        );
        let refused = database.begin(options()).await.unwrap();
        refused.query("select $1::int8", &[&1_i64]).await.unwrap();
        assert!(refused.query("select 1/0", &[]).await.is_err());
        assert!(matches!(refused.commit().await, Err(Error::Aborted)));
    });
}

/// A transaction that has taken a lock for the session.
async fn begin_with_lock(database: &Database) -> Transaction {
    let transaction = database.begin(options()).await.unwrap();
    let lock = "select pg_advisory_lock(7)";
    transaction.query(lock, &[]).await.unwrap();
    transaction
}

#[test]
fn nothing_that_a_transaction_sets_reaches_another_behind_a_pooler() {
    through_pgbouncer(|database, _| async move {
        batch(&database, "create table known (n int8)").await;
        let set = "set search_path to nowhere; set my.secret = 'x'; set role pg_monitor;
            set client_encoding = 'LATIN1'; set application_name = 'mine'; listen topic;
            create temporary table known (n int8); declare c cursor with hold for select 1";
        for ends_well in [true, false] {
            for _ in 0..SERVERS {
                let transaction = begin_with_lock(&database).await;
                let secret = "select set_config('my.other', 'x', false)";
                transaction.query(secret, &[]).await.unwrap();
                transaction.batch(set).await.unwrap();
                if ends_well {
                    transaction.commit().await.unwrap();
                } else {
                    transaction.rollback().await.unwrap();
                }
            }
            let seen = "select concat_ws('|', current_setting('search_path'),
                nullif(current_setting('my.secret', true), ''),
                nullif(current_setting('my.other', true), ''), current_user,
                current_setting('client_encoding'), current_setting('application_name'),
                (select count(*) from pg_listening_channels()), (select count(*) from pg_cursors where name = 'c'),
                (select count(*) from pg_locks where locktype = 'advisory'),
                'known'::regclass::oid = 'public.known'::regclass::oid)";
            for row in on_all_servers(&database, seen).await {
                let seen: String = row.get(0);
                assert_eq!(seen, "\"$user\", public|postgres|UTF8|headroom|0|0|0|t");
            }
        }
    });
}

#[test]
fn a_commit_that_a_constraint_refuses_leaves_no_lock_behind_a_pooler() {
    through_pgbouncer(|database, _| async move {
        let make = "create table t (n int8 unique deferrable initially deferred)";
        batch(&database, make).await;
        let locks = "select count(*) from pg_locks where locktype = 'advisory'";
        for _ in 0..SERVERS {
            let transaction = begin_with_lock(&database).await;
            let insert = "insert into t values (1), (1)";
            transaction.query(insert, &[]).await.unwrap();
            let refused = transaction.commit().await.unwrap_err();
            assert_eq!(refused.sqlstate(), Some("23505"));
            // The reset follows the answer to the commit.
            eventually(async || (count(&database, locks).await == 0).then_some(())).await;
        }
        assert_eq!(count(&database, "select count(*) from t").await, 0);
        let kept = wait_until_unused(&database).await;
        assert_eq!(u64::from(kept.size), kept.opened, "{kept:?}");
    });
}

/// What is deferred succeeds before the commit, and the server refuses the commit itself.
#[test]
fn a_commit_that_the_server_itself_refuses_is_undone_and_can_be_repeated_behind_a_pooler() {
    through_pgbouncer(|database, server| async move {
        let make = "create table t (n int8); create sequence fired;
            create function fire() returns trigger language plpgsql
                as $$ begin perform nextval('fired'); return null; end $$;
            create constraint trigger fire after insert on t deferrable initially deferred
                for each row execute function fire()";
        batch(&database, make).await;
        // Each reads what the other writes.
        let write = async || {
            let options = TransactionOptions {
                isolation: Isolation::Serializable,
                ..options()
            };
            let transaction = database.begin(options).await.unwrap();
            let insert = "insert into t select count(*) from t";
            transaction.query(insert, &[]).await.unwrap();
            let change = "set my.secret = 'x'; select pg_advisory_xact_lock_shared(7);
                select pg_advisory_lock_shared(8)";
            transaction.batch(change).await.unwrap();
            transaction
        };
        for round in 1..=i64::try_from(SERVERS).unwrap() {
            let (one, two) = (write().await, write().await);
            one.commit().await.unwrap();
            let refused = two.commit().await.unwrap_err();
            assert_eq!(refused.sqlstate(), Some("40001"), "{refused}");
            let fired = count(&server, "select last_value from fired").await;
            assert_eq!(fired, 3 * round - 1, "the trigger of both");
            write().await.commit().await.unwrap();
            assert_eq!(count(&server, "select count(*) from t").await, 2 * round);
            let seen = "select coalesce(current_setting('my.secret', true), '')";
            for row in on_all_servers(&database, seen).await {
                assert_eq!(row.get::<_, String>(0), "");
            }
            // A lock of the session stays until another transaction ends in the session: that has happened.
            let locks = "select count(*) from pg_locks where locktype = 'advisory'";
            assert_eq!(count(&server, locks).await, 0);
        }
        let kept = wait_until_unused(&database).await;
        assert_eq!(u64::from(kept.size), kept.opened, "{kept:?}");
    });
}

#[test]
fn limits_of_time_come_with_each_transaction_behind_a_pooler() {
    const SETTINGS: &str =
        "current_setting('statement_timeout') || ' ' || current_setting('lock_timeout')
         || ' ' || current_setting('idle_in_transaction_session_timeout')";
    through_pgbouncer(|database, _| async move {
        let select = format!("select {SETTINGS}");
        let single = database.query(&select, &[], ms(9900)).await.unwrap();
        let single: String = single.one().unwrap().get(0);
        let timeout = single.strip_suffix("ms 7s 0").map(|ms| ms.parse().unwrap());
        assert!(matches!(timeout, Some(1000..10_000)), "{single}");
        let transaction = database.begin(options()).await.unwrap();
        let within = transaction.query(&select, &[]).await.unwrap();
        let within: String = within.one().unwrap().get(0);
        assert!(
            within.ends_with("ms 7s 30s") && within.starts_with("20"),
            "{within}"
        );
        transaction.commit().await.unwrap();
        // No limit stays in the sessions: this statement brings none along.
        for round in 0..SERVERS {
            let create = format!("create table seen{round} as {select}");
            database.query(&create, &[], LONG).await.unwrap();
            let seen = format!("select * from seen{round}");
            let seen = database
                .query(&seen, &[], LONG)
                .await
                .unwrap()
                .one()
                .unwrap();
            assert_eq!(seen.get::<_, String>(0), "0 0 0");
        }
        // Such a statement may commit while it runs.
        let vacuum = database.query("vacuum seen0", &[], LONG).await;
        assert!(vacuum.is_ok(), "{vacuum:?}");
        let started = Instant::now();
        let late = database.query("select pg_sleep(60)", &[], ms(100)).await;
        assert!(
            matches!(late, Err(Error::Deadline { sent: true })),
            "{late:?}"
        );
        assert!(started.elapsed() < ms(2000));
    });
}

#[test]
fn what_is_cancelled_behind_a_pooler_costs_no_other_caller_anything() {
    through_pgbouncer(|database, server| async move {
        // Nothing but a request to cancel ends the second one.
        let sleeps = [
            "select pg_sleep(60)",
            "do $$begin perform pg_sleep(60); end$$",
        ];
        for round in 0..10 {
            let sleepers = (0..6).map(async |index| {
                let within = ms(20 + 15 * index);
                let sql = sleeps[usize::try_from(index).unwrap() % 2];
                let done = if index < 3 {
                    database.query(sql, &[], within).await
                } else {
                    let options = TransactionOptions::within(within);
                    match database.begin(options).await {
                        Ok(transaction) => transaction.query(sql, &[]).await,
                        Err(error) => Err(error),
                    }
                };
                let is_late = |error: &Error| {
                    matches!(
                        error,
                        Error::Deadline { .. } | Error::Checkout(_) | Error::Lost { .. }
                    )
                };
                assert!(done.as_ref().is_err_and(is_late), "{round}: {done:?}");
            });
            let others = (0..30).map(async |caller: i64| {
                let done = database.query("select $1::int8", &[&caller], LONG).await;
                let row = done
                    .unwrap_or_else(|error| panic!("{round}: {error}"))
                    .one()
                    .unwrap();
                assert_eq!(row.get::<_, i64>(0), caller);
                let transaction = database.begin(options()).await.unwrap();
                let done = transaction.query("select $1::int8 + 1", &[&caller]).await;
                let row = done
                    .unwrap_or_else(|error| panic!("{round}: {error}"))
                    .one()
                    .unwrap();
                assert_eq!(row.get::<_, i64>(0), caller + 1);
                transaction.commit().await.unwrap();
            });
            tokio::join!(join_all(sleepers), join_all(others));
        }
        let sleeping = "select count(*) from pg_stat_activity
            where state = 'active' and query ~ 'pg_sleep.60' and pid <> pg_backend_pid()";
        eventually(async || (count(&server, sleeping).await == 0).then_some(())).await;
        wait_until_unused(&database).await;
    });
}

#[test]
fn several_programs_migrate_one_schema_through_a_pooler() {
    const TWO: MigrationSet = MigrationSet {
        name: "two",
        migrations: &[
            Migration {
                file: "V1__table",
                sql: "create table t (n int8); set local search_path to pg_catalog",
            },
            Migration {
                file: "V2__row",
                sql: "insert into public.t values (1)",
            },
        ],
    };
    let cluster = Cluster::start(&[]);
    let Some(pgbouncer) = Pgbouncer::start(&cluster, "") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let mut roots = Vec::new();
        let mut programs = Vec::new();
        for _ in 0..8 {
            let program = pooled(&pgbouncer.url(), 2).with_migrations(TWO);
            roots.push(start(&system, &program).await);
            programs.push(program);
        }
        let counts = programs
            .iter()
            .map(|program| count(program, "select count(*) from t"));
        assert_eq!(join_all(counts).await, [1; 8]);
        let history = "select count(*) from two.schema_history";
        assert_eq!(count(&programs[0], history).await, 2);
        for root in roots {
            root.stop().await;
        }
    });
}

#[test]
fn rows_and_copies_work_behind_a_pooler_and_keep_none_of_its_connections() {
    through_pgbouncer(|database, server| async move {
        batch(&database, "create table t (n int8, said text)").await;
        let callers = (0..10).map(async |_| {
            let transaction = database.begin(options()).await.unwrap();
            let mut copy = transaction.copy_in("copy t from stdin").await.unwrap();
            copy.send(Bytes::from("1\tone\n2\ttwo\n")).await.unwrap();
            assert_eq!(copy.finish().await.unwrap(), 2);
            let sql = "select n from generate_series(1, $1::int8) n";
            let mut rows = transaction.rows(sql, &[&5000_i64]).await.unwrap();
            let mut last = 0;
            while let Some(row) = rows.next().await.unwrap() {
                last = row.get(0);
            }
            assert_eq!(last, 5000_i64);
            drop(rows);
            let out = "copy (select 7) to stdout";
            let mut copy = transaction.copy_out(out).await.unwrap();
            assert_eq!(copy.next().await.unwrap().unwrap(), "7\n");
            assert!(copy.next().await.unwrap().is_none());
            drop(copy);
            transaction.commit().await.unwrap();
            // The transaction's connection goes on.
            database
                .query("select $1::text", &[&"x"], LONG)
                .await
                .unwrap();
        });
        join_all(callers).await;
        assert_eq!(count(&server, "select count(*) from t").await, 20);
        assert_eq!(on_all_servers(&database, "select 1").await.len(), SERVERS);
        let given_up = database.begin(options()).await.unwrap();
        let copy = given_up.copy_in("copy t from stdin").await.unwrap();
        drop(copy);
        drop(given_up);
        assert_eq!(on_all_servers(&database, "select 1").await.len(), SERVERS);
    });
}

#[test]
fn what_needs_a_session_is_refused_behind_a_pooler() {
    through_pgbouncer(|database, _| async move {
        let session = database.exclusive(LONG).await.err().unwrap();
        let listener = database.listen(&["topic"], LONG).await.err().unwrap();
        for error in [session, listener] {
            assert!(matches!(error, Error::NeedsSession { .. }), "{error:?}");
            assert!(
                error.to_string().contains("(statements_max = 0)"),
                "{error}"
            );
        }
        assert_eq!(status(&database).await.size, 0, "it needed no connection");
    });
}

#[test]
fn errors_say_what_a_pooler_needs() {
    let cluster = Cluster::start(&[]);
    let Some(strict) = Pgbouncer::start(&cluster, "") else {
        return;
    };
    let lenient = Pgbouncer::start(&cluster, "ignore_startup_parameters = options").unwrap();
    TestSystem::real_time(|system| async move {
        for pgbouncer in [strict, lenient] {
            // The pooler has several connections from here on, and uses them in turn.
            let pooled = pooled(&pgbouncer.url(), 10);
            let root = start(&system, &pooled).await;
            on_all_servers(&pooled, "select 1").await;
            root.stop().await;
            let database = database(&pgbouncer.url(), 4, &[]);
            let root = start(&system, &database).await;
            let mut errors = 0;
            for _ in 0..20 {
                let done = database.query("select $1::int8", &[&1_i64], LONG).await;
                if let Err(error) = done {
                    errors += 1;
                    let text = error.to_string();
                    assert!(text.contains("statements_max"), "{text}");
                }
            }
            assert!(errors > 0);
            root.stop().await;
        }
    });
}
