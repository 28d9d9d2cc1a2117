//! Commands that need a connection of their own.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::Client;
use futures_util::future::join_all;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::super::{Error, Redis, Script, cmd, pipe, pool_config};
use super::faults::server_behind;
use super::network::{Instance, eventually};
use super::server::{RealServer, RunningPool, SECOND};
use super::words;
use crate::kernel::pool::{Mode, PoolConfig, PoolStatus};
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::proxy::{Fault, Proxy};
use crate::redis::connection::Transport;
use crate::redis::liveness::{Liveness, RoleWatch, Watched};

/// What the server says in a section of `INFO`.
async fn info(redis: &Redis, section: &str) -> String {
    redis
        .command(cmd("INFO").arg(section), SECOND)
        .await
        .unwrap()
}

async fn status(redis: &Redis) -> PoolStatus {
    redis.status(SECOND).await.unwrap()
}

#[test]
fn what_affects_other_callers_does_not_reach_the_server() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let redis = &running.redis;
        for text in [
            "BLPOP list 0",
            "MULTI",
            "WATCH key",
            "SELECT 3",
            "SUBSCRIBE channel",
            "CLIENT REPLY OFF",
            "WAIT 1 0",
            "MONITOR",
            "XREAD BLOCK 0 STREAMS s $",
        ] {
            let error = redis.command::<()>(&words(text), SECOND).await.unwrap_err();
            assert!(
                matches!(error, Error::Unsupported { .. }),
                "{text}: {error:?}"
            );
            assert!(error.is_undone());
            let mut both = pipe();
            both.cmd("PING").add_command(words(text));
            let error = redis.pipeline::<()>(&both, SECOND).await.unwrap_err();
            assert!(
                matches!(error, Error::Unsupported { .. }),
                "{text}: {error:?}"
            );
        }
        let stats = info(redis, "commandstats").await;
        for name in [
            "blpop",
            "multi",
            "watch",
            "select",
            "subscribe",
            "wait",
            "monitor",
            "xread",
        ] {
            assert!(
                !stats.contains(&format!("cmdstat_{name}:")),
                "{name}: {stats}"
            );
        }
        running.close().await;
    });
}

#[test]
fn a_command_that_blocks_on_a_lease_holds_nobody_up() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let redis = &running.redis;
        let blocked = async {
            let mut lease = redis.lease(5 * SECOND).await.unwrap();
            let pop = words("BLPOP list 60");
            // Longer than a silent connection is believed to be alive.
            lease.command::<(String, String)>(&pop, 30 * SECOND).await
        };
        let others = async {
            eventually("that it blocks", async || {
                info(redis, "clients").await.contains("blocked_clients:1")
            })
            .await;
            let began = Instant::now();
            while began.elapsed() < 3 * SECOND {
                let ping = cmd("PING");
                let pings = (0..100).map(|_| redis.command::<String>(&ping, 5 * SECOND));
                assert!(join_all(pings).await.into_iter().all(|it| it.is_ok()));
            }
            redis
                .command::<()>(&words("RPUSH list value"), SECOND)
                .await
                .unwrap();
        };
        let (popped, ()) = tokio::join!(blocked, others);
        assert_eq!(popped.unwrap(), ("list".to_owned(), "value".to_owned()));
        let status = status(redis).await;
        assert!(status.closed.is_empty(), "{status:?}");
        running.close().await;
    });
}

#[test]
fn a_watched_key_that_changes_stops_the_transaction() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let redis = &running.redis;
        let mut lease = redis.lease(SECOND).await.unwrap();
        let mut both = pipe();
        both.atomic().cmd("SET").arg("key").arg("mine").ignore();
        both.cmd("GET").arg("key");
        for is_changed in [false, true] {
            lease
                .command::<()>(&words("WATCH key"), SECOND)
                .await
                .unwrap();
            if is_changed {
                redis
                    .command::<()>(&words("SET key theirs"), SECOND)
                    .await
                    .unwrap();
            }
            let done: Option<(String,)> = lease.pipeline(&both, SECOND).await.unwrap();
            assert_eq!(done.is_none(), is_changed, "{done:?}");
        }
        // The same without an atomic pipeline.
        lease.command::<()>(&words("MULTI"), SECOND).await.unwrap();
        let queued: String = lease.command(&words("SET key mine"), SECOND).await.unwrap();
        assert_eq!(queued, "QUEUED");
        lease
            .command::<Vec<String>>(&words("EXEC"), SECOND)
            .await
            .unwrap();
        // What is left open ends with the lease.
        lease.command::<()>(&words("MULTI"), SECOND).await.unwrap();
        drop(lease);
        let mut next = redis.lease(SECOND).await.unwrap();
        let value: String = next.command(&words("GET key"), SECOND).await.unwrap();
        assert_eq!(value, "mine");
        running.close().await;
    });
}

#[test]
fn the_longest_deadline_is_accepted_by_leases() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let max = Duration::MAX;
        let mut lease = running.redis.lease(max).await.unwrap();
        lease.command::<String>(&cmd("PING"), max).await.unwrap();
        let mut two = pipe();
        two.cmd("PING").cmd("PING");
        lease.pipeline::<(String, String)>(&two, max).await.unwrap();
        let script = Script::new("return 1");
        let one: i64 = lease.script(&script.prepare_invoke(), max).await.unwrap();
        assert_eq!(one, 1);
        drop(lease);
        running.close().await;
    });
}

#[test]
fn a_lease_that_ends_while_it_blocks_leaves_nothing_at_the_server() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let redis = &running.redis;
        let mut lease = redis.lease(SECOND).await.unwrap();
        let pop = words("BLPOP list 0");
        let error = lease.command::<(String, String)>(&pop, SECOND / 5).await;
        assert!(matches!(error, Err(Error::Deadline)), "{error:?}");
        let error = lease.command::<String>(&cmd("PING"), SECOND).await;
        assert!(matches!(error, Err(Error::Unsent(_))), "{error:?}");
        drop(lease);
        eventually("that nothing blocks", async || {
            info(redis, "clients").await.contains("blocked_clients:0")
        })
        .await;
        // An element that comes later is not lost.
        redis
            .command::<()>(&words("RPUSH list value"), SECOND)
            .await
            .unwrap();
        let length: u32 = redis.command(&words("LLEN list"), SECOND).await.unwrap();
        assert_eq!(length, 1);
        running.close().await;
    });
}

/// The watch asks all the time, on a thread of its own.
#[test]
fn nothing_of_the_watch_comes_between_the_commands_of_a_lease() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Instance::start(&[]).await;
        let client = Client::open(server.url()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        let role = RoleWatch {
            every: Duration::ZERO,
            on_replica: Box::new(|| ()),
        };
        let liveness = Arc::new(Liveness::default());
        let mut watched = Watched::new(connection, Arc::clone(&liveness), Some(role));
        let end = Instant::now() + 2 * SECOND;
        let mut transactions = 0;
        while Instant::now() < end {
            let alone = liveness.alone().await;
            words("MULTI").exec_async(&mut watched).await.unwrap();
            words("INCR n").exec_async(&mut watched).await.unwrap();
            let answers: Vec<String> = words("EXEC").query_async(&mut watched).await.unwrap();
            transactions += 1;
            assert_eq!(answers, [transactions.to_string()]);
            drop(alone);
            yield_now().await;
        }
        let stats = server.ask(&["INFO", "commandstats"]);
        let asked = stats.lines().find(|line| line.contains("cmdstat_role"));
        println!("{transactions} transactions, {asked:?}");
        assert!(asked.is_some(), "{stats}");
    });
}

#[test]
fn a_lease_that_meets_the_check_of_a_lost_link_gets_another_connection() {
    TestSystem::real_time(|system| async move {
        let instance = Instance::start(&[]).await;
        let proxy = Proxy::start(instance.address()).await;
        let config = PoolConfig {
            connections_max: 1,
            shared_max: 1,
            connect_timeout: SECOND,
            ..pool_config()
        };
        let running = RunningPool::at_with(&system, server_behind(&proxy), config).await;
        running.until_up().await;
        let redis = &running.redis;
        let shared = running
            .pool
            .check_out(Mode::Shared, Location::caller(), SECOND);
        let Transport::One(watched) = shared.await.unwrap().transport() else {
            panic!("one server");
        };
        proxy.set_faults(Fault::Blackhole, Fault::None);
        let answer = redis.command::<String>(&cmd("PING"), SECOND / 20).await;
        assert!(matches!(answer, Err(Error::Deadline)), "{answer:?}");
        eventually("a check", async || watched.liveness().is_taken()).await;
        let mut lease = redis.lease(5 * SECOND).await.unwrap();
        let answer = lease.command::<String>(&cmd("PING"), SECOND).await;
        assert_eq!(answer.unwrap(), "PONG");
        drop((lease, watched));
        running.close().await;
    });
}
