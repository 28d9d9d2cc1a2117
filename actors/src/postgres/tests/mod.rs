//! Tests against real servers.

mod cluster;
mod copy;
mod custom_types;
mod failures;
mod listen;
mod losses;
mod own_tables;
mod pgbouncer;
mod pooler;
mod reach;
mod repeats;
mod replicas;
mod resets;
mod rows;
mod schema;
mod sessions;
mod shared;
mod stale;
mod statements;
mod tenants;
mod transactions;

use std::time::Duration;

use cluster::{Cluster, url};
use headroom_test_support::wait::wait_for_async;
use tokio::time::Instant;

use super::{
    Connector, Database, Error, METRICS, Migration, MigrationSet, PostgresConfig, QueryOutput,
};
use crate::kernel::pool::{PoolConfig, PoolStatus, Status};
use crate::kernel::private_server::ServerUrl;
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::counters::Counters;
use crate::kernel::{Backoff, Root, SupervisorSpec};

/// The metric that counts repeats.
const RETRIES: &str = "headroom_postgres_retries_total";

/// Longer than any step of these tests takes.
const LONG: Duration = Duration::from_secs(20);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn settings() -> PostgresConfig {
    PostgresConfig::default()
}

fn pool(connections_max: u32) -> PoolConfig {
    PoolConfig {
        connections_min: 1,
        connections_max,
        circuit_backoff: Backoff::try_new(ms(20), ms(200), LONG).unwrap(),
        ..PoolConfig::default()
    }
}

fn database(url: &str, connections_max: u32, migrations: &'static [Migration]) -> Database {
    let connector = Connector::new(ServerUrl::Configured(url.to_owned()), settings());
    let pool = pool(connections_max);
    let database = Database::new("postgres", connector, settings(), pool);
    match migrations {
        [] => database,
        migrations => database.with_migrations(MigrationSet {
            name: "headroom",
            migrations,
        }),
    }
}

async fn start(system: &TestSystem, database: &Database) -> Root {
    let spec = SupervisorSpec::new("root").child(database.child(None));
    system.start(spec).await
}

/// Creates the role `guarded`, whose password is `correct`.
async fn create_role_with_password(system: &TestSystem, cluster: &Cluster) {
    let admin = database(&cluster.url("postgres", ""), 1, &[]);
    let root = start(system, &admin).await;
    let create = "create role guarded login password 'correct'";
    admin.query(create, &[], LONG).await.unwrap();
    root.stop().await;
}

/// Runs `test` with a database on a server of its own, without migrations.
fn with_database<F: Future<Output = ()>>(connections_max: u32, test: impl FnOnce(Database) -> F) {
    with_pool(pool(connections_max), test);
}

/// Likewise, with a pool of the test's own.
fn with_pool<F: Future<Output = ()>>(pool: PoolConfig, test: impl FnOnce(Database) -> F) {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let url = ServerUrl::Configured(cluster.url("postgres", ""));
        let connector = Connector::new(url, settings());
        let database = Database::new("postgres", connector, settings(), pool);
        let root = start(&system, &database).await;
        test(database).await;
        root.stop().await;
    });
}

/// As [`with_database`], but callers are on other threads than the connections, as those of a server: the
/// driver may write a statement while its caller is still sending it.
fn with_callers_elsewhere<F: Future<Output = ()>>(
    connections_max: u32,
    test: impl FnOnce(Database) -> F + Send + 'static,
) {
    with_database(connections_max, |database| async move {
        let elsewhere = tokio::task::spawn_blocking(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(3).enable_all().build().unwrap();
            runtime.block_on(test(database));
        });
        elsewhere.await.unwrap();
    });
}

async fn status(database: &Database) -> PoolStatus {
    database.pool().ask(Status, LONG).await.unwrap()
}

async fn count(database: &Database, sql: &str) -> i64 {
    database
        .query(sql, &[], LONG)
        .await
        .unwrap()
        .one()
        .unwrap()
        .get(0)
}

/// Waits until no connection is in use.
async fn wait_until_unused(database: &Database) -> PoolStatus {
    eventually(async || {
        let status = status(database).await;
        (status.in_use == 0 && status.shared_in_flight == 0).then_some(status)
    })
    .await
}

/// Waits until `look` returns a value.
async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    wait_for_async(LONG, async || look().await.ok_or("no value")).await
}
