//! Shared use, with a server that answers the requests on a connection one after the other.

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::{Mode, PoolConfig};
use super::double::{RunningPool, config, ms, secs};
use crate::kernel::testing::TestSystem;

/// Sends one request that the server works on for `work`, and returns how long that took.
async fn request(pool: &RunningPool, mode: Mode, work: std::time::Duration) -> std::time::Duration {
    let asked = Instant::now();
    let lease = pool.check_out(mode, secs(60)).await.unwrap();
    let turn = lease.turn.lock().await;
    sleep(work).await;
    drop(turn);
    drop(lease);
    asked.elapsed()
}

/// The time within which the server answers nine of ten quick requests, while one of fifty is slow.
async fn quick_ones(system: &TestSystem, mode: Mode, callers: usize) -> std::time::Duration {
    let pool = RunningPool::start(system, config(), ms(5)).await;
    let callers = (0..callers).map(|caller| {
        let pool = &pool;
        async move {
            let mut took = Vec::new();
            for round in 0..100 {
                let is_slow = (caller * 7 + round) % 50 == 0;
                let work = if is_slow { ms(500) } else { ms(1) };
                let time = request(pool, mode, work).await;
                if !is_slow {
                    took.push(time);
                }
                sleep(ms(caller as u64 % 7)).await;
            }
            took
        }
    });
    let mut took = join_all(callers).await.concat();
    took.sort_unstable();
    pool.stop().await;
    took[took.len() * 9 / 10]
}

#[test]
fn a_few_slow_requests_do_not_hold_up_the_others() {
    TestSystem::paused(|system| async move {
        for callers in [5, 20, 40, 100] {
            let alone = quick_ones(&system, Mode::Exclusive, callers).await;
            let shared = quick_ones(&system, Mode::Shared, callers).await;
            assert!(
                shared <= alone.max(ms(3)) * 2,
                "{callers} callers: {shared:?}, on connections of their own {alone:?}"
            );
        }
    });
}

#[test]
fn callers_behind_a_slow_request_get_other_connections() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(5)).await;
        for is_warm in [false, true] {
            let slow = async {
                request(&pool, Mode::Shared, secs(6)).await;
            };
            let quick = async {
                sleep(ms(20)).await;
                let others = (0..10).map(|_| request(&pool, Mode::Shared, ms(1)));
                let took = join_all(others).await;
                let slowest = took.iter().max().unwrap();
                assert!(*slowest < ms(100), "{is_warm}: {took:?}");
            };
            tokio::join!(slow, quick);
            let status = pool.status().await;
            assert!((2..=8).contains(&status.size), "{status:?}");
        }
        pool.stop().await;
    });
}

#[test]
fn quick_requests_share_few_connections() {
    TestSystem::paused(|system| async move {
        let config = PoolConfig {
            connections_min: 1,
            shared_max: 2,
            shared_depth: 64,
            ..config()
        };
        let pool = RunningPool::start(&system, config, ms(5)).await;
        // The way to the server takes a millisecond, its work nothing.
        let callers = (0..60).map(|_| async {
            for _ in 0..100 {
                let lease = pool.shared().await;
                sleep(ms(1)).await;
                drop(lease);
            }
        });
        let began = Instant::now();
        join_all(callers).await;
        assert!(began.elapsed() < ms(400), "{:?}", began.elapsed());
        let status = pool.status().await;
        assert!(status.size <= 6, "{status:?}");
        pool.stop().await;
    });
}
