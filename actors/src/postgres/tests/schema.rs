use super::*;
use crate::postgres::{MIGRATIONS, SchemaError};

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
            found: 2,
            supported: 1,
        }) = refused
        else {
            panic!("{refused}");
        };
        root.stop().await;
        let other = database(&url, 2, MIGRATIONS);
        let root = start(&system, &other).await;
        let refused = other
            .begin(crate::postgres::TransactionOptions::default())
            .await;
        let refused = refused
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(refused.contains("migration 1 (one)"), "{refused}");
        root.stop().await;
    });
}

#[test]
fn a_migration_that_fails_undoes_all() {
    const BAD: &[Migration] = &[
        Migration {
            file: "V1__one",
            sql: "create table one (n int8)",
        },
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
        }
        root.stop().await;
        let twice = database(&url, 2, GAP);
        let root = start(&system, &twice).await;
        let refused = twice.migrate(LONG).await.unwrap_err();
        let steps = matches!(refused, Error::Schema(SchemaError::Migrations(_)));
        assert!(steps, "{refused}");
        root.stop().await;
        let good = database(&url, 2, TWO);
        let root = start(&system, &good).await;
        assert_eq!(count(&good, "select count(*) from one").await, 1);
        root.stop().await;
    });
}

#[test]
fn the_first_call_creates_the_schema() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let database = database(&cluster.url("postgres", ""), 2, MIGRATIONS);
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
