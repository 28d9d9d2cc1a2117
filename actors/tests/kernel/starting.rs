//! Start: in order, each child after the one before is ready; all or nothing.

use std::time::Duration;

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{ChildSpec, Root, SupervisionError, SupervisorSpec};
use tokio::time::Instant;

use crate::scripted::*;

#[test]
fn children_are_started_in_order_each_after_the_one_before_is_ready() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, c] = three_actors(&log);
        // The first takes longest: only waiting for it keeps the order.
        let a = a.start(Step::After(3 * SECOND));
        let b = b.start(Step::After(2 * SECOND));
        let started_at = Instant::now();
        let root = system.start(root_over([&a, &b, &c])).await;
        assert_eq!(log.take_joined(), "+a +b +c");
        assert!(started_at.elapsed() >= 5 * SECOND);
        root.stop().await;
    });
}

#[test]
fn a_child_that_fails_to_start_stops_the_earlier_ones_in_reverse_and_fails_the_supervisor() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, c] = three_actors(&log);
        let c = c.start(Step::Ends(failure("no disk")));
        let Err(exit) = Root::start(root_over([&a, &b, &c]), system.tree()).await else {
            panic!("started");
        };
        assert_eq!(log.take_joined(), "+a +b ~c -b ~b -a ~a");
        assert_eq!(
            exit.find::<ScriptedFailure>(),
            Some(&ScriptedFailure("no disk"))
        );
        assert_eq!(
            exit.find::<SupervisionError>().unwrap().to_string(),
            "root/c failed to start"
        );
        assert!(system.tree().alive().is_empty());
    });
}

#[test]
fn the_cause_of_a_failed_start_is_found_through_nested_supervisors() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("leaf", &log).start(Step::Ends(failure("deep")));
        let inner = SupervisorSpec::new("inner").child(actor.spec());
        let outer = SupervisorSpec::new("outer").child(ChildSpec::supervisor(inner));
        let root = SupervisorSpec::new("root").child(ChildSpec::supervisor(outer));
        let Err(exit) = Root::start(root, system.tree()).await else {
            panic!("started");
        };
        assert_eq!(
            exit.find::<ScriptedFailure>(),
            Some(&ScriptedFailure("deep"))
        );
        assert_eq!(
            exit.to_string(),
            "error: root/outer failed to start: root/outer/inner failed to start: \
             root/outer/inner/leaf failed to start: scripted failure: deep"
        );
    });
}

#[test]
fn a_start_that_passes_its_deadline_is_killed_and_fails() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log).start(Step::Never);
        let spec = SupervisorSpec::new("root").child(actor.spec().start_deadline(7 * SECOND));
        let started_at = Instant::now();
        let Err(exit) = Root::start(spec, system.tree()).await else {
            panic!("started");
        };
        assert_eq!(started_at.elapsed().as_secs(), 7);
        assert!(exit.to_string().contains("killed"), "{exit}");
        assert_eq!(log.take_joined(), "~a");
    });
}

#[test]
fn the_time_of_a_start_does_not_count_as_silence() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        // Longer than the heartbeat's 30 s.
        let actor = TestActor::new("a", &log).start(Step::After(Duration::from_secs(50)));
        let root = system.start(root_over([&actor])).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(actor.incarnation().await, 1);
        root.stop().await;
    });
}

#[test]
fn calls_are_refused_until_the_start_is_done() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log).start(Step::After(SECOND));
        let (handle, asking) = (actor.handle.clone(), actor.clone());
        let early = actix_rt::spawn(async move { asking.ask(Request::Echo(1)).await });
        let running = actix_rt::spawn(async move { handle.running(LONG).await });
        let root = system.start(root_over([&actor])).await;
        assert!(matches!(
            early.await.unwrap(),
            Err(headroom_actors::kernel::AskError::Restarting { .. })
        ));
        assert!(running.await.unwrap());
        assert_eq!(actor.ask(Request::Echo(2)).await, Ok(2));
        root.stop().await;
    });
}

#[test]
fn a_start_that_is_under_way_can_be_stopped_in_order() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, _] = three_actors(&log);
        let b = b.start(Step::Never);
        let root = Root::launch(root_over([&a, &b]), system.tree());
        let ready = tokio::time::timeout(SECOND, root.ready());
        assert!(ready.await.is_err());
        let exit = root.stop().await;
        assert!(exit.is_normal(), "{exit}");
        assert!(system.tree().alive().is_empty());
    });
}

#[test]
fn dropping_a_start_that_is_under_way_kills_what_was_started() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, _] = three_actors(&log);
        let b = b.start(Step::Never);
        let start = Root::start(root_over([&a, &b]), system.tree());
        assert!(tokio::time::timeout(SECOND, start).await.is_err());
        eventually("both are gone", || system.tree().alive().is_empty()).await;
        let mut take_joined = log.take();
        take_joined.sort();
        assert_eq!(take_joined, ["+a", "~a", "~b"]);
    });
}
