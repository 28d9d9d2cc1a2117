//! The circuit, with a server that is away.

use std::sync::atomic::Ordering::SeqCst;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::{CheckoutError, CircuitState, ConnectErrorKind, Mode, TimeoutCause};
use super::double::{RunningPool, config, ms, secs};
use crate::kernel::testing::TestSystem;

#[test]
fn the_circuit_opens_probes_and_closes() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        pool.server.set_failure(Some(ConnectErrorKind::Unreachable));
        // The waiter is refused when the circuit opens, long before its deadline.
        let began = Instant::now();
        let error = pool.check_out(Mode::Exclusive, secs(60)).await.unwrap_err();
        assert!(
            matches!(error, CheckoutError::CircuitOpen { .. }),
            "{error:?}"
        );
        assert!(began.elapsed() < secs(2));
        let status = pool.status().await;
        assert_eq!(status.circuit.state, CircuitState::Open);
        assert_eq!((status.circuit.failures, status.retries), (3, 2));
        // While the circuit is open, callers do not wait and the pool does not connect.
        let connects = pool.server.connects.load(SeqCst);
        let began = Instant::now();
        let error = pool.check_out(Mode::Shared, secs(60)).await.unwrap_err();
        let CheckoutError::CircuitOpen { retry_in, last } = error else {
            panic!("{error:?}");
        };
        assert_eq!(
            (began.elapsed().as_millis(), last.kind),
            (0, ConnectErrorKind::Unreachable)
        );
        assert_eq!(pool.server.connects.load(SeqCst), connects);
        sleep(retry_in + ms(1)).await;
        assert_eq!(pool.status().await.circuit.state, CircuitState::HalfOpen);
        // Any number of callers cause one connect.
        let refused = join_all((0..20).map(|_| pool.check_out(Mode::Exclusive, secs(60)))).await;
        assert!(
            refused
                .iter()
                .all(|answer| matches!(answer, Err(CheckoutError::CircuitOpen { .. })))
        );
        assert_eq!(pool.server.connects.load(SeqCst), connects + 1);
        // A server that is back is found within the longest backoff.
        pool.server.set_failure(None);
        let back = Instant::now();
        while pool.check_out(Mode::Exclusive, secs(1)).await.is_err() {
            sleep(ms(10)).await;
        }
        assert!(back.elapsed() <= ms(1100), "{:?}", back.elapsed());
        let status = pool.status().await;
        assert_eq!(status.circuit.state, CircuitState::Closed);
        assert_eq!(status.circuit.failures, 0);
        pool.stop().await;
    });
}

#[test]
fn a_caller_waits_through_a_short_absence() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        pool.server.set_failure(Some(ConnectErrorKind::Refused));
        let waiting = pool.check_out(Mode::Exclusive, secs(5));
        let back = async {
            pool.wait_for(|status| status.failed > 0).await;
            pool.server.set_failure(None);
        };
        let (lease, ()) = tokio::join!(waiting, back);
        assert!(lease.is_ok(), "{lease:?}");
        drop(lease);
        pool.stop().await;
    });
}

#[test]
fn a_failure_that_does_not_pass_is_reported_at_once() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        pool.server.set_failure(Some(ConnectErrorKind::Missing));
        let error = pool.check_out(Mode::Exclusive, secs(60)).await.unwrap_err();
        let CheckoutError::Connect(error) = error else {
            panic!("{error:?}");
        };
        assert_eq!(error.kind, ConnectErrorKind::Missing);
        assert_eq!(pool.server.connects.load(SeqCst), 1);
        pool.stop().await;
    });
}

#[test]
fn a_server_that_denies_access_is_tried_seldom() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        pool.server.set_failure(Some(ConnectErrorKind::Denied));
        let began = Instant::now();
        while began.elapsed() < secs(60) {
            let refused = pool.check_out(Mode::Shared, secs(1)).await;
            assert!(refused.is_err());
            sleep(ms(10)).await;
        }
        let connects = pool.server.connects.load(SeqCst);
        assert!((5..=10).contains(&connects), "{connects} in a minute");
        // Access is found again within the longest wait.
        pool.server.set_failure(None);
        let granted = Instant::now();
        while pool.check_out(Mode::Shared, secs(1)).await.is_err() {
            sleep(ms(10)).await;
        }
        assert!(granted.elapsed() <= secs(31), "{:?}", granted.elapsed());
        pool.stop().await;
    });
}

#[test]
fn a_denied_connect_is_tried_again_soon_after_a_change_of_what_it_uses() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        pool.server.set_failure(Some(ConnectErrorKind::Denied));
        let denied = async || {
            loop {
                let refused = pool.check_out(Mode::Shared, secs(1)).await;
                assert!(refused.is_err());
                let left = pool.status().await.circuit.next_try_seconds;
                if left.is_some_and(|left| left > 10.0) {
                    break;
                }
                sleep(ms(10)).await;
            }
        };
        denied().await;
        // A change that does not help costs one connect. It comes when the pool has looked before.
        sleep(secs(3)).await;
        pool.server.has_changed.store(true, SeqCst);
        let connects = pool.server.connects.load(SeqCst);
        let tried = Instant::now();
        while pool.server.connects.load(SeqCst) == connects {
            assert!(pool.check_out(Mode::Shared, secs(1)).await.is_err());
            sleep(ms(10)).await;
        }
        assert!(tried.elapsed() <= secs(2), "{:?}", tried.elapsed());
        pool.server.has_changed.store(false, SeqCst);
        denied().await;
        // Nobody asks meanwhile: the first caller after that finds the circuit half open.
        pool.server.has_changed.store(true, SeqCst);
        pool.server.set_failure(None);
        sleep(secs(2)).await;
        assert!(pool.check_out(Mode::Shared, secs(1)).await.is_ok());
        pool.stop().await;
    });
}

#[test]
fn open_connections_serve_while_no_other_can_be_opened() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), ms(1)).await;
        pool.fill(2).await;
        pool.server.set_failure(Some(ConnectErrorKind::Refused));
        let leases = (pool.exclusive().await, pool.exclusive().await);
        let error = pool.check_out(Mode::Exclusive, secs(10)).await.unwrap_err();
        let CheckoutError::TimedOut {
            cause: TimeoutCause::Unreachable(_),
        } = error
        else {
            panic!("{error:?}");
        };
        let (third, ()) = tokio::join!(pool.exclusive(), async {
            sleep(ms(10)).await;
            drop(leases);
        });
        drop(third);
        pool.stop().await;
    });
}

#[test]
fn a_connect_that_hangs_times_out() {
    TestSystem::paused(|system| async move {
        let pool = RunningPool::start(&system, config(), secs(1000)).await;
        let error = pool.check_out(Mode::Exclusive, secs(8)).await.unwrap_err();
        let CheckoutError::TimedOut {
            cause: TimeoutCause::Unreachable(error),
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(error.kind, ConnectErrorKind::TimedOut);
        pool.stop().await;
    });
}
