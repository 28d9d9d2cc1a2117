//! A clamd that is away, dies or hangs.

use headroom_test_support::wait::{wait_for_async, wait_until};

use super::super::TimeoutCause;
use super::*;
use crate::kernel::Backoff;
use crate::kernel::testing::proxy::Fault;

const SHORT: Duration = Duration::from_millis(300);

/// A circuit that opens after two failures and stays open for up to `wait`.
fn with_circuit(address: Address, wait: Duration) -> ScannerConfig {
    ScannerConfig {
        circuit_failures: 2,
        circuit_backoff: Backoff::try_new(wait, wait, LONG).unwrap(),
        ..ScannerConfig::new(address)
    }
}

#[test]
fn a_clamd_that_is_not_there_costs_little_and_is_found_when_it_is_back() {
    let Some(mut clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        clamd.kill();
        let proxy = Proxy::start(&*clamd.socket()).await;
        for address in [unix(&clamd), Address::Tcp(clamd.tcp())] {
            let config = with_circuit(address.clone(), Duration::from_secs(3600));
            let scanner = TestScanner::start(&system, config).await;
            for is_refused_at_once in [false, false, true, true] {
                let error = scanner.begin().await.unwrap_err();
                let ScanError::Unreachable { why, retry_in } = error else {
                    panic!("{error}");
                };
                assert!(why.contains("refused") && !why.contains('/'), "{why}");
                assert_eq!(retry_in.is_some(), is_refused_at_once);
            }
            let status = scanner.status().await;
            assert_eq!(status.state, ScannerState::Down);
            assert!(status.last_error.is_some());
            assert_eq!((status.in_use, status.waiting), (0, 0));
            scanner.stop().await;
        }
        let config = with_circuit(unix(&clamd), Duration::from_millis(50));
        let scanner = TestScanner::start(&system, config).await;
        for _ in 0..5 {
            assert!(is_unreachable(&scanner.begin().await));
        }
        clamd.start_again();
        let verdict = wait_for_async(LONG, async || scanner.scan(&[b"hello"]).await).await;
        assert_eq!(verdict, Verdict::Clean);
        drop(proxy);
        scanner.stop().await;
    });
}

#[test]
fn a_clamd_that_is_killed_fails_the_scan_and_not_the_next_one() {
    let Some(mut clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        for address in [unix(&clamd), Address::Tcp(clamd.tcp())] {
            let scanner = TestScanner::start(&system, ScannerConfig::new(address)).await;
            let piece = Bytes::from(vec![b'x'; MIB]);
            let mut writing = scanner.begin().await.unwrap();
            let mut finishing = scanner.begin().await.unwrap();
            for stream in [&mut writing, &mut finishing] {
                stream.write(piece.clone()).await.unwrap();
            }
            clamd.kill();
            wait_for_async(LONG, async || match writing.write(piece.clone()).await {
                Ok(()) => Err("still written"),
                result => {
                    assert!(is_unreachable(&result), "{result:?}");
                    Ok(())
                }
            })
            .await;
            let again = writing.write(piece.clone()).await;
            assert!(is_unreachable(&again), "{again:?}");
            for stream in [writing, finishing] {
                let result = stream.finish().await;
                assert!(is_unreachable(&result), "{result:?}");
            }
            assert_eq!(scanner.status().await.failed, 2);
            clamd.start_again();
            assert_eq!(scanner.scan(&[b"hello"]).await, Ok(Verdict::Clean));
            assert_eq!(scanner.status().await.state, ScannerState::Up);
            scanner.stop().await;
        }
    });
}

#[test]
fn a_clamd_that_hangs_is_not_waited_for() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let proxy = Proxy::start(&*clamd.socket()).await;
        proxy.set_faults(Fault::Blackhole, Fault::Blackhole);
        let config = ScannerConfig {
            write_timeout: SHORT,
            verdict_timeout: SHORT,
            check_timeout: SHORT,
            ..ScannerConfig::new(through(&proxy))
        };
        let scanner = TestScanner::start(&system, config).await;
        let timed_out = |cause| ScanError::Timeout {
            cause,
            limit: SHORT,
        };
        let verdict = scanner.scan(&[b"hello"]).await;
        assert_eq!(verdict, Err(timed_out(TimeoutCause::Verdict)));
        let mut stream = scanner.begin().await.unwrap();
        let mut written = Ok(());
        // More than the buffers of the sockets hold.
        for _ in 0..100 {
            written = written.and(stream.write(vec![b'x'; MIB].into()).await);
        }
        let error = timed_out(TimeoutCause::Write);
        assert_eq!(written, Err(error.clone()));
        assert_eq!(stream.finish().await, Err(error));
        let status = scanner.status().await;
        assert_eq!(status.state, ScannerState::Down);
        let error = timed_out(TimeoutCause::Version).to_string();
        assert_eq!(status.last_error, Some(error));
        assert_eq!((status.in_use, status.failed), (0, 2));
        proxy.set_faults(Fault::None, Fault::None);
        assert_eq!(scanner.scan(&[b"hello"]).await, Ok(Verdict::Clean));
        scanner.stop().await;
    });
}

/// clamd would wait for the rest of the chunk, and take what follows for it.
#[test]
fn a_write_that_is_dropped_before_its_end_tears_the_scan() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let proxy = Proxy::start(&*clamd.socket()).await;
        let scanner = TestScanner::start(&system, ScannerConfig::new(through(&proxy))).await;
        for is_written_again in [true, false] {
            let mut stream = scanner.begin().await.unwrap();
            stream.write(Bytes::from_static(b"hello")).await.unwrap();
            proxy.set_faults(Fault::Blackhole, Fault::None);
            let write = stream.write(vec![b'x'; 64 * MIB].into());
            tokio::time::timeout(SHORT, write).await.unwrap_err();
            proxy.set_faults(Fault::None, Fault::None);
            if is_written_again {
                let again = stream.write(Bytes::from_static(b"more")).await;
                assert_eq!(again, Err(ScanError::Torn));
            }
            assert_eq!(stream.finish().await, Err(ScanError::Torn));
        }
        assert_eq!(scanner.status().await.state, ScannerState::Up);
        scanner.stop().await;
    });
}

/// The file is not clean, and clamd is not down.
#[test]
fn a_file_that_arrives_too_slowly_is_an_error_of_its_own() {
    let Some(clamd) = Clamd::start("ReadTimeout 1\n") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let scanner = TestScanner::of(&system, &clamd).await;
        let mut stream = scanner.begin().await.unwrap();
        stream.write(Bytes::from_static(b"hello")).await.unwrap();
        wait_until(LONG, "clamd has the file", || clamd.receiving() == 1);
        wait_until(LONG, "clamd has given up", || clamd.receiving() == 0);
        assert_eq!(stream.write(Bytes::from_static(b"hello")).await, Ok(()));
        assert_eq!(stream.finish().await, Err(ScanError::Starved));
        assert_eq!(scanner.status().await.state, ScannerState::Up);
        scanner.stop().await;
    });
}
