//! Failover by sentinels.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_redis::redis::Client;
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::super::{Error, Redis, Script, cmd, pipe, pool_config};
use super::faults::server_behind;
use super::network::{Instance, SentinelSetup, at_sentinels, eventually, free_port};
use super::server::{RealServer, RunningPool, SECOND};
use super::words;
use crate::kernel::pool::PoolConfig;
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::proxy::{Fault, Proxy};
use crate::redis::liveness::{Liveness, RoleWatch, Watched};

/// Writes a number and waits until `replicas` have it. Returns how many have it. `WAIT` blocks the
/// connection.
async fn write(redis: &Redis, number: u64, replicas: u32, within: Duration) -> Option<u32> {
    let mut both = pipe();
    both.cmd("SADD").arg("numbers").arg(number).ignore();
    both.cmd("WAIT").arg(replicas).arg(100);
    let mut lease = redis.lease(within).await.ok()?;
    let answer = lease.pipeline::<(u32,)>(&both, within).await;
    answer.ok().map(|(replicas,)| replicas)
}

/// A primary with a replica and sentinels, and a pool that finds the primary through the sentinels.
async fn start(system: &TestSystem) -> (SentinelSetup, RunningPool) {
    let watched = SentinelSetup::start().await;
    let running = RunningPool::at(system, at_sentinels(watched.nodes())).await;
    running.until_up().await;
    (watched, running)
}

#[test]
fn a_killed_primary_is_left_for_the_promoted_replica_without_a_lost_write() {
    TestSystem::real_time(|system| async move {
        let (mut watched, running) = start(&system).await;
        let redis = &running.redis;
        let within = SECOND;
        // A new replica does not acknowledge writes in its first second.
        eventually("the replica confirms", async || {
            matches!(write(redis, 0, 1, within).await, Some(1..))
        })
        .await;
        let end = Instant::now() + 20 * SECOND;
        let (is_killed, is_back) = (Cell::new(false), Cell::new(false));
        let writers = (0..20u64).map(async |writer| {
            let mut acknowledged = Vec::new();
            for number in (writer * 1_000_000).. {
                let began = Instant::now();
                if is_back.get() || began > end {
                    break;
                }
                let replicas = u32::from(!is_killed.get());
                match write(redis, number, replicas, within).await {
                    Some(1..) => acknowledged.push(number),
                    Some(0) => {}
                    None => sleep(Duration::from_millis(5)).await,
                }
                let took = began.elapsed();
                assert!(took < 2 * within + SECOND, "hung for {took:?}");
            }
            acknowledged
        });
        let trouble = async {
            sleep(SECOND / 2).await;
            watched.primary.kill();
            is_killed.set(true);
            let killed = Instant::now();
            let port = watched.replica.port().to_string();
            eventually("that a sentinel says so", async || {
                watched.sentinels.iter().any(|sentinel| {
                    let asked = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"];
                    sentinel.ask(&asked).ends_with(&port)
                })
            })
            .await;
            let named = Instant::now();
            eventually("a write", async || {
                let mut write = cmd("SET");
                write.arg("back").arg(1);
                redis.command::<()>(&write, SECOND / 5).await.is_ok()
            })
            .await;
            is_back.set(true);
            (named.duration_since(killed), named.elapsed())
        };
        let (acknowledged, (named, after)) = tokio::join!(join_all(writers), trouble);
        let acknowledged = acknowledged.concat();
        println!(
            "{} acknowledged; another was named {named:?} after the kill, writes resumed {after:?} later",
            acknowledged.len()
        );
        assert!(after < 3 * SECOND, "{after:?}");
        assert!(acknowledged.len() > 100, "{}", acknowledged.len());
        assert_eq!(watched.replica.ask(&["GET", "back"]), "1");
        for numbers in acknowledged.chunks(1000) {
            let mut there = cmd("SMISMEMBER");
            let there: Vec<bool> = redis
                .command(there.arg("numbers").arg(numbers), SECOND)
                .await
                .unwrap();
            assert!(there.iter().all(|it| *it), "an acknowledged write is lost");
        }
        // The old primary is back as a replica and gets no writes.
        watched.primary.run().await;
        watched
            .primary
            .until(&["INFO", "replication"], "role:slave")
            .await;
        let mut set = cmd("SET");
        redis
            .command::<()>(set.arg("later").arg(1), SECOND)
            .await
            .unwrap();
        assert_eq!(watched.replica.ask(&["GET", "later"]), "1");
        running.close().await;
    });
}

#[test]
fn a_primary_that_became_a_replica_is_left_and_dead_sentinels_are_skipped() {
    TestSystem::real_time(|system| async move {
        let (mut watched, running) = start(&system).await;
        let asked = watched.sentinels[2].ask(&["SENTINEL", "FAILOVER", "main"]);
        assert_eq!(asked, "OK");
        watched
            .primary
            .until(&["INFO", "replication"], "role:slave")
            .await;
        watched.sentinels[0].kill();
        let began = Instant::now();
        let redis = &running.redis;
        eventually("a write", async || {
            let mut set = cmd("SET");
            redis
                .command::<()>(set.arg("key").arg("new"), SECOND)
                .await
                .is_ok()
        })
        .await;
        println!(
            "writes resumed {:?} after the change of roles",
            began.elapsed()
        );
        assert_eq!(watched.replica.ask(&["GET", "key"]), "new");
        running.close().await;
    });
}

/// Reads a key over several connections at once.
async fn read_widely(redis: &Redis) -> Vec<Result<Option<String>, Error>> {
    let reads = (0..16).map(async |_| {
        let mut get = cmd("GET");
        redis
            .command::<Option<String>>(get.arg("key"), SECOND)
            .await
    });
    join_all(reads).await
}

/// Nothing closes the connections to the demoted server, and it answers reads from its old data.
#[test]
fn atomic_pipelines_and_reads_leave_a_demoted_master() {
    TestSystem::real_time(|system| async move {
        let old = Instance::start(&[]).await;
        let port = old.port().to_string();
        let new = Instance::start(&["--replicaof", "127.0.0.1", &port]).await;
        new.until(&["INFO", "replication"], "master_link_status:up")
            .await;
        let proxy = Proxy::start(old.address()).await;
        let config = PoolConfig {
            connections_min: 4,
            connections_max: 5,
            shared_max: 4,
            shared_depth: 2,
            ..pool_config()
        };
        let running = RunningPool::at_with(&system, server_behind(&proxy), config).await;
        running.until_up().await;
        eventually("several connections", async || {
            read_widely(&running.redis).await;
            running.redis.status(SECOND).await.unwrap().size > 2
        })
        .await;
        assert_eq!(new.ask(&["REPLICAOF", "NO", "ONE"]), "OK");
        proxy.set_target(new.address());
        let nowhere = free_port().to_string();
        assert_eq!(old.ask(&["REPLICAOF", "127.0.0.1", &nowhere]), "OK");
        let demoted = Instant::now();
        eventually("a transaction", async || {
            let mut both = pipe();
            both.atomic().cmd("SET").arg("key").arg("new").ignore();
            both.cmd("GET").arg("key");
            match running.redis.pipeline::<(String,)>(&both, SECOND).await {
                Ok(_) => true,
                Err(error) => {
                    assert!(error.is_undone(), "{error:?}");
                    false
                }
            }
        })
        .await;
        println!("transactions run again after {:?}", demoted.elapsed());
        for value in read_widely(&running.redis).await {
            assert_eq!(value.unwrap().as_deref(), Some("new"));
        }
        running.close().await;
    });
}

/// Why a server is not the one that commands are for.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Demoted,
    WithoutMaster,
    Loading,
}

impl Loss {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Demoted => &[],
            Self::WithoutMaster => &["--replica-serve-stale-data", "no"],
            Self::Loading => &[
                "--enable-debug-command",
                "yes",
                "--key-load-delay",
                "1000",
                "--loading-process-events-interval-bytes",
                "1024",
            ],
        }
    }

    /// Brings it about. Drop the result after the test.
    async fn befall(self, server: &Instance) -> Option<TcpStream> {
        if let Self::Demoted | Self::WithoutMaster = self {
            let nowhere = free_port().to_string();
            let demoted = server.ask(&["REPLICAOF", "127.0.0.1", &nowhere]);
            assert_eq!(demoted, "OK");
            return None;
        }
        // A millisecond for each key.
        assert_eq!(server.ask(&["DEBUG", "POPULATE", "3000"]), "OK");
        let mut client = TcpStream::connect(server.address()).await.unwrap();
        client.write_all(b"DEBUG RELOAD\r\n").await.unwrap();
        Some(client)
    }
}

async fn ask_once(redis: &Redis, request: &str) -> Result<(), Error> {
    match request {
        "script" => {
            let script = Script::new("return redis.call('SET', KEYS[1], 'mine')");
            redis.script(&script.key("key"), SECOND).await
        }
        "pipeline" => {
            let mut two = pipe();
            two.add_command(words("SET key mine")).ignore();
            two.add_command(words("DEL key")).ignore();
            redis.pipeline(&two, SECOND).await
        }
        command => redis.command(&words(command), SECOND).await,
    }
}

/// The connections stay open, so an error is all that tells.
#[test]
fn every_kind_of_request_leaves_a_server_that_commands_are_not_for() {
    TestSystem::real_time(|system| async move {
        for (loss, request, expected) in [
            (Loss::Demoted, "SET key mine", "READONLY"),
            (Loss::Demoted, "pipeline", "READONLY"),
            (Loss::Demoted, "script", "READONLY"),
            (Loss::WithoutMaster, "EXISTS key", "MASTERDOWN"),
            (Loss::Loading, "EXISTS key", "LOADING"),
        ] {
            let old = Instance::start(loss.arguments()).await;
            let new = Instance::start(&[]).await;
            assert_eq!(new.ask(&["SET", "key", "new"]), "OK");
            let proxy = Proxy::start(old.address()).await;
            let running = RunningPool::at(&system, server_behind(&proxy)).await;
            running.until_up().await;
            proxy.set_target(new.address());
            let client = loss.befall(&old).await;
            let redis = &running.redis;
            let refused = async {
                loop {
                    if let Err(error) = ask_once(redis, request).await {
                        break error;
                    }
                }
            };
            let error = timeout(20 * SECOND, refused).await.unwrap();
            assert!(
                matches!(&error, Error::Server { code, .. } if code == expected),
                "{loss:?}, {request}: {error:?}"
            );
            assert!(error.is_undone(), "{loss:?}, {request}: {error:?}");
            let value: Option<String> = redis.command(&words("GET key"), SECOND).await.unwrap();
            assert_eq!(value.as_deref(), Some("new"), "{loss:?}, {request}");
            drop(client);
            running.close().await;
        }
    });
}

/// Its machine is away: nothing answers, and nothing is refused.
#[test]
fn a_silent_sentinel_is_skipped() {
    TestSystem::real_time(|system| async move {
        let watched = SentinelSetup::start().await;
        let mut sentinels = watched.nodes();
        let silent = Proxy::start(watched.sentinels[0].address()).await;
        silent.set_faults(Fault::Blackhole, Fault::Blackhole);
        sentinels[0].port = silent.address().port();
        let running = RunningPool::at(&system, at_sentinels(sentinels)).await;
        let up = running.until_up().await;
        println!("connected after {up:?}");
        assert!(up < 5 * SECOND, "{up:?}");
        running.close().await;
    });
}

#[test]
fn a_server_that_reads_its_data_gets_no_connections_until_it_is_ready() {
    TestSystem::real_time(|system| async move {
        let mut server = RealServer::start(&["--appendonly", "yes"]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let mut keys = pipe();
        for key in 0..3000 {
            keys.cmd("SET").arg(key).arg("value").ignore();
        }
        let redis = &running.redis;
        redis.pipeline::<()>(&keys, 20 * SECOND).await.unwrap();
        server.kill();
        eventually("that the end of the server is noticed", async || {
            let answer = redis.command::<String>(&cmd("PING"), SECOND / 5).await;
            matches!(answer, Err(Error::Checkout(_)))
        })
        .await;
        // A millisecond for each key.
        server.run_with(&[
            "--key-load-delay",
            "1000",
            "--loading-process-events-interval-bytes",
            "1024",
        ]);
        let mut refusals = Vec::new();
        eventually("an answer", async || {
            match redis.command::<String>(&cmd("PING"), SECOND / 5).await {
                Ok(_) => return true,
                Err(error) => {
                    assert!(matches!(error, Error::Checkout(_)), "{error:?}");
                    refusals.push(error.to_string());
                }
            }
            false
        })
        .await;
        let is_told = |text: &String| text.contains("redis is not ready yet");
        assert!(refusals.iter().any(is_told), "{refusals:?}");
        let status = redis.status(SECOND).await.unwrap();
        println!(
            "{} refused, {} failed connects",
            refusals.len(),
            status.failed
        );
        assert!(status.failed < 60, "{status:?}");
        running.close().await;
    });
}

/// A server that a sentinel named and that is only read from.
#[test]
fn a_demotion_is_noticed_without_a_write() {
    TestSystem::real_time(|_| async move {
        let server = Instance::start(&[]).await;
        let client = Client::open(server.url()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        let demoted = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&demoted);
        let role = RoleWatch {
            every: SECOND / 20,
            on_replica: Box::new(move || told.store(true, Ordering::Release)),
        };
        let liveness = Arc::new(Liveness::default());
        let _watched = Watched::new(connection, Arc::clone(&liveness), Some(role));
        server
            .until(&["INFO", "commandstats"], "cmdstat_role")
            .await;
        assert!(!demoted.load(Ordering::Acquire), "it is a master");
        let nowhere = free_port().to_string();
        assert_eq!(server.ask(&["REPLICAOF", "127.0.0.1", &nowhere]), "OK");
        eventually("that it is a replica", async || {
            demoted.load(Ordering::Acquire)
        })
        .await;
        assert!(!liveness.is_dead());
    });
}
