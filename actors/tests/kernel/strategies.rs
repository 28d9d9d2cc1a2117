//! Strategies: who is restarted with a child that failed, and in which order.

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{Restart, Strategy, SupervisorSpec};

use crate::cast::*;

/// Starts a, b, c under `strategy`, lets b fail, and says what happened.
fn after_the_second_of_three_failed(strategy: Strategy, expected: &'static str) {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let roles = three(&journal);
        let root = system.start(over(&roles).strategy(strategy)).await;
        journal.take();
        roles[1].end(failure("b")).await;
        assert_eq!(roles[1].incarnation().await, 2);
        assert!(roles[2].handle.running(LONG).await);
        assert_eq!(journal.story(), expected);
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
        let journal = Journal::default();
        let [a, b, c] = three(&journal);
        let spec = SupervisorSpec::new("root")
            .strategy(Strategy::OneForAll)
            .child(a.spec())
            .child(b.spec().restart(Restart::Temporary))
            .child(c.spec());
        let root = system.start(spec).await;
        journal.take();
        a.end(failure("a")).await;
        assert_eq!(c.incarnation().await, 2);
        assert_eq!(journal.story(), "~a -c ~c -b ~b +a +c");
        assert_eq!(
            b.ask(Do::Echo(1)).await,
            Err(headroom_actors::kernel::AskError::Stopped)
        );
        root.stop().await;
    });
}

#[test]
fn the_end_of_a_temporary_child_restarts_nobody() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let [a, b, _] = three(&journal);
        let spec = SupervisorSpec::new("root")
            .strategy(Strategy::OneForAll)
            .child(a.spec())
            .child(b.spec().restart(Restart::Temporary));
        let root = system.start(spec).await;
        journal.take();
        b.end(failure("b")).await;
        tokio::time::sleep(LONG).await;
        assert_eq!(journal.story(), "~b");
        assert_eq!(a.incarnation().await, 1);
        root.stop().await;
    });
}

#[test]
fn a_group_restart_that_fails_is_tried_again_as_a_whole() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let [a, b, c] = three(&journal);
        let b = b.script(|incarnation| Script {
            start: if incarnation == 2 {
                Step::Ends(failure("not yet"))
            } else {
                Step::AtOnce
            },
            ..Script::default()
        });
        let root = system
            .start(over([&a, &b, &c]).strategy(Strategy::OneForAll))
            .await;
        journal.take();
        c.end(failure("c")).await;
        assert!(c.handle.running(LONG).await);
        assert_eq!(journal.story(), "~c -b ~b -a ~a +a ~b -a ~a +a +b +c");
        root.stop().await;
    });
}

#[test]
fn a_child_that_is_let_go_during_a_group_restart_does_not_keep_the_rest_down() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let [a, b, c] = three(&journal);
        // Transient, and with nothing to do the second time.
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
        journal.take();
        a.end(failure("a")).await;
        assert_eq!(c.incarnation().await, 2);
        assert_eq!(journal.story(), "~a -c ~c -b ~b +a ~b +c");
        root.stop().await;
    });
}

#[test]
fn two_failures_of_one_group_end_in_one_restart_of_it() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let [a, b, c] = three(&journal);
        let slow = headroom_actors::kernel::Backoff::DEFAULT;
        let spec = SupervisorSpec::new("root")
            .strategy(Strategy::RestForOne)
            .child(a.spec().backoff(slow))
            .child(b.spec().backoff(slow))
            .child(c.spec().backoff(slow));
        let root = system.start(spec).await;
        journal.take();
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
