//! Waiters: their order, their bound, and how they give up.

use std::cell::RefCell;
use std::rc::Rc;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::super::{CheckoutError, ConnectErrorKind, Mode, PoolConfig, TimeoutCause};
use super::double::{RunningPool, config, ms, secs, single};
use crate::kernel::testing::TestSystem;

#[test]
fn waiters_are_served_in_the_order_of_their_arrival() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, single(), ms(1)).await;
        let order = Rc::new(RefCell::new(Vec::new()));
        let users = (0..40).map(|number| {
            let (pool, order) = (&pool, Rc::clone(&order));
            async move {
                let lease = pool.exclusive().await;
                order.borrow_mut().push(number);
                sleep(ms(1)).await;
                drop(lease);
            }
        });
        join_all(users).await;
        assert_eq!(*order.borrow(), (0..40).collect::<Vec<_>>());
        pool.stop().await;
    });
}

#[test]
fn shared_use_does_not_starve_exclusive_use() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, single(), ms(1)).await;
        let sharers = (0..4).map(|number| {
            let pool = &pool;
            async move {
                sleep(ms(number)).await;
                for _ in 0..1000 {
                    let lease = pool.shared().await;
                    sleep(ms(4)).await;
                    drop(lease);
                }
            }
        });
        let alone = async {
            sleep(ms(50)).await;
            let lease = pool.check_out(Mode::Exclusive, ms(100)).await;
            assert!(lease.is_ok(), "{lease:?}");
        };
        tokio::join!(join_all(sharers), alone);
        pool.stop().await;
    });
}

/// Callers share connections all the time, while others want some of their own and get them soon.
async fn use_both_ways(pool: &RunningPool) {
    let sharers = (0..40).map(|number| async move {
        sleep(ms(number % 7)).await;
        for _ in 0..1000 {
            let lease = pool.shared().await;
            sleep(ms(4)).await;
            drop(lease);
        }
    });
    let alone = async {
        for _ in 0..10 {
            sleep(ms(200)).await;
            let lease = pool.check_out(Mode::Exclusive, ms(100)).await;
            assert!(lease.is_ok(), "{lease:?}");
            sleep(ms(10)).await;
        }
    };
    tokio::join!(join_all(sharers), alone);
}

/// A server may allow fewer connections than the settings, for example those of one role.
#[test]
fn shared_use_does_not_starve_exclusive_use_where_the_server_allows_few_connections() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        pool.fill(4).await;
        pool.server.set_failure(Some(ConnectErrorKind::Refused));
        use_both_ways(&pool).await;
        pool.stop().await;
    });
}

#[test]
fn a_failed_connect_does_not_keep_a_pool_small() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        pool.fill(2).await;
        pool.server.set_failure(Some(ConnectErrorKind::Refused));
        let leases = (pool.exclusive().await, pool.exclusive().await);
        let third = pool.check_out(Mode::Exclusive, ms(20)).await;
        assert!(third.is_err());
        drop(leases);
        pool.server.set_failure(None);
        let sharers = (0..40).map(|_| {
            let pool = &pool;
            async move {
                for _ in 0..500 {
                    let lease = pool.shared().await;
                    let turn = lease.turn.lock().await;
                    sleep(ms(4)).await;
                    drop(turn);
                }
            }
        });
        join_all(sharers).await;
        let status = pool.status().await;
        assert!(status.size > 10, "{status:?}");
        pool.stop().await;
    });
}

#[test]
fn shared_use_does_not_starve_exclusive_use_beside_leases_that_are_kept() {
    TestSystem::paused(|system| async move {
        let config = PoolConfig {
            connections_max: 4,
            ..config()
        };
        let pool = RunningPool::start(&system, config, ms(1)).await;
        let kept = pool.exclusive().await;
        kept.keep();
        use_both_ways(&pool).await;
        drop(kept);
        pool.stop().await;
    });
}

#[test]
fn the_queue_is_bounded() {
    TestSystem::paused(|system| async move {
        let config = PoolConfig {
            waiting_max: 2,
            ..single()
        };
        let pool = RunningPool::start(&system, config, ms(1)).await;
        let lease = pool.exclusive().await;
        let (first, second, third) = tokio::join!(
            pool.check_out(Mode::Exclusive, secs(1)),
            pool.check_out(Mode::Exclusive, secs(1)),
            async {
                let refused = pool.check_out(Mode::Exclusive, secs(1)).await;
                drop(lease);
                refused.map(drop)
            }
        );
        assert!(
            matches!(third, Err(CheckoutError::Full { waiting: 2 })),
            "{third:?}"
        );
        // The first holds its lease until here, so the second timed out.
        assert!(first.is_ok());
        assert!(
            matches!(second, Err(CheckoutError::TimedOut { .. })),
            "{second:?}"
        );
        drop(first);
        let status = pool.status().await;
        assert_eq!((status.refused, status.timed_out), (1, 1));
        pool.stop().await;
    });
}

#[test]
fn a_timeout_names_the_holders_of_the_connections() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, single(), ms(1)).await;
        let line = line!() + 1;
        let lease = pool.exclusive().await;
        let error = pool.check_out(Mode::Exclusive, ms(500)).await.unwrap_err();
        let CheckoutError::TimedOut {
            cause: TimeoutCause::Busy { holders },
        } = &error
        else {
            panic!("{error:?}");
        };
        let place = &holders[0].place;
        let text = error.to_string();
        assert!(text.contains(&format!("in use by {place} (1)")), "{text}");
        assert!(
            place.ends_with(&format!("tests/waiting.rs:{line}")),
            "{place}"
        );
        drop(lease);
        pool.stop().await;
    });
}

#[test]
fn a_timeout_reports_a_slow_connect() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), secs(3)).await;
        let error = pool.check_out(Mode::Exclusive, secs(1)).await.unwrap_err();
        let CheckoutError::TimedOut { cause } = &error else {
            panic!("{error:?}");
        };
        assert!(
            matches!(cause, TimeoutCause::SlowConnect { .. }),
            "{cause:?}"
        );
        // The connect outlives its caller, and the next caller gets the connection.
        let status = pool.wait_for(|status| status.idle == 1).await;
        assert_eq!((status.opened, status.checkouts), (1, 0));
        pool.stop().await;
    });
}

#[test]
fn callers_that_give_up_leave_nothing_behind() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, single(), ms(1)).await;
        let lease = pool.exclusive().await;
        for _ in 0..100 {
            let waiting = pool.check_out(Mode::Exclusive, secs(100));
            assert!(timeout(ms(1), waiting).await.is_err());
        }
        let status = pool.status().await;
        assert_eq!((status.waiting, status.size, status.opening), (0, 1, 0));
        drop(lease);
        // A caller may also give up in the moment in which it is served.
        for _ in 0..100 {
            let waiting = pool.check_out(Mode::Exclusive, secs(100));
            drop(timeout(ms(0), waiting).await);
        }
        let status = pool.wait_for(|status| status.idle == 1).await;
        assert_eq!((status.waiting, status.in_use), (0, 0));
        drop(pool.exclusive().await);
        assert_eq!(pool.handle.in_flight(), 0);
        pool.stop().await;
    });
}
