//! Those who wait: in order, bounded, and without a trace when they go.

use std::cell::RefCell;
use std::rc::Rc;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::super::{CheckoutError, Mode, PoolConfig, TimeoutCause};
use super::double::{RunningPool, config, ms, secs, single};
use crate::kernel::testing::TestSystem;

#[test]
fn who_came_first_is_served_first() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, single(), ms(1)).await;
        let order = Rc::new(RefCell::new(Vec::new()));
        let users = (0..40).map(|number| {
            let (running, order) = (&running, Rc::clone(&order));
            async move {
                let lease = running.own().await;
                order.borrow_mut().push(number);
                sleep(ms(1)).await;
                drop(lease);
            }
        });
        join_all(users).await;
        assert_eq!(*order.borrow(), (0..40).collect::<Vec<_>>());
        running.close().await;
    });
}

#[test]
fn one_who_wants_it_alone_is_not_starved_by_those_who_share() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, single(), ms(1)).await;
        let sharers = (0..4).map(|number| {
            let running = &running;
            async move {
                sleep(ms(number)).await;
                for _ in 0..1000 {
                    let lease = running.share().await;
                    sleep(ms(4)).await;
                    drop(lease);
                }
            }
        });
        let alone = async {
            sleep(ms(50)).await;
            let lease = running.take(Mode::Exclusive, ms(100)).await;
            assert!(lease.is_ok(), "{lease:?}");
        };
        tokio::join!(join_all(sharers), alone);
        running.close().await;
    });
}

#[test]
fn the_queue_is_bounded() {
    TestSystem::paused(|system| async move {
        let config = PoolConfig {
            waiting_max: 2,
            ..single()
        };
        let running = RunningPool::open(&system, config, ms(1)).await;
        let lease = running.own().await;
        let (first, second, third) = tokio::join!(
            running.take(Mode::Exclusive, secs(1)),
            running.take(Mode::Exclusive, secs(1)),
            async {
                let refused = running.take(Mode::Exclusive, secs(1)).await;
                drop(lease);
                refused.map(drop)
            }
        );
        assert!(
            matches!(third, Err(CheckoutError::Full { waiting: 2 })),
            "{third:?}"
        );
        // They hold it one after the other only if the first lets go: it is dropped here.
        assert!(first.is_ok());
        assert!(
            matches!(second, Err(CheckoutError::TimedOut { .. })),
            "{second:?}"
        );
        drop(first);
        let status = running.status().await;
        assert_eq!((status.refused, status.timed_out), (1, 1));
        running.close().await;
    });
}

#[test]
fn a_timeout_names_those_who_hold_the_connections() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, single(), ms(1)).await;
        let line = line!() + 1;
        let lease = running.own().await;
        let error = running.take(Mode::Exclusive, ms(500)).await.unwrap_err();
        let CheckoutError::TimedOut {
            cause: TimeoutCause::Busy { holders },
        } = &error
        else {
            panic!("{error:?}");
        };
        let place = &holders[0].place;
        assert!(
            place.ends_with(&format!("tests/waiting.rs:{line}")),
            "{place}"
        );
        drop(lease);
        running.close().await;
    });
}

#[test]
fn a_timeout_says_that_connecting_is_slow() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), secs(3)).await;
        let error = running.take(Mode::Exclusive, secs(1)).await.unwrap_err();
        let CheckoutError::TimedOut { cause } = &error else {
            panic!("{error:?}");
        };
        assert!(
            matches!(cause, TimeoutCause::SlowConnect { .. }),
            "{cause:?}"
        );
        // The connect outlives its caller, and is of use to the next.
        let status = running.until(|status| status.idle == 1).await;
        assert_eq!((status.opened, status.checkouts), (1, 0));
        running.close().await;
    });
}

#[test]
fn those_who_go_away_leave_nothing_behind() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, single(), ms(1)).await;
        let lease = running.own().await;
        for _ in 0..100 {
            let waiting = running.take(Mode::Exclusive, secs(100));
            assert!(timeout(ms(1), waiting).await.is_err());
        }
        let status = running.status().await;
        assert_eq!((status.waiting, status.size, status.opening), (0, 1, 0));
        drop(lease);
        // Also one who goes at the very moment in which it is served.
        for _ in 0..100 {
            let waiting = running.take(Mode::Exclusive, secs(100));
            drop(timeout(ms(0), waiting).await);
        }
        let status = running.until(|status| status.idle == 1).await;
        assert_eq!((status.waiting, status.in_use), (0, 0));
        drop(running.own().await);
        assert_eq!(running.pool.in_flight(), 0);
        running.close().await;
    });
}
