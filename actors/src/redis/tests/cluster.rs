//! A cluster of three masters.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::super::{Cmd, Done, Error, Redis, cmd, pipe};
use super::network::{
    Instance, at_cluster, cluster, cluster_behind_proxy, cluster_of_two, eventually,
};
use super::server::{RunningPool, SECOND};
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::proxy::Fault;

async fn set(redis: &Redis, key: &str) -> Result<(), Error> {
    redis.command(cmd("SET").arg(key).arg(key), SECOND).await
}

async fn get(redis: &Redis, key: &str) -> Result<String, Error> {
    redis.command(cmd("GET").arg(key), SECOND).await
}

/// The slot of a key.
fn slot(node: &Instance, key: &str) -> String {
    node.ask(&["CLUSTER", "KEYSLOT", key])
}

/// The index of the node that has each key.
fn owners(nodes: &[Instance], keys: &[String]) -> BTreeMap<String, usize> {
    let mut owners = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for key in node.ask(&["KEYS", "*"]).lines() {
            owners.insert(key.to_owned(), index);
        }
    }
    assert_eq!(owners.len(), keys.len());
    owners
}

#[test]
fn keys_of_all_slots_are_found_also_when_a_slot_has_moved() {
    TestSystem::real_time(|system| async move {
        let nodes = cluster().await;
        // One of the configured nodes is not there.
        let mut named = [Instance::start(&[]).await];
        named[0].kill();
        let named: Vec<_> = named
            .iter()
            .chain(&nodes[..1])
            .map(Instance::node)
            .collect();
        let running = RunningPool::at(&system, at_cluster(named)).await;
        running.until_up().await;
        let keys: Vec<String> = (0..300).map(|number| format!("key:{number}")).collect();
        for key in &keys {
            set(&running.redis, key).await.unwrap();
        }
        for key in &keys {
            assert_eq!(&get(&running.redis, key).await.unwrap(), key);
        }
        let owners = owners(&nodes, &keys);
        for index in 0..3 {
            assert!(owners.values().any(|it| *it == index), "{index} has no key");
        }
        // A slot without keys moves to another node without notice.
        let moved = slot(&nodes[0], "moved");
        set(&running.redis, "moved").await.unwrap();
        let from = nodes
            .iter()
            .position(|node| node.ask(&["GET", "moved"]) == "moved")
            .unwrap();
        running
            .redis
            .command::<u64>(cmd("DEL").arg("moved"), SECOND)
            .await
            .unwrap();
        let to = (from + 1) % nodes.len();
        let id = nodes[to].ask(&["CLUSTER", "MYID"]);
        for node in [&nodes[to], &nodes[from]] {
            assert_eq!(node.ask(&["CLUSTER", "SETSLOT", &moved, "NODE", &id]), "OK");
        }
        set(&running.redis, "moved").await.unwrap();
        assert_eq!(nodes[to].ask(&["GET", "moved"]), "moved");
        let info = running.redis.server_info(SECOND).await.unwrap().unwrap();
        assert_eq!((info.nodes, info.role.as_str()), (3, "master"));
        let status = running.redis.status(SECOND).await.unwrap();
        assert!(status.closed.is_empty(), "{status:?}");
        running.close().await;
    });
}

#[test]
fn a_dead_node_costs_only_its_slots_and_is_found_again() {
    TestSystem::real_time(|system| async move {
        let mut nodes = cluster().await;
        let named = nodes.iter().map(Instance::node).collect();
        let running = RunningPool::at(&system, at_cluster(named)).await;
        running.until_up().await;
        let keys: Vec<String> = (0..60).map(|number| format!("key:{number}")).collect();
        for key in &keys {
            set(&running.redis, key).await.unwrap();
        }
        let owners = owners(&nodes, &keys);
        nodes[1].kill();
        let end = Instant::now() + 3 * SECOND;
        let (mut served, mut failed) = (0, BTreeMap::new());
        while Instant::now() < end {
            for key in &keys {
                let asked = Instant::now();
                let answer = get(&running.redis, key).await;
                let took = asked.elapsed();
                assert!(took < 2 * SECOND, "{key}: {took:?}");
                match answer {
                    Ok(value) => {
                        assert!(&value == key && owners[key] != 1, "{key}");
                        served += 1;
                    }
                    Err(error) => {
                        *failed
                            .entry((owners[key] == 1, error.to_string()))
                            .or_insert(0) += 1;
                    }
                }
            }
        }
        println!("{served} served, {failed:?}");
        let expected = [
            "the node of the redis cluster that has the key is unreachable",
            "the connection to redis was lost",
        ];
        assert!(
            failed
                .keys()
                .all(|(_, error)| expected.contains(&error.as_str())),
            "{failed:?}"
        );
        let others: i32 = failed
            .iter()
            .filter(|((its, _), _)| !its)
            .map(|(_, n)| n)
            .sum();
        assert!(
            served > 10 && others * 10 < served,
            "{served} served, {failed:?}"
        );
        nodes[1].run().await;
        let began = Instant::now();
        let lost = owners.iter().find(|(_, owner)| **owner == 1).unwrap().0;
        eventually("its slots answer", async || {
            set(&running.redis, lost).await.is_ok()
        })
        .await;
        println!("its slots are back {:?} after it answered", began.elapsed());
        running.close().await;
    });
}

fn one(name: &str, key: &str) -> Cmd {
    let mut command = cmd(name);
    command.arg(key);
    command
}

#[test]
fn what_may_have_run_is_not_sent_again() {
    TestSystem::real_time(|system| async move {
        let (node, proxy, server) = cluster_behind_proxy().await;
        let running = RunningPool::at(&system, server).await;
        running.until_up().await;
        let redis = &running.redis;
        // The command reaches the server, its answer does not come back.
        proxy.set_faults(Fault::Truncate(0), Fault::None);
        let error = redis.command::<u64>(&one("INCR", "n"), 20 * SECOND).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Lost), "{error:?}");
        assert_eq!(error.done(), Done::Unknown);
        assert_eq!(node.ask(&["GET", "n"]), "1");
        running.until_up().await;
        proxy.set_faults(Fault::Truncate(0), Fault::None);
        let mut both = pipe();
        both.atomic().add_command(one("INCR", "n"));
        both.add_command(one("GET", "n"));
        let error = redis.pipeline::<(u64, u64)>(&both, 20 * SECOND).await;
        assert!(matches!(error, Err(Error::Lost)), "{error:?}");
        assert_eq!(node.ask(&["GET", "n"]), "2");
        // A read is sent again.
        running.until_up().await;
        proxy.set_faults(Fault::Truncate(0), Fault::None);
        let value = redis.command::<u64>(&one("GET", "n"), 20 * SECOND).await;
        assert_eq!(value.unwrap(), 2);
        running.close().await;
    });
}

/// A node that works on one command for so long looks like one whose link has gone silent.
#[test]
fn a_long_command_of_a_cluster_runs_until_its_callers_deadline() {
    TestSystem::real_time(|system| async move {
        let (node, _proxy, server) = cluster_behind_proxy().await;
        let running = RunningPool::at(&system, server).await;
        running.until_up().await;
        node.signal(Signal::SIGSTOP);
        let work = async {
            sleep(9 * SECOND).await;
            node.signal(Signal::SIGCONT);
        };
        let incr = one("INCR", "n");
        let (answer, ()) = tokio::join!(running.redis.command::<u64>(&incr, 20 * SECOND), work);
        assert_eq!(answer.unwrap(), 1);
        running.close().await;
    });
}

/// Forbids what the driver needs to learn the slots: to ask for them, and to connect.
fn forbid_a_refresh(node: &Instance) {
    let forbid = ["ACL", "SETUSER", "default", "-ping", "-cluster|slots"];
    assert_eq!(node.ask(&forbid), "OK");
    assert_eq!(node.ask(&["CONFIG", "SET", "requirepass", "word"]), "OK");
}

#[test]
fn a_command_that_was_sent_is_not_told_undone_when_the_slots_cannot_be_learned() {
    TestSystem::real_time(|system| async move {
        let (node, other, proxy, server) = cluster_of_two().await;
        let running = RunningPool::at_both_nodes(&system, server).await;
        let redis = &running.redis;
        let id = node.ask(&["CLUSTER", "MYID"]);
        let moved = slot(&other, "foo");
        let gone = other.ask(&["CLUSTER", "SETSLOT", &moved, "NODE", &id]);
        assert_eq!(gone, "OK");
        forbid_a_refresh(&node);
        forbid_a_refresh(&other);
        // The command arrives, its answer does not. The other node says that the slot has moved.
        proxy.set_faults(Fault::Delay(60 * SECOND), Fault::None);
        let (incr, foo) = (one("INCR", "{bar}n"), one("GET", "foo"));
        let sent = redis.command::<u64>(&incr, 20 * SECOND);
        let other = redis.command::<Option<String>>(&foo, 2 * SECOND);
        let (answer, other) = tokio::join!(sent, other);
        println!("sent: {answer:?}; moved: {other:?}");
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::Lost), "{error:?}");
        assert_eq!(error.done(), Done::Unknown);
        let value = node.ask(&["--no-auth-warning", "-a", "word", "GET", "{bar}n"]);
        assert_eq!(value, "1", "it was done");
        running.close().await;
    });
}

/// A node that has the slot of `key`, and another one.
fn owner_and_other<'a>(nodes: &'a [Instance], key: &str) -> (&'a Instance, &'a Instance) {
    let owns = |node: &&Instance| node.ask(&["EXISTS", key]).parse::<u32>().is_ok();
    let owner = nodes.iter().find(owns).unwrap();
    let other = nodes.iter().find(|node| node.port() != owner.port());
    (owner, other.unwrap())
}

#[test]
fn pipelines_follow_a_slot_that_moves_and_nothing_is_done_twice() {
    TestSystem::real_time(|system| async move {
        let nodes = cluster().await;
        let named = nodes.iter().map(Instance::node).collect();
        let running = RunningPool::at(&system, at_cluster(named)).await;
        running.until_up().await;
        let redis = &running.redis;
        let (stays, moves) = ("{slot}stays", "{slot}moves");
        for key in [stays, moves] {
            set(redis, key).await.unwrap();
        }
        let slot = slot(&nodes[0], stays);
        let (from, to) = owner_and_other(&nodes, stays);
        let (from_id, to_id) = (from.ask(&["CLUSTER", "MYID"]), to.ask(&["CLUSTER", "MYID"]));
        assert_eq!(
            to.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]),
            "OK"
        );
        assert_eq!(
            from.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]),
            "OK"
        );
        let port = to.port().to_string();
        let migrate = |key| from.ask(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        assert_eq!(migrate(moves), "OK");
        // Keys that have gone are found where they are.
        assert_eq!(get(redis, moves).await.unwrap(), moves);
        let mut gone = pipe();
        gone.add_command(one("GET", moves));
        gone.cmd("APPEND").arg(moves).arg("!");
        let (value, length): (String, usize) = redis.pipeline(&gone, 5 * SECOND).await.unwrap();
        assert_eq!((value.as_str(), length), (moves, moves.len() + 1));
        // One command is for a key that is here, the other for one that has gone.
        let mut apart = pipe();
        apart.cmd("APPEND").arg(stays).arg("!");
        apart.add_command(one("GET", moves));
        let error = redis.pipeline::<(usize, String)>(&apart, 5 * SECOND).await;
        let error = error.unwrap_err();
        assert!(
            matches!(&error, Error::Server { code, at: Some(1), done: Done::Part } if code == "ASK"),
            "{error:?}"
        );
        assert_eq!(from.ask(&["GET", stays]), format!("{stays}!"), "done once");
        // The other key goes too, and then the slot.
        assert_eq!(migrate(stays), "OK");
        for node in [to, from] {
            assert_eq!(
                node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]),
                "OK"
            );
        }
        let mut both = pipe();
        both.atomic();
        both.cmd("APPEND").arg(stays).arg("!");
        both.add_command(one("GET", moves));
        let (length, value): (usize, String) = redis.pipeline(&both, 5 * SECOND).await.unwrap();
        assert_eq!(length, stays.len() + 2);
        assert_eq!(value, format!("{moves}!"));
        running.close().await;
    });
}
