//! A cluster of three masters.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::super::{Error, Redis, cmd};
use super::network::{Instance, at_cluster, cluster, eventually};
use super::server::{RunningPool, SECOND};
use crate::kernel::testing::TestSystem;

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
