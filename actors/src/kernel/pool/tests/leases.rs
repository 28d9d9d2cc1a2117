//! Leases: how they come back, and what if not.

use std::sync::atomic::Ordering::SeqCst;

use tokio::time::{Instant, sleep};

use super::super::{CheckoutError, CloseReason, Mode, PoolConfig};
use super::double::{RunningPool, closed, config, ms, secs, single};
use crate::kernel::testing::TestSystem;

#[test]
fn nobody_waits_for_a_clean_up_that_takes_longer_than_a_connect() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(10)).await;
        let lease = running.own().await;
        *running.server.tending_takes.lock().unwrap() = secs(4);
        lease.mark_dirty();
        drop(lease);
        let asked = Instant::now();
        let next = running.own().await;
        assert_eq!(next.number, 1, "a new one");
        assert!(asked.elapsed() < ms(40), "{:?}", asked.elapsed());
        drop(next);
        running.until(|status| status.idle == 2).await;
        running.close().await;
    });
}

#[test]
fn what_was_left_open_is_cleaned_before_the_next_user() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, single(), ms(1)).await;
        let lease = running.own().await;
        lease.mark_dirty();
        lease.mark_clean();
        drop(lease);
        let lease = running.own().await;
        assert_eq!(running.server.cleans.load(SeqCst), 0);
        lease.mark_dirty();
        drop(lease);
        let lease = running.own().await;
        assert_eq!((lease.number, running.server.cleans.load(SeqCst)), (0, 1));
        // What cannot be cleaned is closed.
        running.server.unwell.store(true, SeqCst);
        lease.mark_dirty();
        drop(lease);
        let lease = running.own().await;
        assert_eq!(lease.number, 1);
        drop(lease);
        running.close().await;
    });
}

#[test]
fn a_thousand_abandoned_uses_cost_no_connection() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(1)).await;
        for _ in 0..1000 {
            let user = async {
                let lease = running.own().await;
                lease.mark_dirty();
                sleep(secs(1)).await;
                lease.mark_clean();
            };
            // Given up half-way.
            drop(tokio::time::timeout(ms(5), user).await);
        }
        let status = running.until(|status| status.in_use == 0).await;
        assert_eq!((status.idle, status.leaks), (status.size, 0));
        assert_eq!(running.server.cleans.load(SeqCst), 1000);
        running.close().await;
    });
}

#[test]
fn those_who_share_get_no_connection_that_is_held_up() {
    TestSystem::paused(|system| async move {
        let config = PoolConfig {
            connections_min: 1,
            connections_max: 3,
            shared_max: 1,
            shared_depth: 8,
            ..config()
        };
        let running = RunningPool::open(&system, config, ms(1)).await;
        let first = running.share().await;
        first.held_up.store(true, SeqCst);
        let second = running.share().await;
        assert_eq!(second.number, 1);
        // The last one that is left is shared too.
        second.held_up.store(true, SeqCst);
        let third = running.share().await;
        assert_eq!(third.number, 2);
        third.held_up.store(true, SeqCst);
        assert!(running.take(Mode::Shared, ms(50)).await.is_err());
        // Whoever waits gets the first that is not held up any more.
        let waiting = running.share();
        let release = async {
            sleep(ms(5)).await;
            first.held_up.store(false, SeqCst);
            drop(first);
        };
        let (fourth, ()) = tokio::join!(waiting, release);
        assert_eq!(fourth.number, 0);
        drop((second, third, fourth));
        running.close().await;
    });
}

#[test]
fn broken_connections_are_not_given_out_again() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, single(), ms(1)).await;
        let lease = running.own().await;
        lease.mark_broken();
        lease.mark_clean();
        drop(lease);
        let lease = running.own().await;
        assert_eq!(lease.number, 1);
        lease.dead.store(true, SeqCst);
        drop(lease);
        let first = running.share().await;
        let second = running.share().await;
        assert_eq!((first.number, second.number), (2, 2));
        first.mark_broken();
        drop(first);
        // The other may end what it began; nobody new comes to it.
        assert!(running.take(Mode::Shared, ms(20)).await.is_err());
        drop(second);
        assert_eq!(running.share().await.number, 3);
        let status = running.status().await;
        assert_eq!(status.closed, closed(&[(CloseReason::Broken, 3)]));
        running.close().await;
    });
}

#[test]
fn what_died_while_it_was_idle_is_not_given_out() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, single(), ms(1)).await;
        let lease = running.own().await;
        let line = std::sync::Arc::clone(lease.connection());
        drop(lease);
        running.until(|status| status.idle == 1).await;
        line.dead.store(true, SeqCst);
        assert_eq!(running.own().await.number, 1);
        running.close().await;
    });
}

#[test]
fn who_keeps_a_connection_for_too_long_is_named_until_it_is_back() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(1)).await;
        let line = line!() + 1;
        let lease = running.own().await;
        sleep(secs(29)).await;
        assert!(running.status().await.leaked.is_empty());
        sleep(secs(32)).await;
        let status = running.status().await;
        assert_eq!(
            (status.leaks, status.leaked.len()),
            (1, 1),
            "once: {status:?}"
        );
        let leaked = &status.leaked[0];
        assert!(
            leaked.place.ends_with(&format!("tests/leases.rs:{line}")),
            "{leaked:?}"
        );
        assert!(leaked.since_seconds >= 60.0);
        drop(lease);
        let status = running.until(|status| status.in_use == 0).await;
        assert_eq!((status.leaks, status.leaked.len()), (1, 0));
        running.close().await;
    });
}

#[test]
fn a_stop_waits_for_leases_but_not_for_ever() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(1)).await;
        let pool = running.pool.clone();
        let lease = running.own().await;
        let began = Instant::now();
        let user = async {
            sleep(secs(2)).await;
            drop(lease);
        };
        tokio::join!(running.close(), user);
        assert_eq!(began.elapsed().as_secs(), 2);
        let refused = super::super::check_out(&pool, Mode::Exclusive, secs(1)).await;
        assert!(matches!(refused, Err(CheckoutError::Draining)));

        let running = RunningPool::open(&system, config(), ms(1)).await;
        let lease = running.own().await;
        let began = Instant::now();
        running.close().await;
        assert_eq!(began.elapsed().as_secs(), 5);
        drop(lease);
    });
}
