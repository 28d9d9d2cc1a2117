//! Strategies: which siblings are restarted with a failed child, and in which order.

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{Restart, Strategy, SupervisorSpec};

use crate::scripted::*;

/// Starts a, b, c under `strategy`, lets b fail, and compares the log.
fn after_the_second_of_three_failed(strategy: Strategy, expected: &'static str) {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actors = three_actors(&log);
        let root = system.start(root_over(&actors).strategy(strategy)).await;
        log.take();
        actors[1].end(failure("b")).await;
        assert_eq!(actors[1].incarnation().await, 2);
        assert!(actors[2].handle.running(LONG).await);
        assert_eq!(log.take_joined(), expected);
        root.stop().await;
    });
}

#[test]
fn one_for_one_restarts_only_the_child_that_failed() {
    after_the_second_of_three_failed(Strategy::OneForOne, "~b +b");
}

#[test]
fn one_for_all_stops_all_others_in_reverse_and_starts_all_in_order() {
    after_the_second_of_three_failed(Strategy::OneForAll, "~b -c ~c -a ~a +a +b +c");
}

#[test]
fn rest_for_one_restarts_the_failed_child_and_those_started_after_it_in_start_order() {
    after_the_second_of_three_failed(Strategy::RestForOne, "~b -c ~c +b +c");
}

#[test]
fn a_temporary_child_is_not_restarted_with_its_group() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, c] = three_actors(&log);
        let spec = SupervisorSpec::new("root")
            .strategy(Strategy::OneForAll)
            .child(a.spec())
            .child(b.spec().restart(Restart::Temporary))
            .child(c.spec());
        let root = system.start(spec).await;
        log.take();
        a.end(failure("a")).await;
        assert_eq!(c.incarnation().await, 2);
        assert_eq!(log.take_joined(), "~a -c ~c -b ~b +a +c");
        assert_eq!(
            b.ask(Request::Echo(1)).await,
            Err(headroom_actors::kernel::AskError::Stopped)
        );
        root.stop().await;
    });
}

#[test]
fn the_end_of_a_temporary_child_restarts_no_sibling() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, _] = three_actors(&log);
        let spec = SupervisorSpec::new("root")
            .strategy(Strategy::OneForAll)
            .child(a.spec())
            .child(b.spec().restart(Restart::Temporary));
        let root = system.start(spec).await;
        log.take();
        b.end(failure("b")).await;
        tokio::time::sleep(LONG).await;
        assert_eq!(log.take_joined(), "~b");
        assert_eq!(a.incarnation().await, 1);
        root.stop().await;
    });
}

#[test]
fn a_group_restart_that_fails_is_tried_again_as_a_whole() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, c] = three_actors(&log);
        let b = b.script(|incarnation| Script {
            start: if incarnation == 2 {
                Step::Ends(failure("not yet"))
            } else {
                Step::AtOnce
            },
            ..Script::default()
        });
        let root = system
            .start(root_over([&a, &b, &c]).strategy(Strategy::OneForAll))
            .await;
        log.take();
        c.end(failure("c")).await;
        assert!(c.handle.running(LONG).await);
        assert_eq!(log.take_joined(), "~c -b ~b -a ~a +a ~b -a ~a +a +b +c");
        root.stop().await;
    });
}

#[test]
fn a_child_that_ends_for_good_during_a_group_restart_does_not_keep_the_rest_down() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, c] = three_actors(&log);
        // Transient, and its second start is a normal exit.
        let b = b.script(|incarnation| Script {
            start: if incarnation == 2 {
                Step::Ends(headroom_actors::kernel::Exit::Normal)
            } else {
                Step::AtOnce
            },
            ..Script::default()
        });
        let spec = SupervisorSpec::new("root")
            .strategy(Strategy::OneForAll)
            .child(a.spec())
            .child(b.spec().restart(Restart::Transient))
            .child(c.spec());
        let root = system.start(spec).await;
        log.take();
        a.end(failure("a")).await;
        assert_eq!(c.incarnation().await, 2);
        assert_eq!(log.take_joined(), "~a -c ~c -b ~b +a ~b +c");
        root.stop().await;
    });
}

#[test]
fn two_failures_of_one_group_end_in_one_restart_of_it() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, c] = three_actors(&log);
        let slow = headroom_actors::kernel::Backoff::DEFAULT;
        let spec = SupervisorSpec::new("root")
            .strategy(Strategy::RestForOne)
            .child(a.spec().backoff(slow))
            .child(b.spec().backoff(slow))
            .child(c.spec().backoff(slow));
        let root = system.start(spec).await;
        log.take();
        c.end(failure("c")).await;
        a.end(failure("a")).await;
        assert!(c.handle.running(LONG).await);
        assert_eq!(
            [a.incarnation().await, b.incarnation().await],
            [2, 2],
            "the earlier failure widens the group"
        );
        root.stop().await;
    });
}
