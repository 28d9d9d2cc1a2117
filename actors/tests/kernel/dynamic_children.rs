//! Children that are started and terminated while their supervisor runs.

use futures_util::future::join_all;
use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{
    AskError, ChildSpec, Exit, Restart, Root, StartChildError, Strategy, SupervisorHandle,
    SupervisorSpec,
};
use tokio::time::{Instant, sleep};

use crate::scripted::*;

async fn empty(system: &TestSystem) -> (Root, SupervisorHandle) {
    let spec = SupervisorSpec::new("root");
    let handle = spec.handle();
    (system.start(spec).await, handle)
}

#[test]
fn start_child_waits_until_the_child_is_ready() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let (root, supervisor) = empty(&system).await;
        let actor = TestActor::new("a", &log).start(Step::After(3 * SECOND));
        let started_at = Instant::now();
        supervisor.start_child(actor.spec()).await.unwrap();
        assert_eq!(started_at.elapsed().as_secs(), 3);
        assert_eq!(actor.ask(Request::Echo(1)).await, Ok(1));
        root.stop().await;
    });
}

#[test]
fn more_commands_at_once_than_the_queue_holds_are_all_carried_out() {
    const CHILDREN: usize = 200;
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let (root, supervisor) = empty(&system).await;
        let actors: Vec<TestActor> = (0..CHILDREN)
            .map(|index| TestActor::new(&format!("child-{index}"), &log))
            .collect();
        let started = join_all(
            actors
                .iter()
                .map(|actor| supervisor.start_child(actor.spec())),
        )
        .await;
        assert!(started.iter().all(Result::is_ok));
        let ids = (0..CHILDREN).map(|index| format!("child-{index}"));
        let terminate = |id: String| {
            let supervisor = supervisor.clone();
            async move { supervisor.terminate_child(&id).await }
        };
        let ended = join_all(ids.map(terminate)).await;
        let orderly = |exit: &Option<Exit>| matches!(exit, Some(Exit::Shutdown));
        assert!(ended.iter().all(orderly), "{ended:?}");
        assert_eq!(system.tree().snapshot().await[0].children.len(), 0);
        root.stop().await;
    });
}

#[test]
fn a_failed_start_is_returned_with_its_cause_and_leaves_nothing() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let (root, supervisor) = empty(&system).await;
        let actor = TestActor::new("a", &log).start(Step::Ends(failure("no disk")));
        let Err(StartChildError::Failed(exit)) = supervisor.start_child(actor.spec()).await else {
            panic!("started");
        };
        assert_eq!(
            exit.find::<ScriptedFailure>(),
            Some(&ScriptedFailure("no disk"))
        );
        sleep(LONG).await;
        assert_eq!(log.take_joined(), "~a", "not tried again");
        assert_eq!(actor.ask(Request::Echo(1)).await, Err(AskError::Stopped));
        assert_eq!(system.tree().snapshot().await[0].children.len(), 0);
        // Its name is free again.
        let second = TestActor::new("a", &log);
        supervisor.start_child(second.spec()).await.unwrap();
        root.stop().await;
    });
}

#[test]
fn a_child_of_a_name_that_exists_is_refused() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let (root, supervisor) = empty(&system).await;
        let actor = TestActor::new("a", &log);
        supervisor.start_child(actor.spec()).await.unwrap();
        let twice = supervisor
            .start_child(TestActor::new("a", &log).spec())
            .await;
        assert!(matches!(twice, Err(StartChildError::AlreadyPresent(id)) if id == "a"));
        assert_eq!(actor.incarnation().await, 1);
        root.stop().await;
    });
}

#[test]
fn terminate_child_stops_the_child_in_order_and_removes_it() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let (root, supervisor) = empty(&system).await;
        let actor = TestActor::new("a", &log).stop(Step::After(SECOND));
        let child = supervisor.start_child(actor.spec()).await.unwrap();
        let exit = supervisor.terminate_child("a").await;
        assert!(matches!(exit, Some(Exit::Shutdown)), "{exit:?}");
        assert!(matches!(child.ended().await, Exit::Shutdown));
        assert_eq!(log.take_joined(), "+a -a ~a");
        assert_eq!(actor.ask(Request::Echo(1)).await, Err(AskError::Stopped));
        assert!(supervisor.terminate_child("a").await.is_none());
        assert_eq!(system.tree().snapshot().await[0].children.len(), 0);
        root.stop().await;
    });
}

#[test]
fn every_caller_that_terminates_one_child_is_answered() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let (root, supervisor) = empty(&system).await;
        let actor = TestActor::new("a", &log).stop(Step::After(SECOND));
        supervisor.start_child(actor.spec()).await.unwrap();
        let (first, second) = tokio::join!(
            supervisor.terminate_child("a"),
            supervisor.terminate_child("a")
        );
        assert!(first.is_some() && second.is_some());
        root.stop().await;
    });
}

#[test]
fn a_child_can_be_terminated_while_it_starts() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let (root, supervisor) = empty(&system).await;
        let actor = TestActor::new("a", &log).start(Step::Never);
        let starting = supervisor.clone();
        let spec = actor.spec();
        let started = actix_rt::spawn(async move { starting.start_child(spec).await });
        sleep(SECOND).await;
        let started_at = Instant::now();
        assert!(supervisor.terminate_child("a").await.is_some());
        assert!(started_at.elapsed() < SECOND);
        assert!(matches!(
            started.await.unwrap(),
            Err(StartChildError::Failed(Exit::Shutdown))
        ));
        root.stop().await;
    });
}

#[test]
fn a_child_that_waits_for_its_restart_can_be_terminated() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, _] = three_actors(&log);
        let backoff = headroom_actors::kernel::Backoff::try_new(LONG, LONG, LONG).unwrap();
        let spec = SupervisorSpec::new("root").child(a.spec().backoff(backoff));
        let supervisor = spec.handle();
        let root = system.start(spec).await;
        supervisor
            .start_child(b.spec().backoff(backoff))
            .await
            .unwrap();
        for actor in [&a, &b] {
            actor.end(failure("x")).await;
            let name = actor.handle.name().to_owned();
            assert!(supervisor.terminate_child(&name).await.is_some());
        }
        log.take();
        sleep(3 * LONG).await;
        assert_eq!(log.take_joined(), "", "came back after it was terminated");
        root.stop().await;
    });
}

#[test]
fn a_slow_start_does_not_hold_up_other_children() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let (root, supervisor) = empty(&system).await;
        let slow = TestActor::new("slow", &log).start(Step::After(50 * SECOND));
        let quick = TestActor::new("quick", &log);
        let starting = supervisor.clone();
        let spec = slow.spec();
        let started = actix_rt::spawn(async move { starting.start_child(spec).await });
        let started_at = Instant::now();
        supervisor.start_child(quick.spec()).await.unwrap();
        quick.end(failure("x")).await;
        assert_eq!(quick.incarnation().await, 2);
        assert!(started_at.elapsed() < SECOND);
        assert!(started.await.unwrap().is_ok());
        root.stop().await;
    });
}

#[test]
fn ended_resolves_when_the_child_is_not_restarted_and_not_before() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let (root, supervisor) = empty(&system).await;
        let actor = TestActor::new("a", &log);
        let spec = actor.spec().restart(Restart::Transient);
        let child = supervisor.start_child(spec).await.unwrap();
        let ended = actix_rt::spawn(child.ended());
        actor.end(failure("again")).await;
        assert_eq!(actor.incarnation().await, 2);
        assert!(!ended.is_finished());
        actor.end(Exit::Normal).await;
        assert!(matches!(ended.await.unwrap(), Exit::Normal));
        root.stop().await;
    });
}

#[test]
fn children_added_on_request_end_when_their_supervisor_is_restarted() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [fixed, added, _] = three_actors(&log);
        let branch = SupervisorSpec::new("branch")
            .intensity(0, SECOND)
            .child(fixed.spec());
        let supervisor = branch.handle();
        let branch = ChildSpec::supervisor(branch).backoff(short_backoff());
        let root = system
            .start(SupervisorSpec::new("root").child(branch))
            .await;
        let child = supervisor.start_child(added.spec()).await.unwrap();
        fixed.end(failure("x")).await;
        assert_eq!(fixed.incarnation().await, 2);
        assert!(matches!(child.ended().await, Exit::Shutdown));
        assert_eq!(added.ask(Request::Echo(1)).await, Err(AskError::Stopped));
        let branch = node(system.tree(), "root/branch").await;
        assert_eq!(branch.children.len(), 1);
        // The handle is still valid: it reaches the new supervisor.
        supervisor.start_child(added.spec()).await.unwrap();
        assert_eq!(added.ask(Request::Echo(1)).await, Ok(1));
        root.stop().await;
    });
}

#[test]
fn commands_to_a_supervisor_that_is_down_are_refused() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let spec = SupervisorSpec::new("root");
        let supervisor = spec.handle();
        let refused = supervisor.start_child(actor.spec()).await;
        assert!(matches!(refused, Err(StartChildError::SupervisorDown)));
        let root = system.start(spec).await;
        root.stop().await;
        let refused = supervisor.start_child(actor.spec()).await;
        assert!(matches!(refused, Err(StartChildError::SupervisorDown)));
        assert!(supervisor.terminate_child("a").await.is_none());
    });
}

#[test]
fn a_group_restart_restarts_children_added_on_request_once() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [fixed, added, late] = three_actors(&log);
        let backoff = headroom_actors::kernel::Backoff::try_new(LONG, LONG, LONG).unwrap();
        let spec = SupervisorSpec::new("root")
            .strategy(Strategy::OneForAll)
            .child(fixed.spec().backoff(backoff));
        let supervisor = spec.handle();
        let root = system.start(spec).await;
        supervisor.start_child(added.spec()).await.unwrap();
        fixed.end(failure("x")).await;
        // Added while the group waits for its restart: it must not be started a second time.
        supervisor.start_child(late.spec()).await.unwrap();
        assert!(fixed.handle.running(2 * LONG).await);
        assert_eq!(added.incarnation().await, 2);
        assert_eq!(late.incarnation().await, 1);
        log.take();
        root.stop().await;
        assert_eq!(log.take_joined(), "-c ~c -b ~b -a ~a");
    });
}

#[test]
fn a_child_that_is_being_terminated_is_not_restarted_with_its_group() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [fixed, added, _] = three_actors(&log);
        let added = added.stop(Step::After(SECOND));
        let spec = SupervisorSpec::new("root")
            .strategy(Strategy::OneForAll)
            .child(fixed.spec());
        let supervisor = spec.handle();
        let root = system.start(spec).await;
        supervisor.start_child(added.spec()).await.unwrap();
        let terminating = actix_rt::spawn(async move { supervisor.terminate_child("b").await });
        sleep(SECOND / 2).await;
        fixed.end(failure("x")).await;
        assert!(terminating.await.unwrap().is_some());
        assert_eq!(fixed.incarnation().await, 2);
        sleep(LONG).await;
        assert_eq!(added.ask(Request::Echo(1)).await, Err(AskError::Stopped));
        root.stop().await;
    });
}

#[test]
fn a_temporary_child_added_on_request_is_removed_when_its_group_restarts() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [fixed, added, _] = three_actors(&log);
        let spec = SupervisorSpec::new("root")
            .strategy(Strategy::OneForAll)
            .child(fixed.spec());
        let supervisor = spec.handle();
        let root = system.start(spec).await;
        let child = supervisor
            .start_child(added.spec().restart(Restart::Temporary))
            .await
            .unwrap();
        fixed.end(failure("x")).await;
        assert!(matches!(child.ended().await, Exit::Shutdown));
        assert_eq!(fixed.incarnation().await, 2);
        assert_eq!(system.tree().snapshot().await[0].children.len(), 1);
        root.stop().await;
    });
}

#[test]
fn a_start_goes_on_when_its_caller_goes_away() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let (root, supervisor) = empty(&system).await;
        let actor = TestActor::new("a", &log).start(Step::After(2 * SECOND));
        let start = supervisor.start_child(actor.spec());
        assert!(tokio::time::timeout(SECOND, start).await.is_err());
        assert!(actor.handle.running(LONG).await);
        root.stop().await;
    });
}
