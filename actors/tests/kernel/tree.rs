//! What operators see: the tree, its counters and the states of its actors.

use std::time::Duration;

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{ChildSpec, ChildState, Kind, Restart, SupervisorSpec};
use serde_json::json;

use crate::scripted::*;

#[test]
fn the_snapshot_nests_children_under_their_supervisors_and_has_their_states() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, c] = three_actors(&log);
        let branch = SupervisorSpec::new("branch").child(b.spec());
        // Sorts between the branch and its children.
        let beside = SupervisorSpec::new("branch-2").child(c.spec());
        let spec = SupervisorSpec::new("root")
            .child(a.spec())
            .child(ChildSpec::supervisor(branch))
            .child(ChildSpec::supervisor(beside));
        let root = system.start(spec).await;
        let seen = system.tree().snapshot().await;
        assert_eq!(seen.len(), 1);
        let paths: Vec<_> = seen[0].children.iter().map(|node| &*node.path).collect();
        assert_eq!(paths, ["root/a", "root/branch", "root/branch-2"]);
        let leaf = seen[0].find("root/branch/b").unwrap();
        assert_eq!((leaf.kind, leaf.state), (Kind::Actor, ChildState::Running));
        assert_eq!(
            leaf.observed,
            Some(json!({ "incarnation": 1, "refused": false }))
        );
        assert_eq!(seen[0].children[1].children.len(), 1);
        assert_eq!(seen[0].children[1].kind, Kind::Supervisor);
        root.stop().await;
    });
}

#[test]
fn the_root_and_its_children_fail_from_their_end_until_they_run_again() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [_, b, _] = three_actors(&log);
        let a = TestActor::new("a", &log).script(|incarnation| Script {
            start: match incarnation {
                2 => Step::After(SECOND),
                _ => Step::AtOnce,
            },
            ..Script::default()
        });
        let branch = SupervisorSpec::new("branch").child(b.spec());
        let spec = SupervisorSpec::new("root")
            .child(a.spec())
            .child(ChildSpec::supervisor(branch));
        let failing = || -> Vec<_> {
            let failing = system.tree().failing_for(Duration::ZERO).into_iter();
            failing.map(|node| (node.path, node.state)).collect()
        };
        let root = system.start(spec).await;
        assert_eq!(failing(), []);
        b.end(failure("b")).await;
        assert_eq!(failing(), [], "its supervisor runs");

        a.end(failure("a")).await;
        let starting = [("root/a".to_owned(), ChildState::Starting)];
        eventually("it starts again", || failing() == starting).await;
        assert_eq!(system.tree().failing_for(LONG).len(), 0);
        assert_eq!(a.incarnation().await, 2);
        eventually("it runs", || failing().is_empty()).await;
        let exit = last_exit(system.tree(), "root/a").await;
        assert!(exit.contains("scripted failure: a"), "{exit}");

        for _ in 0..3 {
            a.end(failure("again")).await;
            a.handle.running(LONG).await;
        }
        root.failed().await;
        let paths: Vec<_> = failing().into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["root", "root/a", "root/branch"]);
    });
}

#[test]
fn an_actor_that_does_not_answer_is_listed_without_its_state() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, _] = three_actors(&log);
        let root = system.start(root_over([&a, &b])).await;
        let hanging = a.clone();
        let call = actix_rt::spawn(async move { hanging.ask(Request::Hang).await });
        eventually("it hangs", || {
            a.handle.stats().snapshot().mailbox_depth == 0
        })
        .await;
        tokio::time::sleep(SECOND).await;
        assert_eq!(node(system.tree(), "root/a").await.observed, None);
        assert!(node(system.tree(), "root/b").await.observed.is_some());
        root.stop().await;
        call.await.unwrap().unwrap_err();
    });
}

#[test]
fn counters_survive_restarts_also_of_the_branch() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let branch = SupervisorSpec::new("branch")
            .intensity(1, LONG)
            .child(actor.spec());
        let branch = ChildSpec::supervisor(branch).backoff(short_backoff());
        let root = system
            .start(SupervisorSpec::new("root").child(branch))
            .await;
        for restarts in 0..3 {
            assert_eq!(actor.ask(Request::Echo(7)).await, Ok(7));
            assert_eq!(
                actor.ask(Request::Panic).await,
                Err(headroom_actors::kernel::AskError::Lost)
            );
            assert_eq!(actor.incarnation().await, restarts + 2);
        }
        let seen = node(system.tree(), "root/branch/a").await;
        assert_eq!((seen.incarnation, seen.exits["panic"]), (4, 3));
        assert_eq!(seen.restarts, 2, "the other restart was the branch's");
        let stats = seen.stats.unwrap();
        assert_eq!((stats.outcomes["handled"], stats.outcomes["lost"]), (6, 3));
        assert_eq!(node(system.tree(), "root/branch").await.restarts, 1);
        root.stop().await;
    });
}

#[test]
fn states_follow_the_steps_of_an_incarnation() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log).script(|_| Script {
            start: Step::After(SECOND),
            stop: Step::After(SECOND),
            ..Script::default()
        });
        let slow = headroom_actors::kernel::Backoff::try_new(SECOND, SECOND, LONG).unwrap();
        let spec = SupervisorSpec::new("root");
        let supervisor = spec.handle();
        let root = system.start(spec).await;
        let starting = supervisor.clone();
        let child = actor.spec().backoff(slow).restart(Restart::Permanent);
        let started = actix_rt::spawn(async move { starting.start_child(child).await });
        tokio::time::sleep(SECOND / 2).await;
        let state = async || node(system.tree(), "root/a").await.state;
        assert_eq!(state().await, ChildState::Starting);
        let child = started.await.unwrap().unwrap();
        assert_eq!(state().await, ChildState::Running);
        actor.end(failure("x")).await;
        tokio::time::sleep(SECOND / 1000).await;
        assert!(matches!(
            state().await,
            ChildState::Restarting | ChildState::Starting
        ));
        assert!(actor.handle.running(LONG).await);
        let terminating = actix_rt::spawn(async move { supervisor.terminate_child("a").await });
        tokio::time::sleep(SECOND / 2).await;
        assert_eq!(state().await, ChildState::Stopping);
        terminating.await.unwrap();
        child.ended().await;
        assert!(system.tree().snapshot().await[0].find("root/a").is_none());
        root.stop().await;
        assert_eq!(node(system.tree(), "root").await.state, ChildState::Stopped);
    });
}
