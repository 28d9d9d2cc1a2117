use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;

use super::*;
use crate::kernel::testing::proxy::Fault;
use crate::postgres::TransactionOptions;

const LAG_MAX: Duration = Duration::from_secs(10);

const TABLE: &[Migration] = &[Migration {
    file: "V1__table",
    sql: "create table t (n int8)",
}];

/// Returns whether a replica ran it.
const ON_REPLICA: &str = "select pg_is_in_recovery()";

/// The database of a primary with replicas, and the database of the replicas.
fn with_replicas(primary: &str, replicas: &str, lag_max: Duration) -> (Database, Database) {
    add_replicas(&database(primary, 4, TABLE), replicas, lag_max)
}

fn add_replicas(primary: &Database, replicas: &str, lag_max: Duration) -> (Database, Database) {
    let connector = Connector::replicas(ServerUrl::Configured(replicas.to_owned()), settings());
    let pool = PoolConfig {
        circuit_failures: 1,
        ..pool(4)
    };
    let replicas = Database::new("postgres-replicas", connector, settings(), pool);
    let database = primary.clone().with_replicas(&replicas, lag_max);
    (database, replicas)
}

async fn start_both(system: &TestSystem, database: &Database, replicas: &Database) -> Root {
    let spec = SupervisorSpec::new("root")
        .child(database.child(None))
        .child(replicas.child(None));
    system.start(spec).await
}

async fn is_on_replica(database: &Database) -> bool {
    let row = database.read_only().query(ON_REPLICA, &[], LONG).await;
    row.unwrap().one().unwrap().get(0)
}

/// Waits until a replica serves reads.
async fn wait_for_replica(database: &Database) {
    eventually(async || is_on_replica(database).await.then_some(())).await;
}

async fn insert(database: &Database, n: i64) {
    let insert = "insert into t values ($1)";
    let inserted = database.query(insert, &[&n], LONG).await.unwrap();
    assert_eq!(inserted.rows_affected, 1);
}

#[test]
fn only_calls_that_are_marked_as_reading_go_to_a_replica() {
    let primary = Cluster::start(&[]);
    let replica = primary.replica(&["hot_standby=on"]);
    TestSystem::real_time(|system| async move {
        let (one, two) = (primary.url("postgres", ""), replica.url("postgres", ""));
        let (database, replicas) = with_replicas(&one, &two, LAG_MAX);
        let root = start_both(&system, &database, &replicas).await;
        wait_for_replica(&database).await;
        let calls = (0..100).map(|_| is_on_replica(&database));
        assert!(join_all(calls).await.into_iter().all(|by| by));
        let row = database
            .query(ON_REPLICA, &[], LONG)
            .await
            .unwrap()
            .one()
            .unwrap();
        assert!(!row.get::<_, bool>(0), "not marked");
        // An error of the statement itself: the primary, where both would succeed, does not run it.
        let fails = "select 1 / (1 - pg_is_in_recovery()::int4)";
        let failed = database.read_only().query(fails, &[], LONG).await;
        assert_eq!(failed.unwrap_err().sqlstate(), Some("22012"));
        let write = "insert into t values (1)";
        let refused = database.read_only().query(write, &[], LONG).await;
        assert!(refused.unwrap_err().is_read_only());
        assert_eq!(count(&database, "select count(*) from t").await, 0);
        // Transactions.
        let options = TransactionOptions::within(LONG);
        let transaction = database.read_only().begin(options.clone()).await.unwrap();
        let row = transaction
            .query(ON_REPLICA, &[])
            .await
            .unwrap()
            .one()
            .unwrap();
        assert!(row.get::<_, bool>(0));
        let refused = transaction.query(write, &[]).await.unwrap_err();
        assert!(refused.is_read_only());
        drop(transaction);
        let work = async |transaction: std::sync::Arc<crate::postgres::Transaction>| {
            Ok::<bool, Error>(transaction.query(ON_REPLICA, &[]).await?.one()?.get(0))
        };
        let by_replica = database.read_only().transaction(options, work).await;
        assert!(by_replica.unwrap());
        let info = replicas.server_info(LONG).await.unwrap().unwrap();
        assert!(info.in_recovery && info.replication_lag_seconds == Some(0.0));
        root.stop().await;
    });
}

#[test]
fn reads_see_all_that_is_older_than_the_bound() {
    const BOUND: Duration = Duration::from_millis(400);
    let primary = Cluster::start(&[]);
    let replica = primary.replica(&["hot_standby=on"]);
    TestSystem::real_time(|system| async move {
        let (one, two) = (primary.url("postgres", ""), replica.url("postgres", ""));
        let (database, replicas) = with_replicas(&one, &two, BOUND);
        let root = start_both(&system, &database, &replicas).await;
        let count = async |lag_max: Duration| -> (i64, bool) {
            let sql = "select count(*), pg_is_in_recovery() from t";
            let view = database.read_only().lag_max(lag_max);
            let row = view.query(sql, &[], LONG).await.unwrap().one().unwrap();
            (row.get(0), row.get(1))
        };
        wait_for_replica(&database).await;
        for round in 1..=2 {
            // A replica is not behind while nothing is written, however old the last write is.
            let pause = "select pg_wal_replay_pause()";
            replicas.query(pause, &[], LONG).await.unwrap();
            tokio::time::sleep(BOUND * 2).await;
            assert!(is_on_replica(&database).await);
            insert(&database, round).await;
            let written = Instant::now();
            let mut stale = 0;
            loop {
                let asked = written.elapsed();
                let (n, by_replica) = count(BOUND).await;
                if !by_replica {
                    assert_eq!(n, round);
                    break;
                }
                // Some time for the transfer from the primary to the replica.
                assert!(asked < BOUND + ms(250), "{n} {asked:?}");
                stale += 1;
            }
            println!("{stale} stale reads, the last within the bound");
            // The replica still serves callers with a larger bound.
            assert_eq!(count(LONG * 100).await, (round - 1, true));
            let resume = "select pg_wal_replay_resume()";
            replicas.query(resume, &[], LONG).await.unwrap();
            wait_for_replica(&database).await;
            assert_eq!(count(BOUND).await.0, round);
        }
        root.stop().await;
    });
}

#[test]
fn a_connection_stays_in_use_while_its_replica_says_how_recent_it_is() {
    let primary = Cluster::start(&[]);
    let replica = primary.replica(&["hot_standby=on"]);
    TestSystem::real_time(|system| async move {
        let (proxy, through) = replica.behind_proxy().await;
        let connector = Connector::replicas(ServerUrl::Configured(through), settings());
        let replicas = Database::new("postgres-replicas", connector, settings(), pool(1));
        let database = database(&primary.url("postgres", ""), 4, TABLE);
        let database = database.with_replicas(&replicas, LAG_MAX);
        let direct = Connector::replicas(
            ServerUrl::Configured(replica.url("postgres", "")),
            settings(),
        );
        let direct = Database::new("direct", direct, settings(), pool(1));
        let root = start_both(&system, &database, &replicas).await;
        let watching = start(&system, &direct).await;
        let now = "select (extract(epoch from clock_timestamp()) * 1000000)::int8";
        for is_shared in [true, false] {
            wait_for_replica(&database).await;
            wait_until_unused(&replicas).await;
            let asked = format!(
                "select count(*) from pg_stat_activity
                 where query like '%pg_control_checkpoint%' and pid <> pg_backend_pid()
                       and extract(epoch from query_start) * 1000000 > {}",
                count(&direct, now).await
            );
            // The question arrives, its answer does not.
            proxy.set_faults(Fault::Delay(LONG), Fault::None);
            let view = database.read_only().lag_max(Duration::ZERO);
            let reader = tokio::spawn(async move {
                if is_shared {
                    view.query("select 1", &[], LONG).await.map(drop)
                } else {
                    let options = TransactionOptions::within(LONG);
                    view.begin(options).await.map(drop)
                }
            });
            eventually(async || (count(&direct, &asked).await > 0).then_some(())).await;
            reader.abort();
            reader.await.ok();
            // The only connection is not free.
            let next = replicas.exclusive(ms(100)).await.map(drop);
            assert!(
                matches!(next, Err(Error::Checkout(_))),
                "shared: {is_shared}, {next:?}"
            );
            proxy.set_faults(Fault::None, Fault::None);
        }
        watching.stop().await;
        root.stop().await;
    });
}

#[test]
fn a_killed_replica_costs_no_read_and_is_used_again_when_it_is_back() {
    let primary = Cluster::start(&[]);
    let mut replica = primary.replica(&["hot_standby=on"]);
    TestSystem::real_time(|system| async move {
        let (one, two) = (primary.url("postgres", ""), replica.url("postgres", ""));
        let (database, replicas) = with_replicas(&one, &two, LAG_MAX);
        let root = start_both(&system, &database, &replicas).await;
        wait_for_replica(&database).await;
        let done = AtomicBool::new(false);
        let reader = async |_| {
            let (mut slowest, mut reads) = (Duration::ZERO, 0);
            while !done.load(Ordering::Acquire) {
                let asked = Instant::now();
                // Unwraps: none fails.
                is_on_replica(&database).await;
                slowest = slowest.max(asked.elapsed());
                reads += 1;
            }
            (slowest, reads)
        };
        let readers = join_all((0..10).map(reader));
        let change = async {
            tokio::time::sleep(ms(100)).await;
            replica.kill();
            let killed = Instant::now();
            eventually(async || (!is_on_replica(&database).await).then_some(())).await;
            let instead = killed.elapsed();
            tokio::time::sleep(ms(100)).await;
            replica.run();
            let back = Instant::now();
            wait_for_replica(&database).await;
            done.store(true, Ordering::Release);
            (instead, back.elapsed())
        };
        let (readers, (instead, back)) = tokio::join!(readers, change);
        let slowest = readers.iter().map(|(slowest, _)| *slowest).max().unwrap();
        let reads: u32 = readers.iter().map(|(_, reads)| reads).sum();
        println!("the primary after {instead:?}, the replica again {back:?} after its return");
        println!("{reads} reads, the slowest {slowest:?}");
        assert!(
            instead < ms(2000) && back < ms(4000),
            "{instead:?} {back:?}"
        );
        // Starting and stopping the servers blocks this thread for a while.
        root.stop().await;
    });
}

#[test]
fn a_promoted_replica_serves_no_reads() {
    let primary = Cluster::start(&[]);
    let replica = primary.replica(&["hot_standby=on"]);
    TestSystem::real_time(|system| async move {
        let (one, two) = (primary.url("postgres", ""), replica.url("postgres", ""));
        let (database, replicas) = with_replicas(&one, &two, LAG_MAX);
        let root = start_both(&system, &database, &replicas).await;
        wait_for_replica(&database).await;
        replica.promote();
        let port = format!("{}", primary.port());
        let sql = "select current_setting('port')";
        eventually(async || {
            let row = database.read_only().query(sql, &[], LONG).await;
            (row.unwrap().one().unwrap().get::<_, String>(0) == port).then_some(())
        })
        .await;
        // From then on the primary serves reads, and no connection is opened to the other server.
        let row = database.read_only().query(sql, &[], LONG).await;
        assert_eq!(row.unwrap().one().unwrap().get::<_, String>(0), port);
        eventually(async || (status(&replicas).await.size == 0).then_some(())).await;
        root.stop().await;
    });
}

#[test]
fn connections_are_spread_over_the_replicas() {
    let primary = Cluster::start(&[]);
    let first = primary.replica(&["hot_standby=on"]);
    let mut second = primary.replica(&["hot_standby=on"]);
    TestSystem::real_time(|system| async move {
        let url = url(&[&first.socket(), &second.socket()], "postgres", "");
        let (database, replicas) = with_replicas(&primary.url("postgres", ""), &url, LAG_MAX);
        let root = start_both(&system, &database, &replicas).await;
        wait_for_replica(&database).await;
        let all = [&first, &second].map(|replica| replica.port().to_string());
        // The lag of the second may not be known yet: then the primary serves.
        eventually(async || {
            let options = TransactionOptions::within(LONG);
            let mut held = Vec::new();
            let mut ports = std::collections::BTreeSet::new();
            for _ in 0..4 {
                let transaction = database.read_only().begin(options.clone()).await.unwrap();
                let sql = "select current_setting('port')";
                let row = transaction.query(sql, &[]).await.unwrap().one().unwrap();
                ports.insert(row.get::<_, String>(0));
                held.push(transaction);
            }
            all.iter().all(|port| ports.contains(port)).then_some(())
        })
        .await;
        second.stop();
        wait_for_replica(&database).await;
        root.stop().await;
    });
}

#[test]
fn a_replica_that_has_lost_its_primary_serves_no_read_beyond_the_bound() {
    const BOUND: Duration = Duration::from_secs(1);
    let primary = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let (proxy, _) = primary.behind_proxy().await;
        let port = proxy.address().port();
        let through =
            format!("primary_conninfo=host=127.0.0.1 port={port} user=postgres sslmode=disable");
        let replica = primary.replica(&["hot_standby=on", &through]);
        let (one, two) = (primary.url("postgres", ""), replica.url("postgres", ""));
        let (database, replicas) = with_replicas(&one, &two, BOUND);
        let root = start_both(&system, &database, &replicas).await;
        wait_for_replica(&database).await;
        // The connection stays open: the replica learns of nothing for a minute.
        proxy.set_faults(Fault::Blackhole, Fault::Blackhole);
        let parted = Instant::now();
        let (mut written, mut by_replica) = (Vec::new(), 0);
        while parted.elapsed() < BOUND * 3 {
            insert(&database, 1).await;
            written.push(Instant::now());
            let asked = Instant::now();
            let sql = "select count(*), pg_is_in_recovery() from t";
            let row = database
                .read_only()
                .query(sql, &[], LONG)
                .await
                .unwrap()
                .one()
                .unwrap();
            let old = written.iter().filter(|at| asked - **at > BOUND).count();
            let seen = usize::try_from(row.get::<_, i64>(0)).unwrap();
            assert!(
                seen >= old,
                "{seen} of {old} rows that are older than the bound"
            );
            by_replica += usize::from(row.get::<_, bool>(1));
            tokio::time::sleep(ms(2)).await;
        }
        println!("{by_replica} of {} reads on the replica", written.len());
        assert!(!is_on_replica(&database).await);
        // Other callers accept older data.
        let view = database.read_only().lag_max(LONG * 10);
        let row = view
            .query(ON_REPLICA, &[], LONG)
            .await
            .unwrap()
            .one()
            .unwrap();
        assert!(row.get::<_, bool>(0));
        proxy.set_faults(Fault::None, Fault::None);
        wait_for_replica(&database).await;
        root.stop().await;
    });
}

#[test]
fn a_replica_of_another_primary_serves_no_reads() {
    let old = Cluster::start(&[]);
    let promoted = old.replica(&["hot_standby=on"]);
    let stays = old.replica(&["hot_standby=on"]);
    TestSystem::real_time(|system| async move {
        promoted.promote();
        // The old primary goes on and writes more than the new one.
        let writer = database(&old.url("postgres", ""), 1, TABLE);
        let reader_of_stays =
            Connector::replicas(ServerUrl::Configured(stays.url("postgres", "")), settings());
        let reader = Database::new("reader", reader_of_stays, settings(), pool(1));
        let spec = SupervisorSpec::new("others")
            .child(writer.child(None))
            .child(reader.child(None));
        let others = system.start(spec).await;
        let many = "insert into t select * from generate_series(1, 100000)";
        writer.query(many, &[], LONG).await.unwrap();
        eventually(async || {
            let sql = "select count(*) from t";
            let row = reader.query(sql, &[], LONG).await.ok()?.one().unwrap();
            (row.get::<_, i64>(0) == 100_000).then_some(())
        })
        .await;
        let (one, two) = (promoted.url("postgres", ""), stays.url("postgres", ""));
        let (database, replicas) = with_replicas(&one, &two, LAG_MAX);
        let root = start_both(&system, &database, &replicas).await;
        insert(&database, 1).await;
        for _ in 0..20 {
            let row = database
                .read_only()
                .query("select count(*) from t", &[], LONG)
                .await;
            assert_eq!(row.unwrap().one().unwrap().get::<_, i64>(0), 1);
        }
        // The replica was asked each time that a reading was due.
        assert!(status(&replicas).await.checkouts >= 20);
        root.stop().await;
        others.stop().await;
    });
}

#[test]
fn a_role_without_any_right_reads_from_a_replica() {
    let primary = Cluster::start(&[]);
    let replica = primary.replica(&["hot_standby=on"]);
    TestSystem::real_time(|system| async move {
        let admin = database(&primary.url("postgres", ""), 1, &[]);
        let admins = start(&system, &admin).await;
        admin
            .query("create role plain login", &[], LONG)
            .await
            .unwrap();
        let plain = database(&primary.url("plain", ""), 2, &[]);
        let (database, replicas) = add_replicas(&plain, &replica.url("plain", ""), LAG_MAX);
        let root = start_both(&system, &database, &replicas).await;
        wait_for_replica(&database).await;
        root.stop().await;
        admins.stop().await;
    });
}

#[test]
fn reads_go_on_for_the_bound_while_the_primary_is_away() {
    const BOUND: Duration = Duration::from_secs(60);
    let mut primary = Cluster::start(&[]);
    let replica = primary.replica(&["hot_standby=on"]);
    TestSystem::real_time(|system| async move {
        let (one, two) = (primary.url("postgres", ""), replica.url("postgres", ""));
        let (database, replicas) = with_replicas(&one, &two, BOUND);
        let root = start_both(&system, &database, &replicas).await;
        wait_for_replica(&database).await;
        primary.stop();
        for _ in 0..20 {
            assert!(is_on_replica(&database).await);
            tokio::time::sleep(ms(50)).await;
        }
        root.stop().await;
    });
}
