//! Shared connections whose callers leave.

use super::*;

/// A statement that takes longer than its caller waits.
const SLOW: &str = "select pg_sleep(8)";

#[test]
fn nobody_waits_behind_a_slow_statement() {
    with_database(30, async |database| {
        let slow = spawn(&database, "select pg_sleep(6)", LONG);
        in_flight(&database, 1).await;
        let others = [(); 10].map(|()| spawn(&database, "select 1", ms(3000)));
        for other in others {
            let answer = other.await.unwrap();
            assert!(answer.is_ok(), "{answer:?}");
        }
        assert!(status(&database).await.size >= 2);
        // Neither behind one on a connection that was quick before, as soon as it is seen to be slow.
        let on_a_quick_one = spawn(&database, "select pg_sleep(6)", LONG);
        in_flight(&database, 2).await;
        let began = Instant::now();
        eventually(async || (began.elapsed() > ms(150)).then_some(())).await;
        let others = [(); 10].map(|()| spawn(&database, "select 1", ms(3000)));
        for other in others {
            let answer = other.await.unwrap();
            assert!(answer.is_ok(), "{answer:?}");
        }
        slow.abort();
        on_a_quick_one.abort();
    });
}

#[test]
fn slow_statements_without_callers_block_nobody_while_connections_are_free() {
    with_database(30, async |database| {
        // More of them than connections may have several users.
        let slow = [(); 6].map(|()| spawn(&database, SLOW, ms(1500)));
        in_flight(&database, 6).await;
        for left in slow {
            assert!(left.await.unwrap().is_err());
        }
        assert_answers_at_once(&database).await;
        // After a while their connections are closed.
        in_flight(&database, 0).await;
        assert_answers_at_once(&database).await;
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
        let next = spawn(&database, "select 1", ms(1000));
        in_flight(&database, 1).await;
        next.abort();
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
