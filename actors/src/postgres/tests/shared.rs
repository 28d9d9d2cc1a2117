//! Shared connections whose callers leave.

use super::*;

/// A statement that takes longer than its caller waits.
const SLOW: &str = "select pg_sleep(8)";

#[test]
fn slow_statements_without_callers_block_nobody_while_connections_are_free() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let pool = PoolConfig {
            shared_max: 4,
            shared_depth: 2,
            ..pool(30)
        };
        let url = cluster.url("postgres", "");
        let connector = Connector::new(ServerUrl::Configured(url.to_owned()), settings());
        let database = Database::new("postgres", connector, settings(), pool);
        let root = start(&system, &database).await;

        // Each of the four connections has a slow statement and one that waits behind it.
        let (mut slow, mut behind) = (Vec::new(), Vec::new());
        for pair in 1..=4 {
            slow.push(spawn(&database, SLOW, ms(1500)));
            in_flight(&database, 2 * pair - 1).await;
            behind.push(spawn(&database, "select 1", LONG));
            in_flight(&database, 2 * pair).await;
        }
        // The callers leave. Soon their connections get no new callers.
        for left in slow {
            assert!(left.await.unwrap().is_err());
        }
        let left = Instant::now();
        eventually(async || database.query("select 1", &[], ms(200)).await.ok()).await;
        assert!(left.elapsed() < ms(1000), "{:?}", left.elapsed());
        assert!(status(&database).await.shared_in_flight >= 8);
        assert_answers_at_once(&database).await;
        // After a while their connections are closed.
        in_flight(&database, 4).await;
        assert_answers_at_once(&database).await;
        for waiting in behind {
            assert!(waiting.await.unwrap().is_ok());
        }
        root.stop().await;
    });
}

#[test]
fn a_runtime_that_stops_leaves_no_connection_blocked() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let database = database(&cluster.url("postgres", ""), 1, &[]);
        let root = start(&system, &database).await;
        database.query("select 1", &[], LONG).await.unwrap();
        let caller = database.clone();
        let stopped = tokio::task::spawn_blocking(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async {
                caller.query(SLOW, &[], ms(100)).await.unwrap_err();
                // The connection is blocked meanwhile. Then the runtime stops.
                tokio::time::sleep(ms(300)).await;
            });
        });
        stopped.await.unwrap();
        in_flight(&database, 0).await;
        let both = [(); 2].map(|()| spawn(&database, "select 1", ms(1000)));
        in_flight(&database, 2).await;
        for left in both {
            left.abort();
        }
        root.stop().await;
    });
}

fn spawn(
    database: &Database,
    sql: &'static str,
    within: Duration,
) -> tokio::task::JoinHandle<Result<QueryOutput, Error>> {
    let database = database.clone();
    tokio::spawn(async move { database.query(sql, &[], within).await })
}

async fn assert_answers_at_once(database: &Database) {
    for _ in 0..20 {
        let answer = database.query("select 1", &[], ms(1000)).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
}

/// Waits until `count` leases on shared connections are out.
async fn in_flight(database: &Database, count: u32) {
    eventually(async || {
        let status = status(database).await;
        (status.shared_in_flight == count).then_some(())
    })
    .await;
}
