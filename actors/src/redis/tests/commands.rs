//! Commands, also while the server fails.

use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::super::{Cache, Cmd, Done, Error, Redis, Script, cmd, pipe};
use super::server::{RealServer, RunningPool, SECOND};
use crate::kernel::pool::{CheckoutError, ConnectErrorKind};
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::counters::Counters;
use crate::redis::METRICS;

#[test]
fn many_callers_share_few_connections() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let mut increment = cmd("INCR");
        increment.arg("n");
        let callers = (0..1000).map(|_| running.redis.command::<u64>(&increment, 10 * SECOND));
        let mut seen = join_all(callers)
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (1..=1000).collect::<Vec<_>>());
        let status = running.redis.status(SECOND).await.unwrap();
        assert!(status.size <= 8, "{status:?}");
        assert!(status.reuse_rate > 0.99, "{status:?}");
        let info = running.redis.server_info(SECOND).await.unwrap();
        let info = info.expect("a connection is open");
        assert_eq!(info.role, "master");
        assert!(info.version.starts_with(|it: char| it.is_ascii_digit()));
        running.close().await;
    });
}

#[test]
fn scripts_are_called_by_hash_and_sent_when_unknown() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        let mut call = script.key("n");
        call.arg(5);
        for expected in [5, 10] {
            let sum: i64 = running.redis.script(&call, SECOND).await.unwrap();
            assert_eq!(sum, expected);
        }
        // A script that the server has forgotten is sent again.
        let mut flush = cmd("SCRIPT");
        flush.arg("FLUSH");
        running.redis.command::<()>(&flush, SECOND).await.unwrap();
        assert_eq!(
            running.redis.script::<i64>(&call, SECOND).await.unwrap(),
            15
        );
        running.close().await;
    });
}

#[test]
fn pipelines_come_back_in_order_and_errors_say_what_happened() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let redis: &Redis = &running.redis;
        let mut both = pipe();
        both.atomic().cmd("SET").arg("a").arg("b").ignore();
        both.cmd("APPEND").arg("a").arg("c").cmd("GET").arg("a");
        let (length, text): (u32, String) = redis.pipeline(&both, SECOND).await.unwrap();
        assert_eq!((length, text.as_str()), (2, "bc"));
        let mut wrong = cmd("LPUSH");
        wrong.arg("a").arg("secret-value");
        let error = redis.command::<u32>(&wrong, SECOND).await.unwrap_err();
        assert!(
            matches!(&error, Error::Server { code, .. } if code == "WRONGTYPE"),
            "{error:?}"
        );
        assert_eq!(error.done(), Done::Nothing, "{error:?}");
        let error = redis
            .command::<u32>(cmd("GET").arg("a"), SECOND)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Type), "{error:?}");
        let error = redis
            .command::<u32>(cmd("NOSUCH").arg("secret-value"), SECOND)
            .await;
        let error = error.unwrap_err();
        assert!(
            !format!("{error} {error:?}").contains("secret"),
            "{error:?}"
        );
        // None of these errors closes the connection.
        let status = redis.status(SECOND).await.unwrap();
        assert!(status.closed.is_empty(), "{status:?}");
        running.close().await;
    });
}

/// `SET`, with a value of some kilobytes.
fn set(key: &str) -> Cmd {
    let mut set = cmd("SET");
    set.arg(key).arg("x".repeat(4096));
    set
}

#[test]
fn a_pipeline_that_fails_says_where_and_what_was_done() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let redis: &Redis = &running.redis;
        let mut list = cmd("LPUSH");
        list.arg("a").arg("secret-value");
        for is_atomic in [true, false] {
            redis.command::<()>(&cmd("FLUSHALL"), SECOND).await.unwrap();
            let mut three = pipe();
            if is_atomic {
                three.atomic();
            }
            three.add_command(set("a")).add_command(list.clone());
            three.add_command(set("c"));
            let error = redis.pipeline::<()>(&three, SECOND).await.unwrap_err();
            assert!(
                matches!(
                    &error,
                    Error::Server { code, at: Some(1), done: Done::Part } if code == "WRONGTYPE"
                ),
                "{error:?}"
            );
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
            let there: u32 = redis
                .command(cmd("EXISTS").arg("a").arg("c"), SECOND)
                .await
                .unwrap();
            assert_eq!(there, 2);
        }
        // Redis refuses a command that it does not know before it runs the transaction.
        redis.command::<()>(&cmd("FLUSHALL"), SECOND).await.unwrap();
        let mut unknown = pipe();
        unknown.atomic().add_command(set("a")).cmd("NOSUCH");
        let error = redis.pipeline::<()>(&unknown, SECOND).await.unwrap_err();
        assert!(
            matches!(
                &error,
                Error::Server { code, at: Some(1), done: Done::Nothing } if code == "ERR"
            ),
            "{error:?}"
        );
        let size: u32 = redis.command(&cmd("DBSIZE"), SECOND).await.unwrap();
        assert_eq!(size, 0);
        // Without memory: a pipeline does what needs none, a transaction does nothing.
        redis.command::<()>(&set("a"), SECOND).await.unwrap();
        let mut limit = cmd("CONFIG");
        limit.arg("SET").arg("maxmemory").arg("1");
        redis.command::<()>(&limit, SECOND).await.unwrap();
        for (is_atomic, expected) in [(false, Done::Part), (true, Done::Nothing)] {
            let mut full = pipe();
            if is_atomic {
                full.atomic();
            }
            full.cmd("EXISTS").arg("a").add_command(set("b"));
            let error = redis.pipeline::<()>(&full, SECOND).await.unwrap_err();
            assert!(
                matches!(&error, Error::Server { code, at: Some(_), .. } if code == "OOM"),
                "{error:?}"
            );
            assert_eq!(error.done(), expected, "{error:?}");
        }
        let error = redis.command::<()>(&set("b"), SECOND).await.unwrap_err();
        assert!(error.is_undone(), "{error:?}");
        // The driver refuses an empty command.
        let error = redis.command::<()>(&Cmd::new(), SECOND).await.unwrap_err();
        println!("an empty command: {error:?}");
        assert!(!matches!(error, Error::Lost | Error::Deadline), "{error:?}");
        let status = redis.status(SECOND).await.unwrap();
        assert!(status.closed.is_empty(), "{status:?}");
        running.close().await;
    });
}

#[test]
fn the_longest_deadline_is_accepted_everywhere() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let (redis, max) = (&running.redis, Duration::MAX);
        assert_eq!(
            redis.command::<String>(&cmd("PING"), max).await.unwrap(),
            "PONG"
        );
        let mut two = pipe();
        two.cmd("PING").cmd("PING");
        redis.pipeline::<(String, String)>(&two, max).await.unwrap();
        let script = Script::new("return 1");
        let one: i64 = redis.script(&script.prepare_invoke(), max).await.unwrap();
        assert_eq!(one, 1);
        redis.status(max).await.unwrap();
        redis.server_info(max).await.unwrap().unwrap();
        let cache = Cache::new(redis.clone());
        assert!(cache.set("key", "value", max, max).await);
        assert_eq!(cache.get("key", max).await, Some("value".to_owned()));
        assert!(cache.remove("key", max).await);
        running.close().await;
    });
}

#[test]
fn a_wrong_password_is_reported_at_once_and_never_shown() {
    TestSystem::real_time(|system| async move {
        let mut server = RealServer::start(&["--requirepass", "right"]);
        server.password = Some("wrong-secret");
        let running = RunningPool::open(&system, &server).await;
        let began = Instant::now();
        let kind = loop {
            let error = running
                .redis
                .command::<String>(&cmd("PING"), 5 * SECOND)
                .await;
            let error = error.unwrap_err();
            assert!(
                !format!("{error} {error:?}").contains("secret"),
                "{error:?}"
            );
            match error {
                Error::Checkout(CheckoutError::Connect(error)) => break error.kind,
                // The server has not opened its socket yet.
                _ if began.elapsed() < 20 * SECOND => sleep(Duration::from_millis(20)).await,
                error => panic!("{error:?}"),
            }
        };
        assert_eq!(kind, ConnectErrorKind::Denied);
        let status = serde_json::to_string(&running.redis.status(SECOND).await.unwrap()).unwrap();
        assert!(!status.contains("secret"), "{status}");
        running.close().await;
    });
}

/// The hits, misses and failures of the cache.
fn cache_counts(counters: &Counters) -> [u64; 3] {
    ["hits", "misses", "failures"]
        .map(|what| counters.get(&format!("headroom_redis_cache_{what}_total")))
}

#[test]
fn without_a_server_primary_fails_and_the_cache_misses() {
    let counters = &Counters::of(METRICS);
    let _recording = metrics::set_default_local_recorder(counters);
    TestSystem::real_time(|system| async move {
        let server = RealServer::absent();
        let running = RunningPool::open(&system, &server).await;
        let began = Instant::now();
        let error = running
            .redis
            .command::<String>(&cmd("PING"), 30 * SECOND)
            .await;
        let error = error.unwrap_err();
        assert!(error.is_undone(), "{error:?}");
        assert!(
            began.elapsed() < 5 * SECOND,
            "the circuit answers before the deadline"
        );
        let cache = Cache::new(running.redis.clone());
        assert_eq!(cache.get::<String>("key", SECOND).await, None);
        assert!(!cache.set("key", "value", SECOND, SECOND).await);
        assert_eq!(cache_counts(counters), [0, 1, 2]);
        running.close().await;
    });
}

#[test]
fn the_cache_keeps_and_forgets() {
    let counters = &Counters::of(METRICS);
    let _recording = metrics::set_default_local_recorder(counters);
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let cache = Cache::new(running.redis.clone());
        assert_eq!(cache.get::<String>("key", SECOND).await, None);
        assert!(cache.set("key", "value", 60 * SECOND, SECOND).await);
        assert_eq!(cache.get("key", SECOND).await, Some("value".to_owned()));
        let left: i64 = running
            .redis
            .command(cmd("PTTL").arg("key"), SECOND)
            .await
            .unwrap();
        assert!((50_000..=60_000).contains(&left), "{left}");
        assert!(cache.remove("key", SECOND).await);
        assert_eq!(cache.get::<String>("key", SECOND).await, None);
        assert_eq!(cache_counts(counters), [1, 2, 0]);
        running.close().await;
    });
}

#[test]
fn a_silent_server_costs_no_more_than_the_deadline() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        server.signal(Signal::SIGSTOP);
        let began = Instant::now();
        let error = running
            .redis
            .command::<String>(&cmd("PING"), SECOND / 5)
            .await;
        assert!(matches!(error, Err(Error::Deadline)), "{error:?}");
        assert!(began.elapsed() < SECOND);
        server.signal(Signal::SIGCONT);
        running.until_up().await;
        running.close().await;
    });
}

/// Writers go on while the server is killed and started again. No call hangs, acknowledged writes are
/// kept, and later writes succeed soon.
#[test]
fn a_killed_server_is_found_again_and_no_acknowledged_write_is_lost() {
    TestSystem::real_time(|system| async move {
        let mut server = RealServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let end = Instant::now() + 3 * SECOND;
        let mut increment = cmd("INCR");
        increment.arg("n");
        let within = SECOND / 2;
        let writers = (0..50).map(|_| async {
            let (mut acknowledged, mut unknown) = (0u64, 0u64);
            while Instant::now() < end {
                let began = Instant::now();
                match running.redis.command::<u64>(&increment, within).await {
                    Ok(_) => acknowledged += 1,
                    Err(error) if error.is_undone() => sleep(Duration::from_millis(5)).await,
                    Err(_) => unknown += 1,
                }
                assert!(
                    began.elapsed() < within + SECOND,
                    "hung: {:?}",
                    began.elapsed()
                );
            }
            (acknowledged, unknown)
        });
        let trouble = async {
            sleep(SECOND / 2).await;
            server.kill();
            sleep(SECOND / 2).await;
            server.run();
            running.until_up().await
        };
        let (counts, recovered) = tokio::join!(join_all(writers), trouble);
        assert!(recovered < 2 * SECOND, "recovered after {recovered:?}");
        let acknowledged: u64 = counts.iter().map(|(sure, _)| sure).sum();
        let unknown: u64 = counts.iter().map(|(_, unknown)| unknown).sum();
        let kept: u64 = running
            .redis
            .command(cmd("GET").arg("n"), SECOND)
            .await
            .unwrap();
        println!("recovered after {recovered:?}; {acknowledged} acknowledged, {unknown} unknown");
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&kept),
            "{acknowledged} acknowledged, {unknown} unknown, {kept} kept"
        );
        assert!(running.pool.in_flight() == 0);
        running.close().await;
    });
}
