//! How many connections there are, and when.

use std::sync::atomic::Ordering::SeqCst;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::{CloseReason, Mode, PoolConfig};
use super::double::{MB, RunningPool, closed, config, ms, secs};
use crate::kernel::pressure::{Level, Stage, channel};
use crate::kernel::testing::TestSystem;

#[test]
fn nothing_connects_before_the_first_checkout() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(5)).await;
        sleep(secs(60)).await;
        assert_eq!(running.server.connects.load(SeqCst), 0);
        drop(running.own().await);
        assert_eq!(running.server.connects.load(SeqCst), 1);
        running.close().await;
    });
}

/// HikariCP's "Welcome to the jungle": 5 idle connections, 150 ms to open one, 2 ms per request, 50
/// at once. Pools that open one for everybody who waits end with 45.
#[test]
fn a_spike_of_short_requests_opens_no_connections() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(150)).await;
        running.fill(5).await;
        let began = Instant::now();
        let requests = (0..50).map(|_| async {
            let lease = running.own().await;
            sleep(ms(2)).await;
            drop(lease);
        });
        join_all(requests).await;
        let took = began.elapsed();
        let status = running.status().await;
        assert!(status.size <= 6 && status.opening == 0, "{status:?}");
        assert!(took <= ms(40), "{took:?}");
        running.close().await;
    });
}

#[test]
fn a_spike_of_long_requests_opens_as_many_as_pay_off() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(10)).await;
        running.fill(5).await;
        let began = Instant::now();
        let requests = (0..50).map(|_| async {
            let lease = running.own().await;
            sleep(ms(500)).await;
            drop(lease);
        });
        join_all(requests).await;
        // Five connections would need 5 s, thirty a little over 1 s.
        let took = began.elapsed();
        assert!(took < ms(1200), "{took:?}");
        assert_eq!(running.status().await.size, 30);
        running.close().await;
    });
}

#[test]
fn idle_connections_are_closed_down_to_the_minimum() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(1)).await;
        let leases = join_all((0..20).map(|_| running.own())).await;
        assert_eq!(leases.len(), 20);
        drop(leases);
        running.until(|status| status.idle == status.size).await;
        sleep(secs(9 * 60)).await;
        assert!(running.status().await.size >= 20);
        sleep(secs(2 * 60)).await;
        let status = running.status().await;
        assert_eq!((status.size, status.idle), (5, 5));
        running.close().await;
    });
}

#[test]
fn lifetimes_end_apart_from_each_other() {
    TestSystem::paused(|system| async move {
        let config = PoolConfig {
            idle_timeout: secs(3600 * 10),
            ..config()
        };
        let running = RunningPool::open(&system, config, ms(1)).await;
        running.fill(5).await;
        sleep(secs(27 * 60 - 1)).await;
        assert_eq!(running.status().await.size, 5);
        let first = running.until(|status| status.size < 5).await;
        assert!(first.size >= 1, "all at once: {first:?}");
        sleep(secs(3 * 60 + 1)).await;
        let status = running.status().await;
        assert_eq!(status.size, 0);
        assert_eq!(status.closed, closed(&[(CloseReason::Lifetime, 5)]));
        running.close().await;
    });
}

#[test]
fn a_connection_that_was_idle_for_long_is_asked_first() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(1)).await;
        running.fill(1).await;
        drop(running.own().await);
        assert_eq!(running.server.checks.load(SeqCst), 0);
        sleep(secs(31)).await;
        let lease = running.own().await;
        assert_eq!((lease.number, running.server.checks.load(SeqCst)), (0, 1));
        drop(lease);
        sleep(secs(31)).await;
        running.server.unwell.store(true, SeqCst);
        let lease = running.own().await;
        assert_eq!(lease.number, 1, "the unwell one was replaced");
        let status = running.status().await;
        assert_eq!(status.closed, closed(&[(CloseReason::Check, 1)]));
        drop(lease);
        running.close().await;
    });
}

#[test]
fn memory_pressure_closes_idle_ones_below_the_minimum_and_says_so() {
    TestSystem::paused(|system| async move {
        let (writer, reader) = channel();
        let running = RunningPool::open_under(&system, config(), ms(1), Some(reader)).await;
        running.fill(5).await;
        let used = running.own().await;
        let epoch = writer.publish(Level::Elevated, Some(Stage::Caches), 100 * MB);
        assert!(
            writer
                .acknowledgements(epoch, secs(1))
                .await
                .unwrap()
                .1
                .is_empty()
        );
        assert_eq!(running.status().await.size, 5);
        let epoch = writer.publish(Level::High, Some(Stage::Connections), 3 * MB - 1);
        let (came, silent) = writer.acknowledgements(epoch, secs(1)).await.unwrap();
        assert!(silent.is_empty());
        let action = &came[0].actions[0];
        assert_eq!(
            (action.promised_bytes, action.gained_bytes()),
            (3 * MB, 3 * MB)
        );
        assert_eq!(running.status().await.size, 2);
        // What is in use stays.
        let epoch = writer.publish(Level::Critical, Some(Stage::Connections), 100 * MB);
        writer.acknowledgements(epoch, secs(1)).await.unwrap();
        let status = running.status().await;
        assert_eq!((status.size, status.in_use), (1, 1));
        assert_eq!(status.closed, closed(&[(CloseReason::Pressure, 4)]));
        drop(used);
        running.close().await;
    });
}

#[test]
fn sharing_spreads_over_few_connections_and_never_over_its_depth() {
    TestSystem::paused(|system| async move {
        let config = PoolConfig {
            shared_max: 2,
            shared_depth: 4,
            ..config()
        };
        let running = RunningPool::open(&system, config, ms(5)).await;
        let first = running.share().await;
        let second = running.share().await;
        assert_eq!(first.number, second.number);
        assert_eq!(running.status().await.size, 1);
        let mut leases = vec![first, second];
        for _ in 0..6 {
            leases.push(running.share().await);
            running.until(|status| status.opening == 0).await;
        }
        let on_first = leases.iter().filter(|lease| lease.number == 0).count();
        assert_eq!(on_first, 4, "{leases:?}");
        let status = running.status().await;
        assert_eq!((status.shared, status.shared_in_flight), (2, 8));
        assert!(
            running.take(Mode::Shared, ms(50)).await.is_err(),
            "all are full"
        );
        let alone = running.own().await;
        assert!(alone.number > 1, "a shared one is nobody's own");
        drop(alone);
        drop(leases.pop());
        drop(running.share().await);
        drop(leases);
        running.until(|status| status.idle == status.size).await;
        running.close().await;
    });
}
