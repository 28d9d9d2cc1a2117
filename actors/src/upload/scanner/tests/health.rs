//! What is known of clamd, and the scanner as a resource.

use std::sync::Arc;

use futures_util::FutureExt;
use headroom_test_support::clamd::eicar;
use headroom_test_support::wait::wait_for_async;

use super::super::{Check, resource};
use super::*;
use crate::kernel::testing::proxy::Fault;
use crate::kernel::{LoadContext, LoadErrorKind, MemoryFeedback, ReservationEntry};

#[test]
fn the_status_tells_what_is_known_and_asks_clamd_no_more_than_needed() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let proxy = Proxy::start(&*clamd.socket()).await;
        let scanner = TestScanner::start(&system, ScannerConfig::new(through(&proxy))).await;
        assert_eq!(
            proxy.accepted(),
            0,
            "nothing is asked of clamd before somebody asks"
        );
        let all = futures_util::future::join_all((0..5).map(|_| scanner.status())).await;
        for status in all {
            assert_eq!(status.state, ScannerState::Up);
            assert!(
                status
                    .version
                    .unwrap()
                    .starts_with(|first: char| first.is_ascii_digit())
            );
            // The test's clamd has only local signatures.
            assert_eq!((status.signatures, status.last_error), (None, None));
        }
        scanner.status().await;
        assert_eq!(proxy.accepted(), 1);
        scanner.scan(&[b"hello"]).await.unwrap();
        scanner.scan(&[&eicar()]).await.unwrap();
        let running = scanner.begin().await.unwrap();
        let status = scanner.status().await;
        assert_eq!((status.scanned, status.infected, status.failed), (2, 1, 0));
        assert_eq!(
            (status.in_use, status.waiting, status.connections_max),
            (1, 0, 4)
        );
        drop(running);
        scanner.stop().await;
    });
}

#[test]
fn the_status_follows_a_clamd_that_goes_and_comes_back() {
    let Some(mut clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let scanner = TestScanner::of(&system, &clamd).await;
        assert_eq!(scanner.status().await.state, ScannerState::Up);
        clamd.kill();
        assert!(is_unreachable(&scanner.scan(&[b"hello"]).await));
        assert_eq!(scanner.status().await.state, ScannerState::Down);
        clamd.start_again();
        // Nothing is scanned: the status alone finds it.
        wait_for_async(LONG, async || match scanner.status().await {
            status if status.state == ScannerState::Up => Ok(()),
            status => Err(status),
        })
        .await;
        scanner.stop().await;
    });
}

/// As one that loads its signatures may be.
#[test]
fn a_slow_clamd_is_not_down_and_delays_nobody_beyond_the_deadline() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let proxy = Proxy::start(&*clamd.socket()).await;
        proxy.set_faults(Fault::Blackhole, Fault::Blackhole);
        let scanner = TestScanner::start(&system, ScannerConfig::new(through(&proxy))).await;
        for _ in 0..2 {
            // Again, if this machine is so busy that the answer comes after the deadline.
            let soon = Duration::from_secs(1);
            let status = wait_for_async(LONG, async || scanner.handle.ask(Status, soon).await);
            let status = status.await;
            assert_eq!(status.state, ScannerState::NeverTried);
        }
        proxy.set_faults(Fault::None, Fault::None);
        assert_eq!(scanner.status().await.state, ScannerState::Up);
        assert_eq!(proxy.accepted(), 1);
        scanner.stop().await;
    });
}

struct NoMemory;

impl ReservationEntry for NoMemory {
    fn attach(&self, _: i32) {}
    fn detach(&self, _: i32) {}
    fn set_reserved(&self, _: u64) {}
    fn reserved(&self) -> u64 {
        0
    }
    fn measured(&self) -> u64 {
        0
    }
    fn peak(&self) -> u64 {
        0
    }
    fn release(&self) {}
}

#[test]
fn the_scanner_is_loaded_when_clamd_answers() {
    let Some(mut clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let config = ScannerConfig::new(unix(&clamd));
        let scanner = TestScanner::start(&system, config.clone()).await;
        let resource = resource(&scanner.handle, &config, None);
        assert_eq!((&*resource.name, resource.kind), ("scanner", "scanner"));
        assert!(resource.estimated_bytes <= 4 * MIB as u64);
        let context = LoadContext {
            entry: Arc::new(NoMemory),
            deadline: LONG,
            feedback: MemoryFeedback::default(),
        };
        let loaded = resource.load.load(context.clone()).await;
        let loaded = loaded.map_err(|error| error.to_string()).unwrap();
        assert!(loaded.died.now_or_never().is_none());
        resource.load.unload().await;
        clamd.kill();
        let Err(error) = resource.load.load(context.clone()).await else {
            panic!("loaded without a clamd");
        };
        assert_eq!(error.kind, LoadErrorKind::Unavailable);
        assert!(!error.message.contains('/'), "{error}");
        resource.load.unload().await;
        clamd.start_again();
        assert!(resource.load.load(context).await.is_ok());
        assert_eq!(scanner.handle.ask(Check, LONG).await.unwrap(), Ok(()));
        scanner.stop().await;
    });
}
