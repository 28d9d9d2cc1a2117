//! Nodes of a cluster that others name, and what one client knows of them.

use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use deadpool_redis::redis::AsyncConnectionConfig;
use deadpool_redis::redis::cluster_async::Connect;
use futures_util::future::{join_all, select};

use super::super::client_record::ClientRecord;
use super::super::cluster_node::NodeConnection;
use super::super::connection::Transport;
use super::super::{Done, Error, Redis, Topology, cmd, pipe};
use super::network::{
    Instance, at_cluster, clients, cluster, cluster_behind_proxy, cluster_of_one, cluster_of_two,
    connections_to, eventually, free_port, move_slot,
};
use super::server::{RunningPool, SECOND};
use super::words;
use crate::kernel::pool::Mode;
use crate::kernel::private_server::ServerUrl;
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::proxy::Fault;
use crate::redis::{ConnectOptions, Credentials, Server};

/// The slots of `a`, `bar` and `foo`.
const A: &str = "15495";
const BAR: &str = "5061";
const FOO: &str = "12182";

async fn get(redis: &Redis, key: &str, within: Duration) -> Result<Option<String>, Error> {
    redis.command(cmd("GET").arg(key), within).await
}

/// A node without slots that has joined the cluster of `known`.
async fn new_node(known: &Instance) -> Instance {
    let bus = free_port().to_string();
    let new = Instance::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await;
    let port = new.port().to_string();
    let met = known.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    assert_eq!(met, "OK");
    let id = new.ask(&["CLUSTER", "MYID"]);
    known.until(&["CLUSTER", "NODES"], &id).await;
    new.until(&["CLUSTER", "INFO"], "cluster_state:ok").await;
    new
}

/// Lets a slot be on its way to another node.
fn begin_to_move(slot: &str, from: &Instance, to: &Instance) {
    let (from_id, to_id) = (from.ask(&["CLUSTER", "MYID"]), to.ask(&["CLUSTER", "MYID"]));
    let importing = ["CLUSTER", "SETSLOT", slot, "IMPORTING", &from_id];
    assert_eq!(to.ask(&importing), "OK");
    let migrating = ["CLUSTER", "SETSLOT", slot, "MIGRATING", &to_id];
    assert_eq!(from.ask(&migrating), "OK");
}

/// How a node names the others. Without a host, and with `?`, it is the one at which it was reached itself.
fn name_nodes_by(kind: &str, nodes: &[&Instance]) {
    for node in nodes {
        let set = ["CONFIG", "SET", "cluster-preferred-endpoint-type", kind];
        assert_eq!(node.ask(&set), "OK");
    }
}

/// A node that has joined the cluster just now has no slots, and the driver does not know it.
#[test]
fn keys_that_move_to_a_new_node_are_found_however_it_is_named() {
    TestSystem::real_time(|system| async move {
        for kind in ["ip", "unknown-endpoint", "hostname"] {
            let (from, other, _proxy, server) = cluster_of_two().await;
            let new = new_node(&from).await;
            name_nodes_by(kind, &[&from, &other, &new]);
            let running = RunningPool::at_both_nodes(&system, server).await;
            let redis = &running.redis;
            let mut set = cmd("SET");
            set.arg("bar").arg("bar");
            redis.command::<()>(&set, SECOND).await.unwrap();
            begin_to_move(BAR, &from, &new);
            let port = new.port().to_string();
            let moved = from.ask(&["MIGRATE", "127.0.0.1", &port, "bar", "0", "5000"]);
            assert_eq!(moved, "OK");
            for _ in 0..20 {
                let found = get(redis, "bar", SECOND).await;
                assert_eq!(found.unwrap().as_deref(), Some("bar"), "{kind}");
            }
            let mut both = pipe();
            both.cmd("APPEND").arg("bar").arg("!");
            both.cmd("GET").arg("bar");
            let (length, value): (usize, String) = redis.pipeline(&both, SECOND).await.unwrap();
            assert_eq!((length, value.as_str()), (4, "bar!"), "{kind}");
            let id = new.ask(&["CLUSTER", "MYID"]);
            for node in [&new, &from] {
                let done = node.ask(&["CLUSTER", "SETSLOT", BAR, "NODE", &id]);
                assert_eq!(done, "OK");
            }
            eventually("the new owner", async || {
                let found = get(redis, "bar", SECOND).await;
                found.is_ok_and(|value| value.as_deref() == Some("bar!"))
            })
            .await;
            running.close().await;
        }
    });
}

/// How often a node was sent a command, and how often it refused it before it ran.
fn calls(node: &Instance, command: &str) -> (u32, u32) {
    let stats = node.ask(&["INFO", "commandstats"]);
    let name = format!("cmdstat_{command}:");
    let line = stats.lines().find_map(|line| line.strip_prefix(&name));
    let number = |field: &str| {
        let mut fields = line.unwrap_or_default().trim().split(',');
        let number = fields.find_map(|it| it.strip_prefix(field));
        number.map_or(0, |number| number.parse().unwrap())
    };
    (number("calls="), number("rejected_calls="))
}

/// The node that gets the slot has one of two keys: it can run some commands, and others only later.
#[test]
fn a_pipeline_that_the_new_owner_refuses_is_sent_again_and_one_that_it_ran_is_not() {
    TestSystem::real_time(|system| async move {
        let (from, to, _proxy, server) = cluster_of_two().await;
        let running = RunningPool::at_both_nodes(&system, server).await;
        let redis = &running.redis;
        begin_to_move(BAR, &from, &to);
        redis
            .command::<()>(&words("SET {bar}1 one"), SECOND)
            .await
            .unwrap();
        assert_eq!(to.ask(&["CONFIG", "RESETSTAT"]), "OK");
        let both = words("MGET {bar}1 {bar}2");
        let mut refused = pipe();
        refused.add_command(both.clone());
        let answer = redis
            .pipeline::<(Vec<Option<String>>,)>(&refused, 5 * SECOND)
            .await;
        let error = answer.unwrap_err();
        assert_eq!(error.done(), Done::Nothing, "{error:?}");
        assert_eq!(calls(&to, "mget"), (0, 3), "it was sent again: {error:?}");
        // Its first command was run.
        let mut apart = pipe();
        apart.add_command(words("APPEND {bar}1 !"));
        apart.add_command(both);
        let answer = redis
            .pipeline::<(u32, Vec<Option<String>>)>(&apart, 5 * SECOND)
            .await;
        let error = answer.unwrap_err();
        assert!(
            matches!(&error, Error::Server { code, at: Some(1), done: Done::Part } if code == "TRYAGAIN"),
            "{error:?}"
        );
        assert_eq!(calls(&to, "append"), (1, 0), "it was sent once");
        // The next command is not delayed by that.
        assert_eq!(from.ask(&["CONFIG", "RESETSTAT"]), "OK");
        let value = get(redis, "{bar}1", SECOND).await.unwrap();
        assert_eq!(value.as_deref(), Some("one!"));
        assert_eq!(calls(&from, "get"), (0, 1), "it was sent on once");
        running.close().await;
    });
}

/// As in the issues 2290 of lettuce and 2646 of phpredis: `MOVED 5061 :6379`.
#[test]
fn nodes_that_do_not_know_their_addresses_are_found() {
    TestSystem::real_time(|system| async move {
        let nodes = cluster().await;
        for kind in ["unknown-endpoint", "hostname"] {
            let [first, second, third] = &nodes[..] else {
                panic!("three nodes");
            };
            name_nodes_by(kind, &[first, second, third]);
            let named = vec![first.node()];
            let running = RunningPool::at(&system, at_cluster(named)).await;
            running.until_up().await;
            for round in 0..6 {
                move_slot(&nodes, round % 3, (round + 1) % 3);
                let answer = get(&running.redis, "bar", 5 * SECOND).await;
                assert_eq!(answer.unwrap(), None, "{kind}");
            }
            running.close().await;
        }
    });
}

/// One node is getting a slot and does not answer, another one is getting another slot.
#[test]
fn a_silent_node_delays_nobody_who_asks_another() {
    TestSystem::real_time(|system| async move {
        let (silent, from, proxy, server) = cluster_of_two().await;
        let new = new_node(&from).await;
        let running = RunningPool::at_both_nodes(&system, server).await;
        let redis = &running.redis;
        begin_to_move(FOO, &from, &silent);
        begin_to_move(A, &from, &new);
        proxy.set_faults(Fault::None, Fault::Blackhole);
        let (before, open) = (proxy.accepted(), connections_to(proxy.address().port()));
        // All at once: the pool lets nobody join a client that has kept callers waiting for a while.
        let delayed = join_all((0..5).map(|_| get(redis, "foo", SECOND * 3 / 2)));
        let others = join_all((0..5).map(|_| get(redis, "a", SECOND)));
        let (delayed, others) = tokio::join!(delayed, others);
        for answer in others {
            assert_eq!(answer.unwrap(), None);
        }
        for answer in delayed {
            assert!(matches!(answer, Err(Error::Deadline)), "{answer:?}");
        }
        assert_eq!(proxy.accepted() - before, 1, "one connects for all");
        eventually("the end of a connect that nobody waits for", async || {
            connections_to(proxy.address().port()) == open
        })
        .await;
        running.close().await;
    });
}

/// What is sent over a connection is counted for its client. Without that, a write in flight would be repeated.
#[tokio::test]
async fn a_connection_whose_client_is_unknown_is_refused() {
    let node = cluster_of_one(&[]).await;
    let config = AsyncConnectionConfig::new;
    let recorded = config().set_dns_resolver(ClientRecord::default());
    let connected = NodeConnection::connect_with_config(node.url(), recorded).await;
    assert!(connected.is_ok(), "{:?}", connected.err());
    let refused = NodeConnection::connect_with_config(node.url(), config()).await;
    let error = refused.err().expect("it is refused").to_string();
    assert!(error.contains("was not asked"), "{error}");
}

/// A client none of whose nodes answers for a while is replaced. Nobody has asked any here.
#[test]
fn a_request_that_was_not_sent_begins_no_silence() {
    TestSystem::real_time(|system| async move {
        let (_from, _to, _proxy, server) = cluster_of_two().await;
        let running = RunningPool::at_both_nodes(&system, server).await;
        let lease = running
            .pool
            .check_out(Mode::Shared, Location::caller(), SECOND);
        let Transport::Cluster(cluster) = lease.await.unwrap().transport() else {
            panic!("a cluster");
        };
        get(&running.redis, "foo", SECOND).await.unwrap();
        let mut apart = pipe();
        apart.cmd("GET").arg("foo").cmd("GET").arg("bar");
        let error = running.redis.pipeline::<()>(&apart, SECOND).await;
        let error = error.unwrap_err();
        assert!(
            matches!(&error, Error::Server { code, .. } if code == "CROSSSLOT"),
            "{error:?}"
        );
        assert_eq!(cluster.record().silence(), Duration::ZERO);
        running.close().await;
    });
}

/// Only a request that this client has sent can be the one that was lost.
#[test]
fn what_another_cluster_is_sent_makes_nobody_doubt_what_was_done() {
    TestSystem::real_time(|system| async move {
        let busy = cluster_of_one(&[]).await;
        let busy = RunningPool::at(&system, at_cluster(vec![busy.node()])).await;
        busy.until_up().await;
        let (_node, proxy, server) = cluster_behind_proxy().await;
        let running = RunningPool::with_one_connection(&system, server).await;
        running.until_up().await;
        proxy.set_faults(Fault::Close, Fault::Close);
        let sent = AtomicU64::new(0);
        let traffic = join_all((0..4).map(async |_| {
            loop {
                get(&busy.redis, "key", SECOND).await.unwrap();
                sent.fetch_add(1, Relaxed);
            }
        }));
        let incr = words("INCR n");
        let fails = async || {
            let answer = running.redis.command::<u64>(&incr, 5 * SECOND).await;
            answer.unwrap_err()
        };
        let told = async {
            eventually("that no node is there", async || {
                matches!(fails().await, Error::NoNode { .. })
            })
            .await;
            let mut in_a_row = 0;
            while in_a_row < 5 {
                let before = sent.load(Relaxed);
                let error = fails().await;
                let meanwhile = sent.load(Relaxed) - before;
                match error {
                    Error::NoNode { done } => {
                        assert_eq!(done, Done::Nothing);
                        assert!(meanwhile > 0, "nothing was sent to the other cluster");
                        in_a_row += 1;
                    }
                    // The client was replaced.
                    Error::Checkout(_) => break,
                    error => panic!("after {in_a_row}: {error:?}"),
                }
            }
            assert!(in_a_row >= 3, "{in_a_row} in a row");
        };
        select(std::pin::pin!(traffic), std::pin::pin!(told)).await;
        running.close().await;
        busy.close().await;
    });
}

/// The identities of the clients with this name, as the server gives them.
fn ids(server: &Instance, name: &str) -> Vec<String> {
    let list = server.ask(&["CLIENT", "LIST"]);
    let name = format!(" name={name} ");
    let ours = list.lines().filter(|line| line.contains(&name));
    let ids = ours.filter_map(|line| line.split(' ').next());
    ids.map(str::to_owned).collect()
}

/// A user who may do everything but `PING`.
fn add_worker(server: &Instance) {
    let rights = ["on", ">word", "~*", "&*", "+@all", "-ping"];
    let add = [&["ACL", "SETUSER", "worker"], &rights[..]].concat();
    assert_eq!(server.ask(&add), "OK");
}

fn as_worker(nodes: &[Instance]) -> Server {
    let options = ConnectOptions {
        credentials: Credentials {
            username: Some("worker".to_owned()),
            password: Some("word".to_owned()),
        },
        ..ConnectOptions::default()
    };
    let nodes = nodes.iter().map(Instance::node).collect();
    Topology::Cluster { nodes, options }.into()
}

/// Leaves before an answer comes, so that the connection is checked with a `PING`.
async fn have_it_checked(redis: &Redis, server: &Instance) {
    // Shorter than the server may keep silent.
    let pause = ["CLIENT", "PAUSE", "300", "WRITE"];
    assert_eq!(server.ask(&pause), "OK");
    let incr = words("INCR n");
    let answer = redis.command::<u64>(&incr, SECOND / 20).await;
    assert!(matches!(answer, Err(Error::Deadline)), "{answer:?}");
    server.until(&["ACL", "LOG"], "ping").await;
    get(redis, "n", 5 * SECOND).await.unwrap();
}

#[test]
fn a_user_who_may_not_ping_keeps_its_connections() {
    TestSystem::real_time(|system| async move {
        let one = Instance::start(&[]).await;
        add_worker(&one);
        let url = format!("redis://worker:word@127.0.0.1:{}", one.port());
        let server = Topology::One(ServerUrl::Configured(url)).into();
        let running = RunningPool::with_one_connection(&system, server).await;
        let redis = &running.redis;
        for _ in 0..3 {
            let mut lease = redis.lease(SECOND).await.unwrap();
            lease
                .command::<()>(&words("WATCH n"), SECOND)
                .await
                .unwrap();
        }
        assert_eq!(one.ask(&["ACL", "LOG", "RESET"]), "OK");
        have_it_checked(redis, &one).await;
        let status = redis.status(SECOND).await.unwrap();
        assert_eq!((status.opened, status.closed.len()), (1, 0), "{status:?}");
        running.close().await;
        let nodes = cluster().await;
        nodes.iter().for_each(add_worker);
        let running = RunningPool::with_one_connection(&system, as_worker(&nodes)).await;
        let redis = &running.redis;
        let name = "headroom:redis-cluster";
        eventually("all nodes", async || {
            get(redis, "bar", SECOND).await.is_ok()
                && nodes.iter().all(|node| clients(node).contains_key(name))
        })
        .await;
        let before: Vec<_> = nodes.iter().map(|node| ids(node, name)).collect();
        for round in 0..6 {
            move_slot(&nodes, round % 3, (round + 1) % 3);
            get(redis, "bar", 5 * SECOND).await.unwrap();
        }
        let owns = |node: &&Instance| node.ask(&["EXISTS", "n"]).parse::<u32>().is_ok();
        let owner = nodes.iter().find(owns).unwrap();
        assert_eq!(owner.ask(&["ACL", "LOG", "RESET"]), "OK");
        have_it_checked(redis, owner).await;
        let after: Vec<_> = nodes.iter().map(|node| ids(node, name)).collect();
        assert_eq!(before, after);
        running.close().await;
    });
}
