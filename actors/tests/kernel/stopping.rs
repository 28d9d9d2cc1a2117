//! Stop: in reverse order, each child within its own deadline, and nothing is left.

use std::time::Duration;

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{AskError, ChildSpec, Exit, SupervisorSpec};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::scripted::*;

#[test]
fn children_are_stopped_in_reverse_start_order() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actors = three_actors(&log);
        let root = system.start(root_over(&actors)).await;
        log.take();
        assert!(matches!(root.stop().await, Exit::Shutdown));
        assert_eq!(log.take_joined(), "-c ~c -b ~b -a ~a");
    });
}

#[test]
fn a_child_that_does_not_stop_in_time_is_killed_and_the_rest_still_stops_in_order() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, c] = three_actors(&log);
        let b = b.stop(Step::Never);
        let spec = SupervisorSpec::new("root")
            .child(a.spec())
            .child(b.spec().shutdown_deadline(9 * SECOND))
            .child(c.spec());
        let root = system.start(spec).await;
        log.take();
        let started_at = Instant::now();
        root.stop().await;
        assert_eq!(started_at.elapsed().as_secs(), 9);
        assert_eq!(log.take_joined(), "-c ~c ~b -a ~a");
        assert!(last_exit(system.tree(), "root/b").await.contains("killed"));
        assert_eq!(last_exit(system.tree(), "root/a").await, "shutdown");
    });
}

#[test]
fn each_child_has_a_deadline_of_its_own() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actors = three_actors(&log).map(|actor| actor.stop(Step::Never));
        let mut spec = SupervisorSpec::new("root");
        for (actor, seconds) in actors.iter().zip([1, 2, 4]) {
            spec = spec.child(actor.spec().shutdown_deadline(seconds * SECOND));
        }
        let root = system.start(spec).await;
        let started_at = Instant::now();
        root.stop().await;
        assert_eq!(started_at.elapsed().as_secs(), 7);
    });
}

#[test]
fn a_stop_finishes_the_calls_in_flight_and_refuses_new_ones() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        let (go_on, held) = oneshot::channel();
        let caller = actor.clone();
        let in_flight = actix_rt::spawn(async move { caller.ask(Request::Hold(held)).await });
        eventually("the call is in flight", || actor.handle.in_flight() == 1).await;
        let stopped = actix_rt::spawn(root.stop());
        tokio::time::sleep(SECOND).await;
        assert!(matches!(
            actor.ask(Request::Echo(1)).await,
            Err(AskError::Restarting { .. })
        ));
        assert!(!stopped.is_finished(), "did not wait for the call");
        log.take();
        go_on.send(()).unwrap();
        assert_eq!(in_flight.await.unwrap(), Ok(0));
        stopped.await.unwrap();
        assert_eq!(log.take_joined(), "-a ~a");
        assert_eq!(actor.ask(Request::Echo(1)).await, Err(AskError::Stopped));
    });
}

#[test]
fn a_stop_whose_calls_take_too_long_ends_at_the_deadline_and_loses_them() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        let (_never, held) = oneshot::channel();
        let caller = actor.clone();
        let in_flight = actix_rt::spawn(async move { caller.ask(Request::Hold(held)).await });
        eventually("the call is in flight", || actor.handle.in_flight() == 1).await;
        let started_at = Instant::now();
        root.stop().await;
        assert_eq!(started_at.elapsed().as_secs(), 5);
        assert_eq!(in_flight.await.unwrap(), Err(AskError::Lost));
        assert_eq!(actor.handle.in_flight(), 0);
    });
}

#[test]
fn a_child_may_use_the_ones_before_it_until_it_has_stopped() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        // Two branches: while the second stops, the first must still admit calls.
        let below = TestActor::new("store", &log);
        let above = TestActor::new("user", &log).stop(Step::After(SECOND));
        let stores = SupervisorSpec::new("stores").child(below.spec());
        let users = SupervisorSpec::new("users").child(above.spec());
        let branches = SupervisorSpec::new("branches")
            .child(ChildSpec::supervisor(stores))
            .child(ChildSpec::supervisor(users));
        let spec = SupervisorSpec::new("root").child(ChildSpec::supervisor(branches));
        let root = system.start(spec).await;
        let stopped = actix_rt::spawn(root.stop());
        tokio::time::sleep(SECOND / 2).await;
        assert_eq!(below.ask(Request::Echo(1)).await, Ok(1));
        stopped.await.unwrap();
    });
}

#[test]
fn a_branch_that_is_still_starting_stops_in_order() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, _] = three_actors(&log);
        let b = b.start(Step::Never);
        let branch = SupervisorSpec::new("branch")
            .child(a.spec())
            .child(b.spec());
        let dynamic = SupervisorSpec::new("dynamic");
        let handle = dynamic.handle();
        let root = system
            .start(SupervisorSpec::new("root").child(ChildSpec::supervisor(dynamic)))
            .await;
        let started =
            actix_rt::spawn(async move { handle.start_child(ChildSpec::supervisor(branch)).await });
        eventually("the first runs", || log.contains("+a")).await;
        log.take();
        root.stop().await;
        assert_eq!(log.take_joined(), "~b -a ~a");
        assert!(started.await.unwrap().is_err());
    });
}

#[test]
fn dropping_the_root_kills_the_whole_tree() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, c] = three_actors(&log);
        let branch = SupervisorSpec::new("branch")
            .child(b.spec())
            .child(c.spec());
        let spec = SupervisorSpec::new("root")
            .child(a.spec())
            .child(ChildSpec::supervisor(branch));
        let root = system.start(spec).await;
        log.take();
        drop(root);
        eventually("all are gone", || system.tree().alive().is_empty()).await;
        let mut take_joined = log.take();
        take_joined.sort();
        assert_eq!(take_joined, ["~a", "~b", "~c"]);
        for actor in [&a, &b, &c] {
            assert_eq!(actor.ask(Request::Echo(1)).await, Err(AskError::Stopped));
        }
    });
}

#[test]
fn a_killed_supervisor_ends_after_all_of_its_children() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, _] = three_actors(&log);
        let a = a.stop(Step::Never);
        let branch = SupervisorSpec::new("branch")
            .child(a.spec().shutdown_deadline(Duration::MAX))
            .child(b.spec());
        let branch = ChildSpec::supervisor(branch).shutdown_deadline(3 * SECOND);
        let root = system
            .start(SupervisorSpec::new("root").child(branch))
            .await;
        log.take();
        let started_at = Instant::now();
        root.stop().await;
        assert_eq!(started_at.elapsed().as_secs(), 3);
        assert_eq!(log.take_joined(), "-b ~b ~a");
        assert!(system.tree().alive().is_empty());
    });
}

#[test]
fn a_child_may_cancel_its_own_futures_while_it_stops() {
    // If the kernel ended actors with actix's `terminate`, actix would loop for ever here.
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        assert_eq!(actor.ask(Request::CancelWhenStopped).await, Ok(0));
        root.stop().await;
        assert_eq!(log.take_joined(), "+a -a ~a");
    });
}
