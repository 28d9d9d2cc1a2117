//! Final answers of chains in Redis.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::Signal;

use super::super::{Cache, METRICS, cmd};
use super::server::{RealServer, RunningPool, SECOND};
use crate::chain::cache::{Hold, Keep, Key, SharedAnswers, SharedConfig};
use crate::chain::hex::BlockHash;
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::buffers::FixedBuffers;
use crate::kernel::testing::counters::Counters;

const PATIENT: SharedConfig = SharedConfig {
    wait_max: Duration::from_secs(20),
    rest: Duration::from_secs(3600),
};

fn answers(running: &RunningPool, id: u64, first: u8, config: SharedConfig) -> SharedAnswers {
    answers_in(running, id, first, config, FixedBuffers::new(u64::MAX))
}

fn answers_in(
    running: &RunningPool,
    id: u64,
    first: u8,
    config: SharedConfig,
    account: FixedBuffers,
) -> SharedAnswers {
    let store = Arc::new(Cache::new(running.redis.clone()));
    let first = BlockHash::new([first; 32]);
    SharedAnswers::new(store, id, first, config, Arc::new(account))
}

fn key(number: u64) -> Key {
    Key::of("eth_getBlockByNumber", format!("[{number}]").as_bytes()).unwrap()
}

fn keep(hold: Hold) -> Keep {
    Keep {
        hold,
        block: Some(7),
    }
}

#[test]
fn what_one_server_has_stored_another_one_finds() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let one = answers(&running, 1, 9, PATIENT);
        let answer = Bytes::from_static(b"{\"number\":\"0x7\"}");
        assert_eq!(one.get(&key(1)).await, None);
        one.put(&key(1), &answer, keep(Hold::Ever)).await;
        let other = answers(&running, 1, 9, PATIENT);
        assert_eq!(
            other.get(&key(1)).await,
            Some((answer.clone(), keep(Hold::Ever)))
        );
        // Other calls, other chains, and chains of the same id that have begun anew.
        assert_eq!(other.get(&key(2)).await, None);
        assert_eq!(answers(&running, 2, 9, PATIENT).get(&key(1)).await, None);
        assert_eq!(answers(&running, 1, 8, PATIENT).get(&key(1)).await, None);
        // What does not hold for ever, or is long, stays here.
        one.put(&key(3), &answer, keep(Hold::Block)).await;
        one.put(&key(4), &answer, keep(Hold::Head)).await;
        one.put(&key(5), &vec![0; 256 * 1024 + 1].into(), keep(Hold::Ever))
            .await;
        let keys: Vec<String> = running
            .redis
            .command(cmd("KEYS").arg("*"), 20 * SECOND)
            .await
            .unwrap();
        assert_eq!(keys.len(), 1, "{keys:?}");
        let left: i64 = running
            .redis
            .command(cmd("TTL").arg(&keys[0]), 20 * SECOND)
            .await
            .unwrap();
        assert!((600_000..=604_800).contains(&left), "{left}");
        // What somebody else has written there is a miss.
        let mut set = cmd("SET");
        set.arg(&keys[0]).arg("not an answer");
        running
            .redis
            .command::<()>(&set, 20 * SECOND)
            .await
            .unwrap();
        assert_eq!(other.get(&key(1)).await, None);
        running.close().await;
    });
}

#[test]
fn what_is_found_is_part_of_the_memory_budget_as_long_as_it_is_used() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let account = FixedBuffers::new(1024 * 1024);
        let answers = answers_in(&running, 1, 9, PATIENT, account.clone());
        let answer = Bytes::from(vec![b'1'; 10_000]);
        answers.put(&key(1), &answer, keep(Hold::Ever)).await;
        assert_eq!(account.held(), 0);
        let (found, _) = answers.get(&key(1)).await.unwrap();
        assert_eq!(found, answer);
        assert_eq!((account.held(), account.filled()), (10_012, 10_012));
        let part = found.slice(..10);
        drop(found);
        assert_eq!(account.held(), 10_012);
        drop(part);
        assert_eq!(account.held(), 0);
        // Without memory it is a miss, and nothing is stored.
        account.set_max(5_000);
        assert_eq!(answers.get(&key(1)).await, None);
        answers.put(&key(2), &answer, keep(Hold::Ever)).await;
        account.set_max(1024 * 1024);
        assert_eq!(answers.get(&key(2)).await, None);
        assert!(answers.get(&key(1)).await.is_some());
        running.close().await;
    });
}

#[test]
fn a_server_that_does_not_answer_is_left_alone_for_a_while() {
    let counters = &Counters::of(METRICS);
    let _recording = metrics::set_default_local_recorder(counters);
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningPool::open(&system, &server).await;
        running.until_up().await;
        let config = SharedConfig {
            wait_max: Duration::from_millis(5),
            ..PATIENT
        };
        let answers = answers(&running, 1, 9, config);
        server.signal(Signal::SIGSTOP);
        for _ in 0..20 {
            assert_eq!(answers.get(&key(1)).await, None);
            answers
                .put(&key(1), &Bytes::from_static(b"1"), keep(Hold::Ever))
                .await;
        }
        server.signal(Signal::SIGCONT);
        assert_eq!(counters.get("headroom_redis_cache_misses_total"), 1);
        assert_eq!(counters.get("headroom_redis_cache_failures_total"), 1);
        running.close().await;
    });
}
