//! Those who wait: in order, bounded, and without a trace when they go.

use std::cell::RefCell;
use std::rc::Rc;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::super::{CheckoutError, Mode, PoolConfig, TimeoutCause};
use super::double::{Bath, config, ms, secs, single};
use crate::kernel::testing::Universe;

#[test]
fn who_came_first_is_served_first() {
    Universe::paused(|universe| async move {
        let bath = Bath::open(&universe, single(), ms(1)).await;
        let order = Rc::new(RefCell::new(Vec::new()));
        let users = (0..40).map(|number| {
            let (bath, order) = (&bath, Rc::clone(&order));
            async move {
                let lease = bath.own().await;
                order.borrow_mut().push(number);
                sleep(ms(1)).await;
                drop(lease);
            }
        });
        join_all(users).await;
        assert_eq!(*order.borrow(), (0..40).collect::<Vec<_>>());
        bath.close().await;
    });
}

#[test]
fn one_who_wants_it_alone_is_not_starved_by_those_who_share() {
    Universe::paused(|universe| async move {
        let bath = Bath::open(&universe, single(), ms(1)).await;
        let sharers = (0..4).map(|number| {
            let bath = &bath;
            async move {
                sleep(ms(number)).await;
                for _ in 0..1000 {
                    let lease = bath.share().await;
                    sleep(ms(4)).await;
                    drop(lease);
                }
            }
        });
        let alone = async {
            sleep(ms(50)).await;
            let lease = bath.take(Mode::Exclusive, ms(100)).await;
            assert!(lease.is_ok(), "{lease:?}");
        };
        tokio::join!(join_all(sharers), alone);
        bath.close().await;
    });
}

#[test]
fn the_queue_is_bounded() {
    Universe::paused(|universe| async move {
        let config = PoolConfig {
            waiting_max: 2,
            ..single()
        };
        let bath = Bath::open(&universe, config, ms(1)).await;
        let lease = bath.own().await;
        let (first, second, third) = tokio::join!(
            bath.take(Mode::Exclusive, secs(1)),
            bath.take(Mode::Exclusive, secs(1)),
            async {
                let refused = bath.take(Mode::Exclusive, secs(1)).await;
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
        let status = bath.status().await;
        assert_eq!((status.refused, status.timed_out), (1, 1));
        bath.close().await;
    });
}

#[test]
fn a_timeout_names_those_who_hold_the_connections() {
    Universe::paused(|universe| async move {
        let bath = Bath::open(&universe, single(), ms(1)).await;
        let line = line!() + 1;
        let lease = bath.own().await;
        let error = bath.take(Mode::Exclusive, ms(500)).await.unwrap_err();
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
        bath.close().await;
    });
}

#[test]
fn a_timeout_says_that_connecting_is_slow() {
    Universe::paused(|universe| async move {
        let bath = Bath::open(&universe, config(), secs(3)).await;
        let error = bath.take(Mode::Exclusive, secs(1)).await.unwrap_err();
        let CheckoutError::TimedOut { cause } = &error else {
            panic!("{error:?}");
        };
        assert!(
            matches!(cause, TimeoutCause::SlowConnect { .. }),
            "{cause:?}"
        );
        // The connect outlives its caller, and is of use to the next.
        let status = bath.until(|status| status.idle == 1).await;
        assert_eq!((status.opened, status.checkouts), (1, 0));
        bath.close().await;
    });
}

#[test]
fn those_who_go_away_leave_nothing_behind() {
    Universe::paused(|universe| async move {
        let bath = Bath::open(&universe, single(), ms(1)).await;
        let lease = bath.own().await;
        for _ in 0..100 {
            let waiting = bath.take(Mode::Exclusive, secs(100));
            assert!(timeout(ms(1), waiting).await.is_err());
        }
        let status = bath.status().await;
        assert_eq!((status.waiting, status.size, status.opening), (0, 1, 0));
        drop(lease);
        // Also one who goes at the very moment in which it is served.
        for _ in 0..100 {
            let waiting = bath.take(Mode::Exclusive, secs(100));
            drop(timeout(ms(0), waiting).await);
        }
        let status = bath.until(|status| status.idle == 1).await;
        assert_eq!((status.waiting, status.in_use), (0, 0));
        drop(bath.own().await);
        assert_eq!(bath.pool.in_flight(), 0);
        bath.close().await;
    });
}
