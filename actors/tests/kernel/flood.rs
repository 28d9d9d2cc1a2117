//! Callers on other threads that never let an actor's queue run dry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use headroom_actors::kernel::testing::Universe;
use headroom_actors::kernel::{Heartbeat, SupervisorSpec};
use tokio::time::Instant;

use crate::cast::*;

struct Flood {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    fn start(role: &Role) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let thread = |_| {
            let (role, over, answered) = (role.clone(), Arc::clone(&over), Arc::clone(&answered));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let callers = (0..64).map(|number| {
                    let (role, over, answered) = (&role, &over, &answered);
                    async move {
                        while !over.load(Relaxed) {
                            if role.ask(Do::Echo(number)).await.is_ok() {
                                answered.fetch_add(1, Relaxed);
                            }
                            tokio::task::yield_now().await;
                        }
                    }
                });
                runtime.block_on(futures_util::future::join_all(callers));
            })
        };
        let threads = (0..4).map(thread).collect();
        Self {
            over,
            answered,
            threads,
        }
    }

    fn end(self) {
        self.over.store(true, Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_flooded_actor_keeps_its_heartbeat_its_neighbours_and_its_stop() {
    Universe::real_time(|universe| async move {
        let journal = Journal::default();
        let flooded = Role::with_capacity("flooded", 512, &journal);
        let other = Role::new("other", &journal);
        let beat = Heartbeat {
            interval: Duration::from_millis(50),
            timeout: SECOND,
        };
        let spec = SupervisorSpec::new("root")
            .child(flooded.spec().heartbeat(beat))
            .child(other.spec());
        let root = universe.start(spec).await;
        let flood = Flood::start(&flooded);
        let until = Instant::now() + 2 * SECOND;
        let mut slowest = Duration::ZERO;
        let mut observed = 0;
        while Instant::now() < until {
            let begun = Instant::now();
            assert_eq!(other.ask(Do::Echo(1)).await, Ok(1));
            slowest = slowest.max(begun.elapsed());
            let seen = node(universe.tree(), "root/flooded").await;
            observed += u64::from(seen.observed.is_some());
        }
        assert!(slowest < SECOND / 2, "a neighbour waited {slowest:?}");
        assert!(observed > 0, "its operator saw nothing");
        assert!(flood.answered.load(Relaxed) > 1000);
        assert_eq!(node(universe.tree(), "root/flooded").await.incarnation, 1);
        let begun = Instant::now();
        root.stop().await;
        assert!(begun.elapsed() < 2 * SECOND, "the stop was not seen");
        assert!(journal.contains("-flooded"), "it was killed");
        flood.end();
    });
}
