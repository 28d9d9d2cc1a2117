//! Actors whose queues are never empty, and callers on many threads.

use headroom_actors::kernel::testing::TestSystem;

use crate::scripted::*;

#[test]
fn a_flooded_actor_keeps_its_heartbeat_its_neighbours_and_its_stop() {
    TestSystem::real_time(|system| async move {
        let log = EventLog::default();
        let [flooded, other, _] = three_actors(&log);
        let root = system.start(root_over([&flooded, &other])).await;
        let again = Request::Again(flooded.handle.clone());
        assert_eq!(flooded.ask(again).await, Ok(0));
        for round in 0..20 {
            assert_eq!(other.ask(Request::Echo(round)).await, Ok(round));
        }
        let seen = node(system.tree(), "root/a").await;
        let observed = seen.observed.expect("an operator sees it");
        assert_eq!(observed["refused"], false, "the flood goes on");
        assert!(seen.stats.unwrap().outcomes["handled"] > 1000);
        log.take();
        root.stop().await;
        assert_eq!(log.take_joined(), "-b ~b -a ~a", "it stops in order");
    });
}

#[test]
fn callers_on_many_threads_are_all_answered() {
    TestSystem::real_time(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::with_capacity("a", 64, &log);
        let root = system.start(root_over([&actor])).await;
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let actor = actor.clone();
                tokio::task::spawn_blocking(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    let callers = (0..16).map(|_| async {
                        for number in 0..500 {
                            assert_eq!(actor.ask(Request::Echo(number)).await, Ok(number));
                        }
                    });
                    runtime.block_on(futures_util::future::join_all(callers));
                })
            })
            .collect();
        for thread in threads {
            thread.await.unwrap();
        }
        let stats = actor.handle.stats().snapshot();
        assert_eq!(
            (stats.outcomes["handled"], stats.mailbox_depth),
            (4 * 16 * 500, 0)
        );
        assert_eq!(actor.handle.in_flight(), 0);
        root.stop().await;
    });
}
