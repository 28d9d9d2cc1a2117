//! How leases end, and what happens when they do not.

use std::panic::Location;
use std::sync::atomic::Ordering::SeqCst;

use tokio::time::{Instant, sleep};

use super::super::{CheckoutError, CloseReason, Mode, PoolConfig};
use super::double::{RunningPool, closed, config, ms, secs, single};
use crate::kernel::testing::TestSystem;

#[test]
fn no_caller_waits_for_a_clean_up_that_takes_longer_than_a_connect() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(10)).await;
        let lease = pool.exclusive().await;
        *pool.server.maintenance_takes.lock().unwrap() = secs(4);
        lease.mark_dirty();
        drop(lease);
        let asked = Instant::now();
        let next = pool.exclusive().await;
        assert_eq!(next.number, 1, "a new one");
        assert!(asked.elapsed() < ms(40), "{:?}", asked.elapsed());
        drop(next);
        pool.wait_for(|status| status.idle == 2).await;
        pool.stop().await;
    });
}

#[test]
fn a_dirty_connection_is_cleaned_before_the_next_lease() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, single(), ms(1)).await;
        let lease = pool.exclusive().await;
        lease.mark_dirty();
        lease.mark_clean();
        drop(lease);
        let lease = pool.exclusive().await;
        assert_eq!(pool.server.cleans.load(SeqCst), 0);
        lease.mark_dirty();
        drop(lease);
        let lease = pool.exclusive().await;
        assert_eq!((lease.number, pool.server.cleans.load(SeqCst)), (0, 1));
        // A connection that cannot be cleaned is closed.
        pool.server.fails_checks.store(true, SeqCst);
        lease.mark_dirty();
        drop(lease);
        let lease = pool.exclusive().await;
        assert_eq!(lease.number, 1);
        drop(lease);
        pool.stop().await;
    });
}

#[test]
fn a_thousand_abandoned_uses_cost_no_connection() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        for _ in 0..1000 {
            let user = async {
                let lease = pool.exclusive().await;
                lease.mark_dirty();
                sleep(secs(1)).await;
                lease.mark_clean();
            };
            // The user gives up half-way.
            drop(tokio::time::timeout(ms(5), user).await);
        }
        let status = pool.wait_for(|status| status.in_use == 0).await;
        assert_eq!((status.idle, status.leaks), (status.size, 0));
        assert_eq!(pool.server.cleans.load(SeqCst), 1000);
        pool.stop().await;
    });
}

#[test]
fn a_blocked_connection_gets_no_shared_users() {
    TestSystem::paused(|system| async move {
        let config = PoolConfig {
            connections_min: 1,
            connections_max: 3,
            shared_max: 1,
            shared_depth: 8,
            ..config()
        };
        let pool = RunningPool::start(&system, config, ms(1)).await;
        let first = pool.shared().await;
        first.is_blocked.store(true, SeqCst);
        let second = pool.shared().await;
        assert_eq!(second.number, 1);
        // The last connection is shared too.
        second.is_blocked.store(true, SeqCst);
        let third = pool.shared().await;
        assert_eq!(third.number, 2);
        third.is_blocked.store(true, SeqCst);
        assert!(pool.check_out(Mode::Shared, ms(50)).await.is_err());
        // A waiter gets the first connection that is not blocked any more.
        let waiting = pool.shared();
        let release = async {
            sleep(ms(5)).await;
            first.is_blocked.store(false, SeqCst);
            drop(first);
        };
        let (fourth, ()) = tokio::join!(waiting, release);
        assert_eq!(fourth.number, 0);
        drop((second, third, fourth));
        pool.stop().await;
    });
}

#[test]
fn a_connection_on_which_something_is_left_open_gets_no_further_user() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, single(), ms(1)).await;
        for (number, mode) in [Mode::Exclusive, Mode::Shared].into_iter().enumerate() {
            let lease = pool.check_out(mode, secs(10)).await.unwrap();
            assert_eq!(lease.number as usize, number, "{mode:?}");
            lease.is_open.store(true, SeqCst);
            drop(lease);
        }
        let lease = pool.exclusive().await;
        assert_eq!(lease.number, 2);
        // A reset closes it.
        lease.is_open.store(true, SeqCst);
        lease.mark_dirty();
        let connection = std::sync::Arc::clone(&lease);
        drop(lease);
        connection.is_open.store(false, SeqCst);
        assert_eq!(pool.exclusive().await.number, 2);
        pool.stop().await;
    });
}

#[test]
fn broken_connections_are_not_leased_again() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, single(), ms(1)).await;
        let lease = pool.exclusive().await;
        lease.mark_broken();
        lease.mark_clean();
        drop(lease);
        let lease = pool.exclusive().await;
        assert_eq!(lease.number, 1);
        lease.is_closed.store(true, SeqCst);
        drop(lease);
        drop(pool.shared().await);
        let first = pool.shared().await;
        let second = pool.shared().await;
        assert_eq!((first.number, second.number), (2, 2));
        first.mark_broken();
        drop(first);
        // The other lease stays valid, and no new one is granted.
        assert!(pool.check_out(Mode::Shared, ms(20)).await.is_err());
        drop(second);
        assert_eq!(pool.shared().await.number, 3);
        let status = pool.status().await;
        assert_eq!(status.closed, closed(&[(CloseReason::Broken, 3)]));
        pool.stop().await;
    });
}

#[test]
fn when_a_connection_is_lost_the_idle_ones_are_checked_at_once() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        pool.fill(4).await;
        sleep(secs(2)).await;
        // One of them has just been used, and proves nothing about those that were idle.
        let (lost, used) = (pool.exclusive().await, pool.exclusive().await);
        drop(used);
        pool.wait_for(|status| status.idle == 3).await;
        pool.server.fails_checks.store(true, SeqCst);
        *pool.server.maintenance_takes.lock().unwrap() = secs(1);
        lost.mark_broken();
        drop(lost);
        let began = Instant::now();
        let status = pool.wait_for(|status| status.size == 1).await;
        assert_eq!(began.elapsed().as_secs(), 1, "both at once");
        let expected = [(CloseReason::Broken, 1), (CloseReason::Check, 2)];
        assert_eq!(status.closed, closed(&expected));
        pool.stop().await;
    });
}

#[test]
fn a_connection_counts_until_the_server_has_let_go_of_it() {
    TestSystem::paused(|system| async move {
        let config = PoolConfig {
            connections_min: 1,
            connections_max: 4,
            ..config()
        };
        let pool = RunningPool::start(&system, config, ms(1)).await;
        *pool.server.retire_takes.lock().unwrap() = secs(1);
        // Each user leaves a connection behind that the server has for one more second.
        let began = Instant::now();
        let users = (0..12).map(|_| async {
            let lease = pool.exclusive().await;
            lease.mark_broken();
            began.elapsed()
        });
        let served = futures_util::future::join_all(users).await;
        assert_eq!(pool.server.held_max.load(SeqCst), 4);
        // Each is replaced as soon as the server has let go of it.
        assert!(served.iter().all(|at| *at < ms(2200)), "{served:?}");
        // A stop waits for them too.
        let server = std::sync::Arc::clone(&pool.server);
        pool.stop().await;
        assert_eq!(server.held.load(SeqCst), 0);
    });
}

#[test]
fn a_server_that_never_lets_go_keeps_no_place_for_ever() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, single(), ms(1)).await;
        *pool.server.retire_takes.lock().unwrap() = secs(3600);
        pool.exclusive().await.mark_broken();
        assert!(pool.check_out(Mode::Exclusive, secs(9)).await.is_err());
        let next = pool.check_out(Mode::Exclusive, secs(2)).await.unwrap();
        assert_eq!(next.number, 1);
        drop(next);
        pool.stop().await;
    });
}

#[test]
fn a_connection_that_closed_while_it_was_idle_is_not_leased() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, single(), ms(1)).await;
        let lease = pool.exclusive().await;
        let connection = std::sync::Arc::clone(&lease);
        drop(lease);
        pool.wait_for(|status| status.idle == 1).await;
        connection.is_closed.store(true, SeqCst);
        assert_eq!(pool.exclusive().await.number, 1);
        pool.stop().await;
    });
}

#[test]
fn a_lease_that_lasts_too_long_is_named_until_it_ends() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        let line = line!() + 1;
        let lease = pool.exclusive().await;
        sleep(secs(29)).await;
        assert!(pool.status().await.leaked.is_empty());
        sleep(secs(32)).await;
        let status = pool.status().await;
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
        let status = pool.wait_for(|status| status.in_use == 0).await;
        assert_eq!((status.leaks, status.leaked.len()), (1, 0));
        pool.stop().await;
    });
}

#[test]
fn a_lease_that_is_meant_to_last_is_neither_too_long_nor_an_example() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        let lease = pool.exclusive().await;
        lease.keep();
        sleep(secs(61)).await;
        let status = pool.status().await;
        assert_eq!((status.leaks, status.leaked.len()), (0, 0));
        drop(lease);
        let status = pool.wait_for(|status| status.in_use == 0).await;
        assert_eq!((status.leaks, status.usage.count), (0, 0));
        pool.stop().await;
    });
}

#[test]
fn a_stop_waits_for_leases_within_a_limit() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        let handle = pool.handle.clone();
        let lease = pool.exclusive().await;
        let began = Instant::now();
        let user = async {
            sleep(secs(2)).await;
            drop(lease);
        };
        tokio::join!(pool.stop(), user);
        assert_eq!(began.elapsed().as_secs(), 2);
        let refused = handle
            .check_out(Mode::Exclusive, Location::caller(), secs(1))
            .await;
        assert!(matches!(refused, Err(CheckoutError::Draining)));

        let pool = RunningPool::start(&system, config(), ms(1)).await;
        let lease = pool.exclusive().await;
        let began = Instant::now();
        pool.stop().await;
        assert_eq!(began.elapsed().as_secs(), 5);
        drop(lease);
    });
}
