use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;

use super::*;
use crate::postgres::{MIGRATIONS, SchemaError, TransactionOptions, migrate};

const TWO: &[Migration] = &[
    Migration {
        file: "V1__one",
        sql: "select pg_sleep(0.2); create table one (n int8)",
    },
    Migration {
        file: "V2__two",
        sql: "create table two (n int8); insert into one values (1)",
    },
];

#[test]
fn concurrent_programs_migrate_once() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let url = cluster.url("postgres", "");
        let (left, right) = (database(&url, 2, TWO), database(&url, 2, TWO));
        let (one, two) = (start(&system, &left).await, start(&system, &right).await);
        let sql = "select (select count(*) from one) * 10 + count(*) from headroom.schema_history";
        let (left, right) = tokio::join!(count(&left, sql), count(&right, sql));
        assert_eq!((left, right), (12, 12));
        one.stop().await;
        two.stop().await;
    });
}

#[test]
fn a_migration_goes_on_when_its_caller_leaves() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let database = database(&cluster.url("postgres", ""), 2, TWO);
        let root = start(&system, &database).await;
        let answer = database.query("select 1", &[], ms(100)).await;
        assert!(
            matches!(answer, Err(Error::Deadline { sent: false })),
            "{answer:?}"
        );
        assert_eq!(count(&database, "select count(*) from one").await, 1);
        root.stop().await;
    });
}

#[test]
fn a_newer_or_changed_schema_is_refused() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let url = cluster.url("postgres", "");
        let newer = database(&url, 2, TWO);
        let root = start(&system, &newer).await;
        newer.migrate(LONG).await.unwrap();
        root.stop().await;
        let older = database(&url, 2, &TWO[..1]);
        let root = start(&system, &older).await;
        let refused = older.query("select 1", &[], LONG).await.unwrap_err();
        let Error::Schema(SchemaError::Newer {
            set: "headroom",
            found: 2,
            supported: 1,
        }) = refused
        else {
            panic!("{refused}");
        };
        root.stop().await;
        let other = database(&url, 2, MIGRATIONS.migrations);
        let root = start(&system, &other).await;
        let refused = other.begin(TransactionOptions::default()).await;
        let refused = refused
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(refused.contains("migration 1 (one)"), "{refused}");
        root.stop().await;
    });
}

#[test]
fn a_migration_that_fails_undoes_what_it_did_and_none_before_it() {
    const BAD: &[Migration] = &[
        TWO[0],
        Migration {
            file: "V2__two",
            sql: "create table two (n int8); select 1/0",
        },
    ];
    const GAP: &[Migration] = &[TWO[1], TWO[1]];
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let url = cluster.url("postgres", "");
        let bad = database(&url, 2, BAD);
        let root = start(&system, &bad).await;
        for _ in 0..2 {
            let refused = bad.migrate(LONG).await.unwrap_err();
            assert_eq!(refused.sqlstate(), Some("22012"), "{refused}");
            let names = refused
                .to_string()
                .contains("migration 2 (two) of the set headroom");
            assert!(names, "{refused}");
        }
        let plain = database(&url, 1, &[]);
        let there = start(&system, &plain).await;
        let tables =
            "select count(*) + count(to_regclass('two')) from headroom.schema_history, one";
        plain
            .query("insert into one values (7)", &[], LONG)
            .await
            .unwrap();
        assert_eq!(count(&plain, tables).await, 1);
        there.stop().await;
        root.stop().await;
        let twice = database(&url, 2, GAP);
        let root = start(&system, &twice).await;
        let refused = twice.migrate(LONG).await.unwrap_err();
        let steps = matches!(refused, Error::Schema(SchemaError::Migrations(_)));
        assert!(steps, "{refused}");
        root.stop().await;
        let good = database(&url, 2, TWO);
        let root = start(&system, &good).await;
        assert_eq!(count(&good, "select count(*) from one").await, 2);
        root.stop().await;
    });
}

#[test]
fn migrations_that_work_one_after_the_other_work_together() {
    // Those that PostgreSQL refuses before the commit of the one before them, and one that sets the search
    // path as a dump does.
    const ALL: &[Migration] = &[
        Migration {
            file: "V1__tables",
            sql: "select set_config('search_path', '', false);
                create type public.mood as enum ('good');
                create table public.a (m public.mood, id int8 primary key);
                create table public.b (a int8 references public.a deferrable initially deferred)",
        },
        Migration {
            file: "V2__value",
            sql: "alter type mood add value 'bad'",
        },
        Migration {
            file: "V3__rows",
            sql: "insert into a values ('bad', 1); savepoint s; insert into b values (1);
                rollback to s; insert into b values (1)",
        },
        Migration {
            file: "V4__column",
            sql: "alter table b add c int8",
        },
    ];
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        for applied in [1, ALL.len()] {
            let database = database(&cluster.url("postgres", ""), 2, &ALL[..applied]);
            let root = start(&system, &database).await;
            database.migrate(LONG).await.unwrap();
            let history = "select count(*) from headroom.schema_history";
            assert_eq!(count(&database, history).await, applied as i64);
            root.stop().await;
        }
    });
}

#[test]
fn a_migration_that_begins_or_ends_a_transaction_is_named() {
    const BEGINS: &[Migration] = &[Migration {
        file: "V1__whole",
        sql: "-- As a tool wrote it.\nbegin; create table one (n int8); commit",
    }];
    const ENDS: &[Migration] = &[Migration {
        file: "V1__end",
        sql: "create table one (n int8); commit",
    }];
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        for (migrations, told) in [
            (BEGINS, "1 (whole) of the set headroom begins a transaction"),
            (
                ENDS,
                "1 (end) of the set headroom has ended the transaction",
            ),
        ] {
            let database = database(&cluster.url("postgres", ""), 2, migrations);
            let root = start(&system, &database).await;
            let refused = database.migrate(LONG).await.unwrap_err();
            let refused = (refused.to_string(), refused);
            assert!(matches!(refused.1, Error::Schema(_)), "{}", refused.0);
            assert!(refused.0.contains(told), "{}", refused.0);
            root.stop().await;
        }
    });
}

/// A set named `name`, whose second migration is `sql`.
fn set_of_two(name: &'static str, sql: &'static str) -> MigrationSet {
    let table = Migration {
        file: "V1__table",
        sql: "create table if not exists t (n text)",
    };
    let second = Migration {
        file: "V2__second",
        sql,
    };
    MigrationSet {
        name,
        migrations: vec![table, second].leak(),
    }
}

#[test]
fn a_migration_that_has_ended_its_transaction_is_named_ever_after_and_not_run_again() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let database = database(&cluster.url("postgres", ""), 3, &[]);
        let root = start(&system, &database).await;
        for (name, sql) in [
            ("ends", "insert into t values ('ends'); commit"),
            (
                "begins_again",
                "insert into t values ('begins_again'); commit; begin",
            ),
            (
                "chains",
                "insert into t values ('chains'); commit and chain",
            ),
            (
                "fails_outside",
                "insert into t values ('fails_outside'); commit; select 1/0",
            ),
            (
                "fails_in_another",
                "insert into t values ('fails_in_another'); commit; begin; select 1/0",
            ),
        ] {
            let migrated = database.with_migrations(set_of_two(name, sql));
            for _ in 0..3 {
                let refused = migrated.query("select 1", &[], LONG).await.unwrap_err();
                let told = format!("2 (second) of the set {name} has ended the transaction");
                assert!(refused.to_string().contains(&told), "{name}: {refused}");
                assert!(matches!(refused, Error::Schema(_)), "{name}: {refused:?}");
            }
            let done = format!("select count(*) from t where n = '{name}'");
            assert_eq!(count(&database, &done).await, 1, "{name}");
            // The first one stays, and the second one is not recorded.
            let applied = format!("select sum(version)::int8 from {name}.schema_history");
            assert_eq!(count(&database, &applied).await, 1, "{name}");
        }
        root.stop().await;
    });
}

#[test]
fn the_first_call_creates_the_schema() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let database = database(&cluster.url("postgres", ""), 2, MIGRATIONS.migrations);
        let root = start(&system, &database).await;
        let put = "insert into headroom.instance (key, value) values ($1, $2)";
        let value = serde_json::json!({"a": 1});
        assert_eq!(
            database
                .query(put, &[&"id", &value], LONG)
                .await
                .unwrap()
                .rows_affected,
            1
        );
        assert_eq!(
            count(
                &database,
                "select (value->>'a')::int8 from headroom.instance"
            )
            .await,
            1
        );
        root.stop().await;
    });
}

#[test]
fn a_role_that_may_create_nothing_uses_a_schema_that_is_up_to_date() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let owner = database(&cluster.url("postgres", ""), 2, TWO);
        let root = start(&system, &owner).await;
        owner.migrate(LONG).await.unwrap();
        owner
            .query("create role reader login", &[], LONG)
            .await
            .unwrap();
        // Another program migrates at this time, or died doing so.
        let lock = owner
            .begin(TransactionOptions::within(LONG * 10))
            .await
            .unwrap();
        lock.query(migrate::LOCK, &[&MIGRATIONS.name])
            .await
            .unwrap();

        let reader = database(&cluster.url("reader", ""), 2, TWO);
        let readers = start(&system, &reader).await;
        let refused = reader.migrate(LONG).await.unwrap_err();
        assert_eq!(refused.sqlstate(), Some("42501"), "{refused}");
        for grant in [
            "grant usage on schema headroom to reader",
            "grant select on headroom.schema_history, one to reader",
        ] {
            owner.query(grant, &[], LONG).await.unwrap();
        }
        assert_eq!(count(&reader, "select count(*) from one").await, 1);
        lock.rollback().await.unwrap();
        readers.stop().await;
        root.stop().await;
    });
}

#[test]
fn a_role_that_owns_a_schema_needs_no_right_to_create_one() {
    const OWN: MigrationSet = MigrationSet {
        name: "own",
        migrations: &[Migration {
            file: "V1__table",
            sql: "create table own.t (n int8)",
        }],
    };
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let owner = database(&cluster.url("postgres", ""), 2, &[]);
        let root = start(&system, &owner).await;
        owner
            .query("create role plain login", &[], LONG)
            .await
            .unwrap();
        let schema = "create schema own authorization plain";
        owner.query(schema, &[], LONG).await.unwrap();
        let plain = database(&cluster.url("plain", ""), 2, &[]).with_migrations(OWN);
        let plains = start(&system, &plain).await;
        assert_eq!(count(&plain, "select count(*) from own.t").await, 0);
        plains.stop().await;
        root.stop().await;
    });
}

#[test]
fn two_sets_of_migrations_live_in_one_database_and_wait_for_nothing_of_each_other() {
    const UPLOADS: MigrationSet = MigrationSet {
        name: "uploads",
        migrations: &[Migration {
            file: "V1__waits",
            sql: "select pg_advisory_xact_lock(7); create table uploads.t (n int8)",
        }],
    };
    // A word that SQL reserves.
    const USER: MigrationSet = MigrationSet {
        name: "user",
        migrations: TWO,
    };
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let database = database(&cluster.url("postgres", ""), 4, &[]);
        let root = start(&system, &database).await;
        let held = database
            .begin(TransactionOptions::within(LONG * 10))
            .await
            .unwrap();
        held.query("select pg_advisory_xact_lock(7)", &[])
            .await
            .unwrap();
        let (uploads, user) = (
            database.with_migrations(UPLOADS),
            database.with_migrations(USER),
        );
        let (uploaded, ()) = tokio::join!(uploads.migrate(LONG), async {
            eventually(async || {
                let sql =
                    "select count(*) from pg_locks where locktype = 'advisory' and not granted";
                (count(&database, sql).await == 1).then_some(())
            })
            .await;
            user.migrate(LONG).await.unwrap();
            held.rollback().await.unwrap();
        });
        uploaded.unwrap();
        let sql = "select (select count(*) from uploads.schema_history) * 10
                   + (select count(*) from \"user\".schema_history)";
        assert_eq!(count(&database, sql).await, 12);
        let bad = database.with_migrations(MigrationSet {
            name: "pg_x",
            ..USER
        });
        let refused = bad.migrate(LONG).await.unwrap_err();
        let is_name = matches!(refused, Error::Schema(SchemaError::Migrations(_)));
        assert!(is_name, "{refused}");
        root.stop().await;
    });
}

/// Counts its runs in a sequence, which no rollback undoes, and waits for a lock.
const COUNTED: &[Migration] = &[Migration {
    file: "V1__counted",
    sql: "select nextval('runs'); select pg_advisory_xact_lock(7)",
}];

#[test]
fn all_who_wait_for_the_schema_wait_for_one_migration() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let database = database(&cluster.url("postgres", ""), 3, &[]);
        let root = start(&system, &database).await;
        database
            .query("create sequence runs", &[], LONG)
            .await
            .unwrap();
        let held = database
            .begin(TransactionOptions::within(LONG * 10))
            .await
            .unwrap();
        held.query("select pg_advisory_xact_lock(7)", &[])
            .await
            .unwrap();
        let migrated = database.with_migrations(MigrationSet {
            name: "headroom",
            migrations: COUNTED,
        });
        // Each leaves while others wait.
        let calls = (1..=20).map(|n| migrated.query("select 1", &[], ms(20 * n)));
        for answer in join_all(calls).await {
            let answer = answer.unwrap_err();
            assert!(
                matches!(answer, Error::Deadline { sent: false }),
                "{answer}"
            );
        }
        // One holds the lock, and one migration waits for it.
        assert_eq!(status(&database).await.in_use, 2);
        held.rollback().await.unwrap();
        migrated.migrate(LONG).await.unwrap();
        assert_eq!(count(&database, "select last_value from runs").await, 1);
        root.stop().await;
    });
}

#[test]
fn a_failed_migration_answers_all_who_wait_and_the_next_call_tries_again() {
    const FAILS: &[Migration] = &[Migration {
        file: "V1__fails",
        sql: "select nextval('runs'); select pg_advisory_xact_lock(7); create table taken (n int8)",
    }];
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let database = database(&cluster.url("postgres", ""), 4, &[]);
        let root = start(&system, &database).await;
        for sql in ["create sequence runs", "create table taken (n int8)"] {
            database.query(sql, &[], LONG).await.unwrap();
        }
        let held = database
            .begin(TransactionOptions::within(LONG * 10))
            .await
            .unwrap();
        held.query("select pg_advisory_xact_lock(7)", &[])
            .await
            .unwrap();
        let migrated = database.with_migrations(MigrationSet {
            name: "headroom",
            migrations: FAILS,
        });
        let asking = AtomicU32::new(0);
        let calls = (0..10).map(|_| async {
            asking.fetch_add(1, Ordering::Relaxed);
            migrated.query("select 1", &[], LONG).await
        });
        let (answers, ()) = tokio::join!(join_all(calls), async {
            eventually(async || (asking.load(Ordering::Relaxed) == 10).then_some(())).await;
            held.rollback().await.unwrap();
        });
        for answer in answers {
            assert_eq!(answer.unwrap_err().sqlstate(), Some("42P07"));
        }
        assert_eq!(count(&database, "select last_value from runs").await, 1);
        database.query("drop table taken", &[], LONG).await.unwrap();
        migrated.migrate(LONG).await.unwrap();
        assert_eq!(count(&database, "select last_value from runs").await, 2);
        root.stop().await;
    });
}
