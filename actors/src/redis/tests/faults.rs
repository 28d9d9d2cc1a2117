//! Network faults: no call hangs, no caller gets the answer of another, and the pool recovers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::{Error, Redis, Server, Topology, cmd, pool_config};
use super::network::{Instance, eventually};
use super::server::{RunningPool, SECOND};
use crate::kernel::pool::PoolConfig;
use crate::kernel::private_server::ServerUrl;
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::proxy::{Fault, Proxy};

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
