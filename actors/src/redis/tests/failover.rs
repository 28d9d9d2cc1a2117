//! Failover by sentinels.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::{Redis, cmd, pipe};
use super::network::{SentinelSetup, at_sentinels, eventually};
use super::server::{RunningPool, SECOND};
use crate::kernel::testing::TestSystem;

/// Writes a number and waits until `replicas` have it. Returns how many have it. `WAIT` blocks the whole
/// connection, so 0 is passed while the server has no replica.
async fn write(redis: &Redis, number: u64, replicas: u32, within: Duration) -> Option<u32> {
    let mut both = pipe();
    both.cmd("SADD").arg("numbers").arg(number).ignore();
    both.cmd("WAIT").arg(replicas).arg(100);
    let answer = redis.pipeline::<(u32,)>(&both, within).await;
    answer.ok().map(|(replicas,)| replicas)
}

/// A primary with a replica and sentinels, and a pool that finds the primary through the sentinels.
async fn start(system: &TestSystem) -> (SentinelSetup, RunningPool) {
    let watched = SentinelSetup::start().await;
    let running = RunningPool::at(system, at_sentinels(watched.nodes())).await;
    running.until_up().await;
    (watched, running)
}

#[test]
fn a_killed_primary_is_left_for_the_promoted_replica_without_a_lost_write() {
    TestSystem::real_time(|system| async move {
        let (mut watched, running) = start(&system).await;
        let redis = &running.redis;
        let within = SECOND;
        // A new replica does not acknowledge writes in its first second.
        eventually("the replica confirms", async || {
            matches!(write(redis, 0, 1, within).await, Some(1..))
        })
        .await;
        let end = Instant::now() + 20 * SECOND;
        let (is_killed, is_back) = (Cell::new(false), Cell::new(false));
        let writers = (0..20u64).map(async |writer| {
            let mut acknowledged = Vec::new();
            for number in (writer * 1_000_000).. {
                let began = Instant::now();
                if is_back.get() || began > end {
                    break;
                }
                let replicas = u32::from(!is_killed.get());
                match write(redis, number, replicas, within).await {
                    Some(1..) => acknowledged.push(number),
                    Some(0) => {}
                    None => sleep(Duration::from_millis(5)).await,
                }
                let took = began.elapsed();
                assert!(took < within + SECOND, "hung for {took:?}");
            }
            acknowledged
        });
        let trouble = async {
            sleep(SECOND / 2).await;
            watched.primary.kill();
            is_killed.set(true);
            let killed = Instant::now();
            let port = watched.replica.port().to_string();
            eventually("that a sentinel says so", async || {
                watched.sentinels.iter().any(|sentinel| {
                    let asked = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"];
                    sentinel.ask(&asked).ends_with(&port)
                })
            })
            .await;
            let named = Instant::now();
            eventually("a write", async || {
                let mut write = cmd("SET");
                write.arg("back").arg(1);
                redis.command::<()>(&write, SECOND / 5).await.is_ok()
            })
            .await;
            is_back.set(true);
            (named.duration_since(killed), named.elapsed())
        };
        let (acknowledged, (named, after)) = tokio::join!(join_all(writers), trouble);
        let acknowledged = acknowledged.concat();
        println!(
            "{} acknowledged; another was named {named:?} after the kill, writes resumed {after:?} later",
            acknowledged.len()
        );
        assert!(after < 3 * SECOND, "{after:?}");
        assert!(acknowledged.len() > 100, "{}", acknowledged.len());
        assert_eq!(watched.replica.ask(&["GET", "back"]), "1");
        for numbers in acknowledged.chunks(1000) {
            let mut there = cmd("SMISMEMBER");
            let there: Vec<bool> = redis
                .command(there.arg("numbers").arg(numbers), SECOND)
                .await
                .unwrap();
            assert!(there.iter().all(|it| *it), "an acknowledged write is lost");
        }
        // The old primary is back as a replica and gets no writes.
        watched.primary.run().await;
        watched
            .primary
            .until(&["INFO", "replication"], "role:slave")
            .await;
        let mut set = cmd("SET");
        redis
            .command::<()>(set.arg("later").arg(1), SECOND)
            .await
            .unwrap();
        assert_eq!(watched.replica.ask(&["GET", "later"]), "1");
        running.close().await;
    });
}

#[test]
fn a_primary_that_became_a_replica_is_left_and_dead_sentinels_are_skipped() {
    TestSystem::real_time(|system| async move {
        let (mut watched, running) = start(&system).await;
        let asked = watched.sentinels[2].ask(&["SENTINEL", "FAILOVER", "main"]);
        assert_eq!(asked, "OK");
        watched
            .primary
            .until(&["INFO", "replication"], "role:slave")
            .await;
        watched.sentinels[0].kill();
        let began = Instant::now();
        let redis = &running.redis;
        eventually("a write", async || {
            let mut set = cmd("SET");
            redis
                .command::<()>(set.arg("key").arg("new"), SECOND)
                .await
                .is_ok()
        })
        .await;
        println!(
            "writes resumed {:?} after the change of roles",
            began.elapsed()
        );
        assert_eq!(watched.replica.ask(&["GET", "key"]), "new");
        running.close().await;
    });
}
