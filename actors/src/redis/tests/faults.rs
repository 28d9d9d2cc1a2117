//! Network faults: no call hangs, no caller gets the answer of another, and the pool recovers.

use std::future::pending;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::super::{Error, Redis, Server, Topology, cmd, pool_config};
use super::network::{
    Instance, SentinelSetup, at_sentinels, cluster_behind_proxy, cluster_of_two, connections_to,
    eventually, probed_within,
};
use super::server::{RunningPool, SECOND};
use super::subscribing::{RunningSubscriber, channel};
use crate::kernel::pool::{Mode, PoolConfig};
use crate::kernel::private_server::ServerUrl;
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::proxy::{Fault, Proxy};
use crate::redis::connection::Transport;

/// The deadline of a call.
const WITHIN: Duration = Duration::from_millis(300);

pub(super) fn server_behind(proxy: &Proxy) -> Server {
    let url = format!("redis://{}", proxy.address());
    Topology::One(ServerUrl::Configured(url.to_owned())).into()
}

/// Sends a unique value. The answer, if there is one, must be the same value.
async fn ask(redis: &Redis) -> Result<(), Error> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let own = format!("{}", LAST.fetch_add(1, Relaxed)).repeat(20);
    let began = Instant::now();
    let answer = redis.command::<String>(cmd("ECHO").arg(&own), WITHIN).await;
    let took = began.elapsed();
    assert!(took < WITHIN + SECOND, "hung for {took:?}");
    answer.map(|answer| assert_eq!(answer, own, "the answer of another caller"))
}

/// Asks from several callers for `time`. Returns how many calls were answered and how many failed.
async fn ask_for(redis: &Redis, time: Duration) -> (u64, u64) {
    let end = Instant::now() + time;
    let callers = (0..20).map(async |_| {
        let (mut answered, mut failed) = (0, 0);
        while Instant::now() < end {
            match ask(redis).await {
                Ok(()) => answered += 1,
                Err(_) => {
                    failed += 1;
                    sleep(Duration::from_millis(1)).await;
                }
            }
        }
        (answered, failed)
    });
    let counts = join_all(callers).await;
    counts
        .into_iter()
        .fold((0, 0), |(a, f), (answered, failed)| {
            (a + answered, f + failed)
        })
}

#[test]
fn no_network_fault_gives_a_caller_the_answer_of_another() {
    TestSystem::real_time(|system| async move {
        let server = Instance::start(&[]).await;
        let proxy = Proxy::start(server.address()).await;
        // A connect that began in a hole is given up then, and not before.
        let config = PoolConfig {
            connect_timeout: SECOND,
            ..pool_config()
        };
        let running = RunningPool::at_with(&system, server_behind(&proxy), config).await;
        running.until_up().await;
        for fault in [
            Fault::Delay(Duration::from_millis(20)),
            // Answers come after their callers have left.
            Fault::Delay(WITHIN + Duration::from_millis(50)),
            Fault::Truncate(33),
            Fault::Close,
            Fault::Blackhole,
        ] {
            for new in [Fault::None, fault] {
                let before = proxy.accepted();
                proxy.set_faults(fault, new);
                let (answered, failed) = ask_for(&running.redis, SECOND).await;
                // A black hole keeps its connections: only new ones are forwarded.
                let existing = if fault == Fault::Blackhole {
                    fault
                } else {
                    Fault::None
                };
                proxy.set_faults(existing, Fault::None);
                let healed = Instant::now();
                eventually("an answer", async || ask(&running.redis).await.is_ok()).await;
                let took = healed.elapsed();
                let opened = proxy.accepted() - before;
                println!(
                    "{fault:?}, then {new:?}: {answered} answered, {failed} not, {opened} opened, \
                     back after {took:?}"
                );
                assert!(took < 3 * SECOND, "{fault:?}: {took:?}");
                assert!(answered + failed > 20, "{fault:?}");
                assert!(opened < 100, "{opened} opened in a second");
            }
        }
        let (answered, failed) = ask_for(&running.redis, SECOND / 5).await;
        assert!(
            answered > 0 && failed == 0,
            "{answered} answered, {failed} not"
        );
        assert_eq!(running.pool.in_flight(), 0);
        running.close().await;
    });
}

/// Nothing holds the connection that went silent, although no answer came over it.
async fn the_silent_one_is_closed(running: &RunningPool, proxy: &Proxy) {
    eventually("the end of the silent connection", async || {
        let size = running.redis.status(SECOND).await.unwrap().size;
        connections_to(proxy.address().port()) == usize::try_from(size).unwrap()
    })
    .await;
}

/// The link goes silent: nothing closes it, and new connections work. The callers leave long before
/// the deadlines of their commands.
async fn is_answered_over_another_connection(system: &TestSystem, proxy: &Proxy, server: Server) {
    let config = PoolConfig {
        connect_timeout: SECOND,
        ..pool_config()
    };
    let running = RunningPool::at_with(system, server, config).await;
    running.until_up().await;
    let get = || {
        let mut get = cmd("GET");
        get.arg("key");
        get
    };
    proxy.set_faults(Fault::Blackhole, Fault::None);
    let began = Instant::now();
    eventually("an answer", async || {
        let get = get();
        let asked = running.redis.command::<Option<String>>(&get, 30 * SECOND);
        let answer = timeout(Duration::from_millis(50), asked).await;
        matches!(answer, Ok(Ok(_)))
    })
    .await;
    println!("answered again after {:?}", began.elapsed());
    the_silent_one_is_closed(&running, proxy).await;
    running.close().await;
}

#[test]
fn a_silent_link_is_replaced_although_callers_bring_their_own_time_outs() {
    TestSystem::real_time(|system| async move {
        let instance = Instance::start(&[]).await;
        let proxy = Proxy::start(instance.address()).await;
        let server = server_behind(&proxy);
        is_answered_over_another_connection(&system, &proxy, server).await;
    });
}

#[test]
fn a_silent_link_to_a_node_of_a_cluster_is_replaced_too() {
    TestSystem::real_time(|system| async move {
        let (_node, proxy, server) = cluster_behind_proxy().await;
        is_answered_over_another_connection(&system, &proxy, server).await;
    });
}

/// The other nodes of the cluster answer all the time, so the client as a whole is not silent.
#[test]
fn one_node_of_a_cluster_that_goes_silent_is_found_again() {
    TestSystem::real_time(|system| async move {
        let (_node, _other, proxy, server) = cluster_of_two().await;
        let running = RunningPool::at(&system, server).await;
        running.until_up().await;
        let get = async |key: &str| {
            let mut get = cmd("GET");
            let asked = running
                .redis
                .command::<Option<String>>(get.arg(key), SECOND / 5);
            asked.await.is_ok()
        };
        eventually("both nodes", async || get("bar").await && get("foo").await).await;
        proxy.set_faults(Fault::Blackhole, Fault::None);
        let began = Instant::now();
        eventually("the silent node", async || {
            get("foo").await;
            get("bar").await
        })
        .await;
        println!("answered again after {:?}", began.elapsed());
        the_silent_one_is_closed(&running, &proxy).await;
        let status = running.redis.status(SECOND).await.unwrap();
        assert!(status.closed.is_empty(), "{status:?}");
        running.close().await;
    });
}

/// Every caller leaves before its answer comes.
async fn short_deadlines_open_nothing(running: &RunningPool, proxy: &Proxy, time: Duration) {
    running.until_up().await;
    let slow = Fault::Delay(SECOND / 5);
    proxy.set_faults(slow, slow);
    let before = proxy.accepted();
    let mut get = cmd("GET");
    get.arg("key");
    let end = Instant::now() + time;
    let callers = (0..4).map(async |_| {
        while Instant::now() < end {
            let answer = running.redis.command::<Option<String>>(&get, SECOND / 20);
            assert!(answer.await.is_err());
        }
    });
    join_all(callers).await;
    let opened = proxy.accepted() - before;
    assert!(opened <= 2, "{opened} opened");
    let answer = running.redis.command::<Option<String>>(&get, 20 * SECOND);
    assert_eq!(answer.await.unwrap(), None);
    let status = running.redis.status(SECOND).await.unwrap();
    assert!(status.closed.is_empty(), "{status:?}");
}

#[test]
fn deadlines_shorter_than_the_round_trip_open_no_connections() {
    TestSystem::real_time(|system| async move {
        let instance = Instance::start(&[]).await;
        let proxy = Proxy::start(instance.address()).await;
        let one = RunningPool::at(&system, server_behind(&proxy)).await;
        short_deadlines_open_nothing(&one, &proxy, 3 * SECOND).await;
        one.close().await;
        let (_node, proxy, server) = cluster_behind_proxy().await;
        let cluster = RunningPool::at(&system, server).await;
        // Longer than a cluster may be silent.
        short_deadlines_open_nothing(&cluster, &proxy, 7 * SECOND).await;
        cluster.close().await;
    });
}

/// One caller has much time, another one has left long before the link counts as silent. Nobody else asks.
#[test]
fn a_silent_link_is_noticed_by_one_caller_that_waits_or_has_left() {
    TestSystem::real_time(|system| async move {
        let instance = Instance::start(&[]).await;
        for within in [60 * SECOND, SECOND / 20] {
            let proxy = Proxy::start(instance.address()).await;
            let running = RunningPool::at(&system, server_behind(&proxy)).await;
            running.until_up().await;
            let pool = &running.pool;
            let lease = pool.check_out(Mode::Shared, Location::caller(), SECOND);
            let Transport::One(watched) = lease.await.unwrap().transport() else {
                panic!("one server");
            };
            proxy.set_faults(Fault::Blackhole, Fault::None);
            let asks = async {
                let ping = cmd("PING");
                let answer = running.redis.command::<String>(&ping, within).await;
                assert!(matches!(answer, Err(Error::Deadline)), "{answer:?}");
                pending::<()>().await;
            };
            let noticed = eventually("that the link is dead", async || {
                watched.liveness().is_dead()
            });
            tokio::select! {
                () = asks => {}
                () = noticed => {}
            }
            drop(watched);
            running.close().await;
        }
    });
}

#[test]
fn the_kernel_looks_after_every_connection_that_is_silent() {
    TestSystem::real_time(|system| async move {
        let one = Instance::start(&[]).await;
        let watched = SentinelSetup::start().await;
        let (node, proxy, cluster) = cluster_behind_proxy().await;
        let location = Topology::One(ServerUrl::Configured(one.url()));
        for (server, port) in [
            (location.into(), one.port()),
            (at_sentinels(watched.nodes()), watched.primary.port()),
            (cluster, proxy.address().port()),
        ] {
            let running = RunningSubscriber::at(&system, server.clone(), server).await;
            let subscription = running.listen(channel("news")).await;
            running.publish("news", "on").await;
            // One publishes, one listens.
            eventually("that both are probed", async || {
                let probed = probed_within(port);
                probed.len() == 2 && probed.iter().all(|within| *within <= 15 * SECOND)
            })
            .await;
            drop(subscription);
            running.root.stop().await;
        }
        drop(node);
    });
}
