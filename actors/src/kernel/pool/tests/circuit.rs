//! A server that is away.

use std::sync::atomic::Ordering::SeqCst;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::{CheckoutError, CircuitState, ConnectErrorKind, Mode, TimeoutCause};
use super::double::{RunningPool, config, ms, secs};
use crate::kernel::testing::TestSystem;

#[test]
fn the_circuit_opens_probes_and_closes() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(1)).await;
        running
            .server
            .goes_away(Some(ConnectErrorKind::Unreachable));
        // Who waits is told when the circuit opens, not when its patience ends.
        let began = Instant::now();
        let error = running.take(Mode::Exclusive, secs(60)).await.unwrap_err();
        assert!(
            matches!(error, CheckoutError::CircuitOpen { .. }),
            "{error:?}"
        );
        assert!(began.elapsed() < secs(2));
        let status = running.status().await;
        assert_eq!(status.circuit.state, CircuitState::Open);
        assert_eq!((status.circuit.failures, status.retries), (3, 2));
        // While it is open, nobody waits and nothing is tried.
        let connects = running.server.connects.load(SeqCst);
        let began = Instant::now();
        let error = running.take(Mode::Shared, secs(60)).await.unwrap_err();
        let CheckoutError::CircuitOpen { retry_in, last } = error else {
            panic!("{error:?}");
        };
        assert_eq!(
            (began.elapsed().as_millis(), last.kind),
            (0, ConnectErrorKind::Unreachable)
        );
        assert_eq!(running.server.connects.load(SeqCst), connects);
        sleep(retry_in + ms(1)).await;
        assert_eq!(running.status().await.circuit.state, CircuitState::HalfOpen);
        // One probe, however many ask.
        let refused = join_all((0..20).map(|_| running.take(Mode::Exclusive, secs(60)))).await;
        assert!(
            refused
                .iter()
                .all(|answer| matches!(answer, Err(CheckoutError::CircuitOpen { .. })))
        );
        assert_eq!(running.server.connects.load(SeqCst), connects + 1);
        // It is back: found within the longest wait.
        running.server.goes_away(None);
        let back = Instant::now();
        while running.take(Mode::Exclusive, secs(1)).await.is_err() {
            sleep(ms(10)).await;
        }
        assert!(back.elapsed() <= ms(1100), "{:?}", back.elapsed());
        let status = running.status().await;
        assert_eq!(status.circuit.state, CircuitState::Closed);
        assert_eq!(status.circuit.failures, 0);
        running.close().await;
    });
}

#[test]
fn a_short_absence_is_waited_for() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(1)).await;
        running.server.goes_away(Some(ConnectErrorKind::Refused));
        let waiting = running.take(Mode::Exclusive, secs(5));
        let back = async {
            running.until(|status| status.failed > 0).await;
            running.server.goes_away(None);
        };
        let (lease, ()) = tokio::join!(waiting, back);
        assert!(lease.is_ok(), "{lease:?}");
        drop(lease);
        running.close().await;
    });
}

#[test]
fn what_will_not_pass_is_told_at_once() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(1)).await;
        running.server.goes_away(Some(ConnectErrorKind::Missing));
        let error = running.take(Mode::Exclusive, secs(60)).await.unwrap_err();
        let CheckoutError::Connect(error) = error else {
            panic!("{error:?}");
        };
        assert_eq!(error.kind, ConnectErrorKind::Missing);
        assert_eq!(running.server.connects.load(SeqCst), 1);
        running.close().await;
    });
}

#[test]
fn those_that_are_open_serve_while_no_other_can_be_opened() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), ms(1)).await;
        running.fill(2).await;
        running.server.goes_away(Some(ConnectErrorKind::Refused));
        let leases = (running.own().await, running.own().await);
        let error = running.take(Mode::Exclusive, secs(10)).await.unwrap_err();
        let CheckoutError::TimedOut {
            cause: TimeoutCause::Unreachable(_),
        } = error
        else {
            panic!("{error:?}");
        };
        let (third, ()) = tokio::join!(running.own(), async {
            sleep(ms(10)).await;
            drop(leases);
        });
        drop(third);
        running.close().await;
    });
}

#[test]
fn a_connect_that_hangs_is_given_up() {
    TestSystem::paused(|system| async move {
        let running = RunningPool::open(&system, config(), secs(1000)).await;
        let error = running.take(Mode::Exclusive, secs(8)).await.unwrap_err();
        let CheckoutError::TimedOut {
            cause: TimeoutCause::Unreachable(error),
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(error.kind, ConnectErrorKind::TimedOut);
        running.close().await;
    });
}
