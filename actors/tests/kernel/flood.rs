//! Actors whose queues never run dry, and callers on many threads.

use headroom_actors::kernel::testing::TestSystem;

use crate::cast::*;

#[test]
fn a_flooded_actor_keeps_its_heartbeat_its_neighbours_and_its_stop() {
    TestSystem::real_time(|system| async move {
        let journal = Journal::default();
        let [flooded, other, _] = three(&journal);
        let root = system.start(over([&flooded, &other])).await;
        let again = Do::Again(flooded.handle.clone());
        assert_eq!(flooded.ask(again).await, Ok(0));
        for round in 0..20 {
            assert_eq!(other.ask(Do::Echo(round)).await, Ok(round));
        }
        let seen = node(system.tree(), "root/a").await;
        let observed = seen.observed.expect("an operator sees it");
        assert_eq!(observed["refused"], false, "the flood has not run dry");
        assert!(seen.stats.unwrap().handled > 1000);
        journal.take();
        root.stop().await;
        assert_eq!(journal.story(), "-b ~b -a ~a", "it saw its stop");
    });
}

#[test]
fn callers_on_many_threads_are_all_answered() {
    TestSystem::real_time(|system| async move {
        let journal = Journal::default();
        let role = Role::with_capacity("a", 64, &journal);
        let root = system.start(over([&role])).await;
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let role = role.clone();
                tokio::task::spawn_blocking(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    let callers = (0..16).map(|_| async {
                        for number in 0..500 {
                            assert_eq!(role.ask(Do::Echo(number)).await, Ok(number));
                        }
                    });
                    runtime.block_on(futures_util::future::join_all(callers));
                })
            })
            .collect();
        for thread in threads {
            thread.await.unwrap();
        }
        let stats = role.handle.stats().snapshot();
        assert_eq!((stats.handled, stats.mailbox_depth), (4 * 16 * 500, 0));
        assert_eq!(role.handle.in_flight(), 0);
        root.stop().await;
    });
}
