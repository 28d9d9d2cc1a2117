//! Who may scan, and what a scan leaves behind.

use headroom_test_support::wait::{wait_for_async, wait_until};
use tokio::task::JoinHandle;

use super::*;
use crate::kernel::AskError;

fn config(clamd: &Clamd, connections_max: u32, waiting_max: u32) -> ScannerConfig {
    ScannerConfig {
        connections_max,
        waiting_max,
        ..ScannerConfig::new(unix(clamd))
    }
}

async fn wait_for_counts(scanner: &TestScanner, in_use: u32, waiting: u32) {
    wait_for_async(LONG, async || {
        let status = scanner.status().await;
        let counts = (status.in_use, status.waiting);
        if counts == (in_use, waiting) {
            Ok(())
        } else {
            Err(counts)
        }
    })
    .await;
}

#[test]
fn at_most_so_many_scans_run_and_callers_are_served_in_order() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let scanner = TestScanner::start(&system, config(&clamd, 2, 3)).await;
        let mut running = vec![
            scanner.begin().await.unwrap(),
            scanner.begin().await.unwrap(),
        ];
        let mut waiting: Vec<JoinHandle<_>> = Vec::new();
        for count in 1..=3 {
            let handle = scanner.handle.clone();
            waiting.push(tokio::spawn(
                async move { begin(&handle, LONG).await.unwrap() },
            ));
            wait_for_counts(&scanner, 2, count).await;
        }
        let full = scanner.begin().await.unwrap_err();
        assert_eq!(
            full,
            ScanError::Busy {
                in_use: 2,
                waiting: 3
            }
        );
        for left in (0..3).rev() {
            let mut stream = running.remove(0);
            stream.write(Bytes::from_static(b"hello")).await.unwrap();
            assert_eq!(stream.finish().await, Ok(Verdict::Clean));
            running.push(waiting.remove(0).await.unwrap());
            wait_for_counts(&scanner, 2, left).await;
            assert!(waiting.iter().all(|it| !it.is_finished()));
        }
        drop(running);
        wait_for_counts(&scanner, 0, 0).await;
        scanner.stop().await;
    });
}

#[test]
fn a_caller_that_gets_no_place_in_time_is_told_so() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let scanner = TestScanner::start(&system, config(&clamd, 1, 3)).await;
        let running = scanner.begin().await.unwrap();
        let busy = ScanError::Busy {
            in_use: 1,
            waiting: 1,
        };
        // Again, if this machine is so busy that the answer comes after the deadline.
        wait_for_async(LONG, async || {
            let error = begin(&scanner.handle, Duration::from_secs(1)).await;
            let error = error.unwrap_err();
            if error == busy { Ok(()) } else { Err(error) }
        })
        .await;
        // One that leaves before its deadline is forgotten, and takes no place later.
        let leaving = begin(&scanner.handle, LONG * 10);
        tokio::time::timeout(Duration::from_millis(100), leaving)
            .await
            .unwrap_err();
        wait_for_counts(&scanner, 1, 0).await;
        drop(running);
        wait_for_counts(&scanner, 0, 0).await;
        scanner.stop().await;
    });
}

#[test]
fn files_that_still_arrive_have_half_of_the_places_and_do_not_wait() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let scanner = TestScanner::start(&system, config(&clamd, 4, 3)).await;
        let arriving = async || follow(&scanner.handle, LONG).await;
        let following = [arriving().await.unwrap(), arriving().await.unwrap()];
        let refused = |in_use| ScanError::Busy { in_use, waiting: 0 };
        assert_eq!(arriving().await.unwrap_err(), refused(2));
        // The other half is for those that have arrived.
        let arrived = [
            scanner.begin().await.unwrap(),
            scanner.begin().await.unwrap(),
        ];
        assert_eq!(arriving().await.unwrap_err(), refused(4));
        drop(following);
        wait_for_counts(&scanner, 2, 0).await;
        // Those may have all places.
        let more = [
            scanner.begin().await.unwrap(),
            scanner.begin().await.unwrap(),
        ];
        assert_eq!(arriving().await.unwrap_err(), refused(4));
        drop((arrived, more));
        wait_for_counts(&scanner, 0, 0).await;
        let mut stream = arriving().await.unwrap();
        stream.write(Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(stream.finish().await, Ok(Verdict::Clean));
        scanner.stop().await;
    });
}

#[test]
fn a_dropped_scan_frees_its_place_at_clamd_too() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let scanner = TestScanner::start(&system, config(&clamd, 1, 3)).await;
        for _ in 0..20 {
            let mut stream = scanner.begin().await.unwrap();
            stream.write(vec![b'x'; MIB].into()).await.unwrap();
            drop(stream);
            assert_eq!(scanner.scan(&[b"hello"]).await, Ok(Verdict::Clean));
        }
        let status = scanner.status().await;
        assert_eq!((status.in_use, status.scanned, status.failed), (0, 20, 0));
        wait_until(LONG, "clamd has closed all", || clamd.receiving() == 0);
        scanner.stop().await;
    });
}

#[test]
fn many_scans_leave_no_descriptor_behind() {
    let Some(clamd) = Clamd::start("StreamMaxLength 1M\n") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let scanner = TestScanner::of(&system, &clamd).await;
        scanner.scan(&[b"hello"]).await.unwrap();
        let before = descriptors();
        let large = vec![b'x'; 2 * MIB];
        for round in 0..200 {
            match round % 4 {
                0 => drop(scanner.begin().await.unwrap()),
                1 => assert_eq!(scanner.scan(&[&large]).await, Err(ScanError::SizeLimit)),
                _ => assert_eq!(scanner.scan(&[b"hello"]).await, Ok(Verdict::Clean)),
            }
        }
        assert_eq!(descriptors(), before);
        scanner.stop().await;
    });
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_scan_outlives_its_owner_and_keeps_its_place() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let scanner = TestScanner::of(&system, &clamd).await;
        let mut stream = scanner.begin().await.unwrap();
        let handle = scanner.handle.clone();
        scanner.stop().await;
        let error = begin(&handle, LONG).await.unwrap_err();
        assert_eq!(error, ScanError::Owner(AskError::Stopped));
        stream.write(Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(stream.finish().await, Ok(Verdict::Clean));
    });
}

/// Its bytes do not pass through the actors' thread.
#[test]
fn a_scan_runs_in_the_runtime_of_its_caller() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let scanner = TestScanner::of(&system, &clamd).await;
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (ended, ends) = std::sync::mpsc::sync_channel(1);
        let handle = scanner.handle.clone();
        let caller = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let mut stream = begin(&handle, LONG).await.unwrap();
                begun.send(()).unwrap();
                stream.write(vec![b'x'; 8 * MIB].into()).await.unwrap();
                ended.send(stream.finish().await).unwrap();
            });
        });
        begins.await.unwrap();
        // Meanwhile the actors' thread does nothing.
        assert_eq!(ends.recv_timeout(LONG), Ok(Ok(Verdict::Clean)));
        caller.join().unwrap();
        scanner.stop().await;
    });
}
