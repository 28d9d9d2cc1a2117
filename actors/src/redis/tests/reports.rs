//! What users of other clients have reported, tried here against real servers.

use std::panic::Location;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::{Error, Event, Redis, Script, Server, Topology, cmd, pipe};
use super::network::{
    Instance, at_cluster, client_ids, clients, cluster, cluster_behind_proxy, cluster_of_one,
    cluster_of_two, eventually, move_slot,
};
use super::server::{RunningPool, SECOND};
use super::subscribing::{RunningSubscriber, channel, message, next};
use super::words;
use crate::kernel::pool::{CheckoutError, ConnectErrorKind, Mode, TimeoutCause};
use crate::kernel::private_server::ServerUrl;
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::proxy::Fault;
use crate::redis::connection::Transport;
use crate::redis::{ConnectOptions, Credentials};

/// The name of the connections to the nodes of a cluster.
const CLUSTER: &str = "headroom:redis-cluster";

async fn get(redis: &Redis, key: &str, within: Duration) -> Result<Option<String>, Error> {
    redis.command(cmd("GET").arg(key), within).await
}

/// The number of connections that a server has accepted.
fn accepted(server: &Instance) -> u32 {
    let stats = server.ask(&["INFO", "stats"]);
    let line = stats
        .lines()
        .find_map(|it| it.strip_prefix("total_connections_received:"));
    line.unwrap().trim().parse().unwrap()
}

fn one_at(instance: &Instance) -> Server {
    Topology::One(ServerUrl::Configured(instance.url())).into()
}

/// As in the issues 3075 of node-redis and 3111 of redis-py.
#[test]
fn a_cluster_that_is_away_is_not_stormed_and_is_found_again() {
    TestSystem::real_time(|system| async move {
        let (node, other, proxy, server) = cluster_of_two().await;
        let running = RunningPool::at_both_nodes(&system, server).await;
        let redis = &running.redis;
        // The driver asks for the slots, and no node answers.
        let id = node.ask(&["CLUSTER", "MYID"]);
        let moved = ["CLUSTER", "SETSLOT", "12182", "NODE", &id];
        assert_eq!(other.ask(&moved), "OK");
        for node in [&node, &other] {
            let forbid = ["ACL", "SETUSER", "default", "-ping", "-cluster|slots"];
            assert_eq!(node.ask(&forbid), "OK");
        }
        proxy.set_faults(Fault::None, Fault::Close);
        get(redis, "foo", SECOND / 5).await.ok();
        proxy.set_faults(Fault::Close, Fault::Close);
        for calls in [true, false] {
            let before = proxy.accepted();
            let end = Instant::now() + 3 * SECOND;
            while calls && Instant::now() < end {
                let callers = (0..10).map(|_| get(redis, "bar", SECOND / 5));
                join_all(callers).await;
            }
            sleep_until(end).await;
            let opened = proxy.accepted() - before;
            println!("{opened} connections opened in three seconds, calls: {calls}");
            assert!(opened < 200, "{opened}");
        }
        proxy.set_faults(Fault::None, Fault::None);
        for node in [&node, &other] {
            let allow = ["ACL", "SETUSER", "default", "+@all"];
            assert_eq!(node.ask(&allow), "OK");
        }
        let healed = Instant::now();
        eventually("an answer", async || {
            get(redis, "bar", SECOND).await.is_ok()
        })
        .await;
        println!("back after {:?}", healed.elapsed());
        running.close().await;
    });
}

/// As in the issue 1369 of lettuce.
#[test]
fn connections_to_the_nodes_do_not_become_more_when_slots_move() {
    TestSystem::real_time(|system| async move {
        let nodes = cluster().await;
        let named = nodes.iter().map(Instance::node).collect();
        let running = RunningPool::at(&system, at_cluster(named)).await;
        running.until_up().await;
        for round in 0..30 {
            move_slot(&nodes, round % 3, (round + 1) % 3);
            get(&running.redis, "bar", 5 * SECOND).await.unwrap();
        }
        for node in &nodes {
            let clients = clients(node);
            assert_eq!(clients.get(CLUSTER), Some(&1), "{clients:?}");
        }
        running.close().await;
    });
}

/// As in the issue 147 of redis-py.
#[test]
fn a_server_that_closes_idle_connections_costs_no_call() {
    TestSystem::real_time(|system| async move {
        let one = Instance::start(&["--timeout", "1"]).await;
        let node = cluster_of_one(&["--timeout", "1"]).await;
        for (instance, server) in [(&one, one_at(&one)), (&node, at_cluster(vec![node.node()]))] {
            let running = RunningPool::at(&system, server).await;
            running.until_up().await;
            for _ in 0..2 {
                let pool = &running.pool;
                let lease = pool.check_out(Mode::Shared, Location::caller(), SECOND);
                let transport = lease.await.unwrap().transport();
                let present = client_ids(instance, CLUSTER);
                eventually("that it is closed", async || match &transport {
                    Transport::One(watched) => watched.liveness().is_dead(),
                    // The driver connects again at once. A read is sent again if it has not noticed yet.
                    Transport::Cluster(_) => client_ids(instance, CLUSTER) != present,
                })
                .await;
                drop(transport);
                let answer = get(&running.redis, "key", 5 * SECOND).await;
                assert_eq!(answer.unwrap(), None);
            }
            running.close().await;
        }
    });
}

/// As in the issues 11986 and 4300 of redis: a password is replaced while connections are open.
#[test]
fn a_password_that_is_replaced_is_reported_and_tried_rarely_until_it_is_back() {
    TestSystem::real_time(|system| async move {
        let one = Instance::start(&[]).await;
        let node = cluster_of_one(&[]).await;
        let url = format!("redis://worker:old-secret@127.0.0.1:{}", one.port());
        let one_server = Topology::One(ServerUrl::Configured(url.to_owned())).into();
        let options = ConnectOptions {
            credentials: Credentials {
                username: Some("worker".to_owned()),
                password: Some("old-secret".to_owned()),
            },
            ..ConnectOptions::default()
        };
        let nodes = vec![node.node()];
        let cluster_server = Topology::Cluster { nodes, options }.into();
        for (instance, server) in [(&one, one_server), (&node, cluster_server)] {
            let add_worker = |password: &str| {
                let rights = ["on", "~*", "&*", "+@all", password];
                let add = [&["ACL", "SETUSER", "worker"], &rights[..]].concat();
                assert_eq!(instance.ask(&add), "OK");
            };
            add_worker(">old-secret");
            let running = RunningPool::at(&system, server).await;
            running.until_up().await;
            // The server closes the connections of a user that is removed.
            assert_eq!(instance.ask(&["ACL", "DELUSER", "worker"]), "1");
            add_worker(">new-secret");
            eventually("that it is refused", async || {
                let error = get(&running.redis, "key", SECOND).await.unwrap_err();
                let Error::Checkout(
                    CheckoutError::Connect(error)
                    | CheckoutError::CircuitOpen { last: error, .. }
                    | CheckoutError::TimedOut {
                        cause: TimeoutCause::Unreachable(error),
                    },
                ) = error
                else {
                    return false;
                };
                assert!(!format!("{error:?}").contains("secret"), "{error:?}");
                error.kind == ConnectErrorKind::Denied
            })
            .await;
            let before = running.redis.status(SECOND).await.unwrap().failed;
            let end = Instant::now() + 2 * SECOND;
            while Instant::now() < end {
                get(&running.redis, "key", SECOND).await.unwrap_err();
                sleep(SECOND / 200).await;
            }
            let tries = running.redis.status(SECOND).await.unwrap().failed - before;
            println!("{tries} tries in two seconds");
            assert!(tries < 20, "{tries}");
            assert_eq!(
                instance.ask(&["ACL", "SETUSER", "worker", ">old-secret"]),
                "OK"
            );
            running.until_up().await;
            running.close().await;
        }
    });
}

/// As in the issue 1955 of redis-rs.
#[test]
fn large_commands_and_large_answers_at_once_do_not_block_each_other() {
    TestSystem::real_time(|system| async move {
        let one = Instance::start(&[]).await;
        let running = RunningPool::with_one_connection(&system, one_at(&one)).await;
        running.until_up().await;
        let large = "x".repeat(8 << 20);
        let mut set = cmd("SET");
        set.arg("key").arg(&large);
        running
            .redis
            .command::<()>(&set, 20 * SECOND)
            .await
            .unwrap();
        let callers = (0..10).map(async |_| {
            let mut both = pipe();
            both.cmd("GET").arg("key").add_command(set.clone()).ignore();
            let answer = running.redis.pipeline::<(String,)>(&both, 20 * SECOND);
            answer.await.unwrap().0.len()
        });
        let lengths = join_all(callers).await;
        assert!(lengths.into_iter().all(|length| length == large.len()));
        running.close().await;
    });
}

/// As in the issue 1261 of redis-py.
#[test]
fn a_subscriber_that_the_server_ends_for_its_slowness_is_told_and_goes_on() {
    TestSystem::real_time(|system| async move {
        let one =
            Instance::start(&["--client-output-buffer-limit", "pubsub", "1mb", "0", "0"]).await;
        let running = RunningSubscriber::at(&system, one_at(&one), one_at(&one)).await;
        let mut news = running.listen(channel("news")).await;
        running.publish("news", "before").await;
        assert_eq!(next(&mut news).await, message("news", "before"));
        running.publish("news", &"x".repeat(4 << 20)).await;
        assert_eq!(next(&mut news).await, Event::Gap);
        running.publish("news", "after").await;
        assert_eq!(next(&mut news).await, message("news", "after"));
        running.root.stop().await;
    });
}

/// As in the issue 720 of lettuce: the text of a script is sent to all nodes, and one of them is away.
#[test]
fn a_script_runs_on_its_node_while_another_node_is_away() {
    TestSystem::real_time(|system| async move {
        let mut nodes = cluster().await;
        let named = nodes.iter().map(Instance::node).collect();
        let running = RunningPool::at(&system, at_cluster(named)).await;
        running.until_up().await;
        let owns = |node: &Instance| node.ask(&["EXISTS", "bar"]).parse::<u32>().is_ok();
        let away = nodes.iter().position(|node| !owns(node)).unwrap();
        nodes[away].kill();
        let script = Script::new("return redis.call('INCR', KEYS[1])");
        let mut call = script.key("bar");
        let call = call.arg(1);
        eventually("that a key there is served", async || {
            get(&running.redis, "bar", SECOND).await.is_ok()
        })
        .await;
        for calls in 1..=20 {
            let answer = running.redis.script::<u64>(call, 5 * SECOND).await;
            assert_eq!(answer.unwrap(), calls);
        }
        running.close().await;
    });
}

/// As in the issues 11986 of redis and 1113 of go-redis: all clients are paused for longer than a silent
/// link is believed to be alive.
#[test]
fn a_pause_of_all_clients_loses_no_answer() {
    TestSystem::real_time(|system| async move {
        let one = Instance::start(&[]).await;
        let (node, _proxy, cluster) = cluster_behind_proxy().await;
        for (instance, server) in [(&one, one_at(&one)), (&node, cluster)] {
            let running = RunningPool::at(&system, server).await;
            running.until_up().await;
            assert_eq!(instance.ask(&["CLIENT", "PAUSE", "3000", "ALL"]), "OK");
            let incr = words("INCR n");
            let calls = (0..20).map(|_| running.redis.command::<u64>(&incr, 20 * SECOND));
            let mut answers: Vec<u64> = join_all(calls)
                .await
                .into_iter()
                .map(|answer| answer.unwrap())
                .collect();
            answers.sort_unstable();
            assert_eq!(answers, (1..=20).collect::<Vec<u64>>());
            running.close().await;
        }
    });
}

/// As in the issue 1113 of go-redis, in a cluster.
#[test]
fn late_answers_of_a_node_reach_nobody_else() {
    TestSystem::real_time(|system| async move {
        let (_node, proxy, server) = cluster_behind_proxy().await;
        let running = RunningPool::at(&system, server).await;
        running.until_up().await;
        let redis = &running.redis;
        for round in 0..20 {
            let fault = match round % 4 {
                0 => Fault::Delay(SECOND / 10),
                1 => Fault::Truncate(33),
                2 => Fault::Close,
                _ => Fault::None,
            };
            proxy.set_faults(fault, Fault::None);
            let callers = (0..20).map(async |caller| {
                let own = format!("{round}:{caller}:{{bar}}");
                let mut set = pipe();
                set.cmd("SET").arg(&own).arg(&own).ignore();
                set.cmd("GET").arg(&own);
                let answer = redis.pipeline::<(String,)>(&set, SECOND / 20).await;
                answer.map(|(answer,)| assert_eq!(answer, own)).is_ok()
            });
            join_all(callers).await;
        }
        proxy.set_faults(Fault::None, Fault::None);
        running.until_up().await;
        running.close().await;
    });
}

/// As in the issue 2046 of go-redis: connections to healthy nodes are opened again and again.
#[test]
fn a_dead_node_does_not_have_the_others_connected_to_again() {
    TestSystem::real_time(|system| async move {
        let mut nodes = cluster().await;
        let named = nodes.iter().map(Instance::node).collect();
        let running = RunningPool::at(&system, at_cluster(named)).await;
        running.until_up().await;
        // It has the slot of `bar`.
        nodes[0].kill();
        let before = [accepted(&nodes[1]), accepted(&nodes[2])];
        let end = Instant::now() + 3 * SECOND;
        let callers = (0..10).map(async |_| {
            let mut calls = 0;
            while Instant::now() < end {
                get(&running.redis, "bar", SECOND / 5).await.ok();
                calls += 1;
            }
            calls
        });
        let calls: u32 = join_all(callers).await.into_iter().sum();
        let opened = [1, 2].map(|index| accepted(&nodes[index]) - before[index - 1]);
        println!("{calls} calls, {opened:?} connections opened");
        assert!(opened.iter().all(|opened| *opened < 50), "{opened:?}");
        running.close().await;
    });
}
