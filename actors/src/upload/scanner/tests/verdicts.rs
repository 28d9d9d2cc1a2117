//! What clamd says about files.

use headroom_test_support::clamd::eicar;
use headroom_test_support::wait::wait_for_async;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::super::METRICS;
use super::*;
use crate::kernel::testing::counters::Counters;

#[test]
fn clean_and_infected_files_get_their_verdicts() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        for address in [unix(&clamd), Address::Tcp(clamd.tcp())] {
            let scanner = TestScanner::start(&system, ScannerConfig::new(address)).await;
            let eicar = eicar();
            let (start, end) = eicar.split_at(30);
            let bytes: Vec<&[u8]> = eicar.chunks(1).collect();
            let other = vec![b'x'; 3 * MIB];
            assert_eq!(scanner.scan(&[]).await, Ok(Verdict::Clean));
            assert_eq!(scanner.scan(&[b""]).await, Ok(Verdict::Clean));
            assert_eq!(scanner.scan(&[b"hello"]).await, Ok(Verdict::Clean));
            assert_eq!(scanner.scan(&[&other]).await, Ok(Verdict::Clean));
            assert_eq!(scanner.scan(&[&eicar]).await, eicar_found());
            assert_eq!(scanner.scan(&[start, end]).await, eicar_found());
            assert_eq!(scanner.scan(&bytes).await, eicar_found());
            assert_eq!(scanner.scan(&[start, b"", end]).await, eicar_found());
            assert_eq!(scanner.scan(&[&eicar, &other]).await, eicar_found());
            assert_eq!(
                scanner.scan(&[&other, start, end, &other]).await,
                eicar_found()
            );
            assert_eq!(scanner.scan(&[start]).await, Ok(Verdict::Clean));
            scanner.stop().await;
        }
    });
}

/// clamd answers in the middle and closes the connection. The answer must not be lost.
#[test]
fn a_file_that_clamd_refuses_for_its_size_is_an_error_of_its_own() {
    let Some(clamd) = Clamd::start("StreamMaxLength 1M\n") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        for address in [unix(&clamd), Address::Tcp(clamd.tcp())] {
            let scanner = TestScanner::start(&system, ScannerConfig::new(address)).await;
            let file = vec![b'x'; 20 * MIB];
            assert_eq!(scanner.scan(&[&file[..MIB]]).await, Ok(Verdict::Clean));
            let too_large = Err(ScanError::SizeLimit);
            assert_eq!(scanner.scan(&[&file[..=MIB]]).await, too_large);
            let pieces: Vec<_> = file.chunks(64 * 1024).collect();
            for _ in 0..20 {
                assert_eq!(scanner.scan(&pieces).await, too_large);
            }
            let status = scanner.status().await;
            assert_eq!((status.scanned, status.failed), (1, 21));
            assert_eq!(status.state, ScannerState::Up);
            scanner.stop().await;
        }
    });
}

/// clamd scans at the end, and answers early only for the size. What is at its address need not be clamd.
#[test]
fn an_early_answer_ends_the_scan_and_an_early_clean_one_is_not_believed() {
    TestSystem::real_time(|system| async move {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let scanner = TestScanner::start(&system, ScannerConfig::new(Address::Unix(path))).await;
        let endless = "x".repeat(5000);
        for answer in [
            "stream: Early FOUND\0",
            "stream: OK\0",
            "nonsense\0",
            &endless,
        ] {
            let mut stream = scanner.begin().await.unwrap();
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut command = [0; 10];
            connection.read_exact(&mut command).await.unwrap();
            assert_eq!(&command, b"zINSTREAM\0");
            connection.write_all(answer.as_bytes()).await.unwrap();
            let more = Bytes::from_static(b"more");
            if answer.ends_with("FOUND\0") {
                drop(connection);
                for _ in 0..100 {
                    assert_eq!(stream.write(more.clone()).await, Ok(()));
                }
                let signature = "Early".to_owned();
                assert_eq!(stream.finish().await, Ok(Verdict::Infected { signature }));
                continue;
            }
            let error = wait_for_async(LONG, async || match stream.write(more.clone()).await {
                Err(error) => Ok(error),
                Ok(()) => Err("still written"),
            })
            .await;
            assert!(matches!(error, ScanError::Protocol(_)), "{error}");
            assert_eq!(stream.write(more).await, Err(error.clone()));
            assert_eq!(stream.finish().await, Err(error));
        }
        scanner.stop().await;
    });
}

#[test]
fn scans_go_on_while_clamd_loads_its_signatures_again() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    TestSystem::real_time(|system| async move {
        let scanner = TestScanner::of(&system, &clamd).await;
        let eicar = eicar();
        let (start, end) = eicar.split_at(30);
        let mut stream = scanner.begin().await.unwrap();
        stream.write(Bytes::copy_from_slice(start)).await.unwrap();
        clamd.reload();
        stream.write(Bytes::copy_from_slice(end)).await.unwrap();
        assert_eq!(stream.finish().await, eicar_found());
        assert_eq!(scanner.scan(&[&eicar]).await, eicar_found());
        scanner.stop().await;
    });
}

#[test]
fn scans_are_counted() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    let counters = &Counters::of(METRICS);
    let _recording = metrics::set_default_local_recorder(counters);
    TestSystem::real_time(|system| async move {
        let scanner = TestScanner::of(&system, &clamd).await;
        scanner.scan(&[b"hello"]).await.unwrap();
        scanner.scan(&[&eicar()]).await.unwrap();
        drop(scanner.begin().await.unwrap());
        assert_eq!(counters.get("headroom_scans_total"), 2);
        let declared = METRICS.iter().map(|metric| metric.name.to_owned());
        assert_eq!(counters.names(), declared.collect());
        scanner.stop().await;
    });
}
