//! How many connections a pool has, and when.

use std::sync::atomic::Ordering::SeqCst;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::{CloseReason, PoolConfig};
use super::double::{MB, RunningPool, closed, config, ms, secs};
use crate::kernel::pressure::{Level, Stage, channel};
use crate::kernel::testing::TestSystem;

#[test]
fn nothing_connects_before_the_first_checkout() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(5)).await;
        sleep(secs(60)).await;
        assert_eq!(pool.server.connects.load(SeqCst), 0);
        drop(pool.exclusive().await);
        assert_eq!(pool.server.connects.load(SeqCst), 1);
        pool.stop().await;
    });
}

/// HikariCP's spike test "Welcome to the jungle": 5 idle connections, 150 ms per connect, 50
/// requests of 2 ms at once. Pools that open a connection for each waiter end with 45.
#[test]
fn a_spike_of_short_requests_opens_no_connections() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(150)).await;
        pool.fill(5).await;
        let began = Instant::now();
        let requests = (0..50).map(|_| async {
            let lease = pool.exclusive().await;
            sleep(ms(2)).await;
            drop(lease);
        });
        join_all(requests).await;
        let took = began.elapsed();
        let status = pool.status().await;
        assert!(status.size <= 6 && status.opening == 0, "{status:?}");
        assert!(took <= ms(40), "{took:?}");
        pool.stop().await;
    });
}

#[test]
fn a_spike_of_long_requests_opens_all_connections() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(10)).await;
        pool.fill(5).await;
        let began = Instant::now();
        let requests = (0..50).map(|_| async {
            let lease = pool.exclusive().await;
            sleep(ms(500)).await;
            drop(lease);
        });
        join_all(requests).await;
        // Five connections take 5 s, thirty take a little over 1 s.
        let took = began.elapsed();
        assert!(took < ms(1200), "{took:?}");
        assert_eq!(pool.status().await.size, 30);
        pool.stop().await;
    });
}

#[test]
fn idle_connections_are_closed_down_to_the_minimum() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        let leases = join_all((0..20).map(|_| pool.exclusive())).await;
        assert_eq!(leases.len(), 20);
        drop(leases);
        pool.wait_for(|status| status.idle == status.size).await;
        sleep(secs(9 * 60)).await;
        assert!(pool.status().await.size >= 20);
        sleep(secs(2 * 60)).await;
        let status = pool.status().await;
        assert_eq!((status.size, status.idle), (5, 5));
        pool.stop().await;
    });
}

#[test]
fn lifetimes_of_connections_that_were_opened_together_end_at_different_times() {
    TestSystem::paused(|system| async move {
        let config = PoolConfig {
            idle_timeout: secs(3600 * 10),
            ..config()
        };
        let pool = RunningPool::start(&system, config, ms(1)).await;
        pool.fill(5).await;
        sleep(secs(27 * 60 - 1)).await;
        assert_eq!(pool.status().await.size, 5);
        let first = pool.wait_for(|status| status.size < 5).await;
        assert!(first.size >= 1, "all at once: {first:?}");
        sleep(secs(3 * 60 + 1)).await;
        let status = pool.status().await;
        assert_eq!(status.size, 0);
        assert_eq!(status.closed, closed(&[(CloseReason::Lifetime, 5)]));
        pool.stop().await;
    });
}

#[test]
fn a_connection_that_was_idle_for_long_is_checked_first() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        pool.fill(1).await;
        drop(pool.exclusive().await);
        assert_eq!(pool.server.checks.load(SeqCst), 0);
        sleep(secs(31)).await;
        let lease = pool.exclusive().await;
        assert_eq!((lease.number, pool.server.checks.load(SeqCst)), (0, 1));
        drop(lease);
        sleep(secs(31)).await;
        pool.server.fails_checks.store(true, SeqCst);
        let lease = pool.exclusive().await;
        assert_eq!(lease.number, 1, "the failed one was replaced");
        let status = pool.status().await;
        assert_eq!(status.closed, closed(&[(CloseReason::Check, 1)]));
        drop(lease);
        pool.stop().await;
    });
}

#[test]
fn memory_pressure_closes_idle_connections_below_the_minimum_and_reports_it() {
    TestSystem::paused(|system| async move {
        let (writer, reader) = channel();
        let pool = RunningPool::start_with_pressure(&system, config(), ms(1), Some(reader)).await;
        pool.fill(5).await;
        let used = pool.exclusive().await;
        let epoch = writer.publish(Level::Elevated, Some(Stage::Caches), 100 * MB);
        assert!(
            writer
                .acknowledgements(epoch, secs(1))
                .await
                .unwrap()
                .silent
                .is_empty()
        );
        assert_eq!(pool.status().await.size, 5);
        let epoch = writer.publish(Level::High, Some(Stage::Connections), 3 * MB - 1);
        let result = writer.acknowledgements(epoch, secs(1)).await.unwrap();
        assert!(result.silent.is_empty());
        let action = &result.received[0].actions[0];
        assert_eq!(
            (action.promised_bytes, action.gained_bytes()),
            (3 * MB, 3 * MB)
        );
        assert_eq!(pool.status().await.size, 2);
        // Connections in use stay.
        let epoch = writer.publish(Level::Critical, Some(Stage::Connections), 100 * MB);
        writer.acknowledgements(epoch, secs(1)).await.unwrap();
        let status = pool.status().await;
        assert_eq!((status.size, status.in_use), (1, 1));
        assert_eq!(status.closed, closed(&[(CloseReason::Pressure, 4)]));
        drop(used);
        pool.stop().await;
    });
}
