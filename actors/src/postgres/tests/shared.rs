//! Connections that many share, and callers that leave them.

use super::*;

/// How long the server works on a statement whose caller left.
const SLOW: &str = "select pg_sleep(8)";

#[test]
fn slow_statements_whose_callers_left_hold_up_nobody_while_connections_are_free() {
    let cluster = Cluster::start(&[]);
    Universe::real_time(|universe| async move {
        let pool = PoolConfig {
            shared_max: 4,
            shared_depth: 2,
            ..pool(30)
        };
        let url = cluster.url("postgres", "");
        let connector = Connector::new(Arc::new(ConfiguredUrl::new(url)), settings());
        let database = Database::new("postgres", connector, settings(), pool, &[]);
        let root = start(&universe, &database).await;

        // Each of the four has a slow statement, and one that waits behind it.
        let mut behind = Vec::new();
        for pair in 1..=4 {
            let slow = database.clone();
            let slow = tokio::spawn(async move { slow.query(SLOW, &[], ms(1500)).await });
            in_flight(&database, 2 * pair - 1).await;
            let waiting = database.clone();
            behind.push(tokio::spawn(async move {
                waiting.query("select 1", &[], LONG).await
            }));
            in_flight(&database, 2 * pair).await;
            drop(slow);
        }
        // The callers leave, and after a while nobody new gets their connections.
        in_flight(&database, 4).await;

        let asked = Instant::now();
        for _ in 0..20 {
            let answer = database.query("select 1", &[], ms(1000)).await;
            assert!(answer.is_ok(), "{answer:?} after {:?}", asked.elapsed());
        }
        for waiting in behind {
            assert!(waiting.await.unwrap().is_ok());
        }
        root.stop().await;
    });
}

/// Waits until `count` leases on shared connections are out.
async fn in_flight(database: &Database, count: u32) {
    eventually(async || {
        let status = status(database).await;
        (status.shared_in_flight == count).then_some(())
    })
    .await;
}
