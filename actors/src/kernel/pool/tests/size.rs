//! How many connections there are, and when.

use std::sync::atomic::Ordering::SeqCst;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::{CloseReason, Mode, PoolConfig};
use super::double::{Bath, MB, closed, config, ms, secs};
use crate::kernel::pressure::{Level, Stage, channel};
use crate::kernel::testing::Universe;

#[test]
fn nothing_connects_before_the_first_checkout() {
    Universe::paused(|universe| async move {
        let bath = Bath::open(&universe, config(), ms(5)).await;
        sleep(secs(60)).await;
        assert_eq!(bath.server.connects.load(SeqCst), 0);
        drop(bath.own().await);
        assert_eq!(bath.server.connects.load(SeqCst), 1);
        bath.close().await;
    });
}

/// HikariCP's "Welcome to the jungle": 5 idle connections, 150 ms to open one, 2 ms per request, 50
/// at once. Pools that open one for everybody who waits end with 45.
#[test]
fn a_spike_of_short_requests_opens_no_connections() {
    Universe::paused(|universe| async move {
        let bath = Bath::open(&universe, config(), ms(150)).await;
        bath.fill(5).await;
        let began = Instant::now();
        let requests = (0..50).map(|_| async {
            let lease = bath.own().await;
            sleep(ms(2)).await;
            drop(lease);
        });
        join_all(requests).await;
        let took = began.elapsed();
        let status = bath.status().await;
        assert!(status.size <= 6 && status.opening == 0, "{status:?}");
        assert!(took <= ms(40), "{took:?}");
        bath.close().await;
    });
}

#[test]
fn a_spike_of_long_requests_opens_as_many_as_pay_off() {
    Universe::paused(|universe| async move {
        let bath = Bath::open(&universe, config(), ms(10)).await;
        bath.fill(5).await;
        let began = Instant::now();
        let requests = (0..50).map(|_| async {
            let lease = bath.own().await;
            sleep(ms(500)).await;
            drop(lease);
        });
        join_all(requests).await;
        // Five connections would need 5 s, thirty a little over 1 s.
        let took = began.elapsed();
        assert!(took < ms(1200), "{took:?}");
        assert_eq!(bath.status().await.size, 30);
        bath.close().await;
    });
}

#[test]
fn idle_connections_are_closed_down_to_the_minimum() {
    Universe::paused(|universe| async move {
        let bath = Bath::open(&universe, config(), ms(1)).await;
        let leases = join_all((0..20).map(|_| bath.own())).await;
        assert_eq!(leases.len(), 20);
        drop(leases);
        bath.until(|status| status.idle == status.size).await;
        sleep(secs(9 * 60)).await;
        assert!(bath.status().await.size >= 20);
        sleep(secs(2 * 60)).await;
        let status = bath.status().await;
        assert_eq!((status.size, status.idle), (5, 5));
        bath.close().await;
    });
}

#[test]
fn lifetimes_end_apart_from_each_other() {
    Universe::paused(|universe| async move {
        let config = PoolConfig {
            idle_timeout: secs(3600 * 10),
            ..config()
        };
        let bath = Bath::open(&universe, config, ms(1)).await;
        bath.fill(5).await;
        sleep(secs(27 * 60 - 1)).await;
        assert_eq!(bath.status().await.size, 5);
        let first = bath.until(|status| status.size < 5).await;
        assert!(first.size >= 1, "all at once: {first:?}");
        sleep(secs(3 * 60 + 1)).await;
        let status = bath.status().await;
        assert_eq!(status.size, 0);
        assert_eq!(status.closed, closed(&[(CloseReason::Lifetime, 5)]));
        bath.close().await;
    });
}

#[test]
fn a_connection_that_was_idle_for_long_is_asked_first() {
    Universe::paused(|universe| async move {
        let bath = Bath::open(&universe, config(), ms(1)).await;
        bath.fill(1).await;
        drop(bath.own().await);
        assert_eq!(bath.server.checks.load(SeqCst), 0);
        sleep(secs(31)).await;
        let lease = bath.own().await;
        assert_eq!((lease.number, bath.server.checks.load(SeqCst)), (0, 1));
        drop(lease);
        sleep(secs(31)).await;
        bath.server.unwell.store(true, SeqCst);
        let lease = bath.own().await;
        assert_eq!(lease.number, 1, "the unwell one was replaced");
        let status = bath.status().await;
        assert_eq!(status.closed, closed(&[(CloseReason::Check, 1)]));
        drop(lease);
        bath.close().await;
    });
}

#[test]
fn memory_pressure_closes_idle_ones_below_the_minimum_and_says_so() {
    Universe::paused(|universe| async move {
        let (writer, reader) = channel();
        let bath = Bath::open_under(&universe, config(), ms(1), Some(reader)).await;
        bath.fill(5).await;
        let used = bath.own().await;
        let epoch = writer.publish(Level::Elevated, Some(Stage::Caches), 100 * MB);
        assert!(
            writer
                .acknowledgements(epoch, secs(1))
                .await
                .unwrap()
                .1
                .is_empty()
        );
        assert_eq!(bath.status().await.size, 5);
        let epoch = writer.publish(Level::High, Some(Stage::Connections), 3 * MB - 1);
        let (came, silent) = writer.acknowledgements(epoch, secs(1)).await.unwrap();
        assert!(silent.is_empty());
        let action = &came[0].actions[0];
        assert_eq!(
            (action.promised_bytes, action.gained_bytes()),
            (3 * MB, 3 * MB)
        );
        assert_eq!(bath.status().await.size, 2);
        // What is in use stays.
        let epoch = writer.publish(Level::Critical, Some(Stage::Connections), 100 * MB);
        writer.acknowledgements(epoch, secs(1)).await.unwrap();
        let status = bath.status().await;
        assert_eq!((status.size, status.in_use), (1, 1));
        assert_eq!(status.closed, closed(&[(CloseReason::Pressure, 4)]));
        drop(used);
        bath.close().await;
    });
}

#[test]
fn sharing_spreads_over_few_connections_and_never_over_its_depth() {
    Universe::paused(|universe| async move {
        let config = PoolConfig {
            shared_max: 2,
            shared_depth: 4,
            ..config()
        };
        let bath = Bath::open(&universe, config, ms(5)).await;
        let first = bath.share().await;
        let second = bath.share().await;
        assert_eq!(first.number, second.number);
        assert_eq!(bath.status().await.size, 1);
        let mut leases = vec![first, second];
        for _ in 0..6 {
            leases.push(bath.share().await);
            bath.until(|status| status.opening == 0).await;
        }
        let on_first = leases.iter().filter(|lease| lease.number == 0).count();
        assert_eq!(on_first, 4, "{leases:?}");
        let status = bath.status().await;
        assert_eq!((status.shared, status.shared_in_flight), (2, 8));
        assert!(
            bath.take(Mode::Shared, ms(50)).await.is_err(),
            "all are full"
        );
        let alone = bath.own().await;
        assert!(alone.number > 1, "a shared one is nobody's own");
        drop(alone);
        drop(leases.pop());
        drop(bath.share().await);
        drop(leases);
        bath.until(|status| status.idle == status.size).await;
        bath.close().await;
    });
}
