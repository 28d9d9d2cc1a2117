//! Restart types, restart intensity, escalation and backoff.

use std::time::Duration;

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::testing::log::TestLog;
use headroom_actors::kernel::{
    AskError, Backoff, ChildSpec, ChildState, Exit, Restart, SupervisionError, SupervisorSpec,
};
use tokio::time::{Instant, sleep};

use crate::scripted::*;

/// Asserts whether a child of this restart type is restarted after `exit`.
fn is_restarted(restart: Restart, exit: Option<Exit>, expected: bool) {
    TestSystem::paused(move |system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let spec = SupervisorSpec::new("root").child(actor.spec().restart(restart));
        let root = system.start(spec).await;
        let how = format!("{restart:?} after {exit:?}");
        match exit {
            Some(exit) => actor.end(exit).await,
            None => assert_eq!(actor.ask(Request::Panic).await, Err(AskError::Lost)),
        }
        assert_eq!(actor.handle.running(LONG).await, expected, "{how}");
        if !expected {
            assert_eq!(actor.ask(Request::Echo(1)).await, Err(AskError::Stopped));
            assert_eq!(
                node(system.tree(), "root/a").await.state,
                ChildState::Stopped
            );
        }
        root.stop().await;
    });
}

#[test]
fn a_permanent_child_is_always_restarted() {
    is_restarted(Restart::Permanent, Some(Exit::Normal), true);
    is_restarted(Restart::Permanent, Some(Exit::Shutdown), true);
    is_restarted(Restart::Permanent, Some(failure("a")), true);
    is_restarted(Restart::Permanent, None, true);
}

#[test]
fn a_transient_child_is_restarted_only_if_it_ends_abnormally() {
    is_restarted(Restart::Transient, Some(Exit::Normal), false);
    is_restarted(Restart::Transient, Some(Exit::Shutdown), false);
    is_restarted(Restart::Transient, Some(failure("a")), true);
    is_restarted(Restart::Transient, None, true);
}

#[test]
fn a_temporary_child_is_never_restarted() {
    is_restarted(Restart::Temporary, Some(Exit::Normal), false);
    is_restarted(Restart::Temporary, Some(Exit::Shutdown), false);
    is_restarted(Restart::Temporary, Some(failure("a")), false);
    is_restarted(Restart::Temporary, None, false);
}

#[test]
fn more_than_three_restarts_within_five_seconds_make_the_supervisor_terminate_itself() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, _] = three_actors(&log);
        let root = system.start(root_over([&a, &b])).await;
        for restart in 1..=3 {
            a.end(failure("a")).await;
            assert_eq!(a.incarnation().await, restart + 1, "three are allowed");
        }
        log.take();
        a.end(failure("one too many")).await;
        let exit = root.failed().await;
        assert_eq!(
            exit.find::<SupervisionError>().unwrap().to_string(),
            "root/a needed more than 3 restarts in 5s"
        );
        assert_eq!(
            exit.find::<ScriptedFailure>(),
            Some(&ScriptedFailure("one too many"))
        );
        assert_eq!(log.take_joined(), "~a -b ~b", "it stops its other children");
        assert_eq!(b.ask(Request::Echo(1)).await, Err(AskError::Stopped));
    });
}

#[test]
fn four_restarts_over_a_longer_time_are_not_too_many() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        for restart in 1..=12 {
            actor.end(failure("a")).await;
            assert_eq!(actor.incarnation().await, restart + 1);
            sleep(Duration::from_millis(1700)).await;
        }
        root.stop().await;
    });
}

#[test]
fn restarts_of_all_children_count_together() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, _] = three_actors(&log);
        let root = system
            .start(root_over([&a, &b]).intensity(1, 5 * SECOND))
            .await;
        a.end(failure("a")).await;
        assert_eq!(a.incarnation().await, 2);
        b.end(failure("b")).await;
        assert_eq!(
            root.failed().await.find::<ScriptedFailure>(),
            Some(&ScriptedFailure("b"))
        );
    });
}

#[test]
fn a_restart_that_fails_counts_as_a_failure() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log).script(|incarnation| Script {
            start: match incarnation {
                1 => Step::AtOnce,
                _ => Step::Ends(failure("cannot start again")),
            },
            ..Script::default()
        });
        let root = system.start(root_over([&actor])).await;
        actor.end(failure("a")).await;
        let exit = root.failed().await;
        assert_eq!(
            exit.find::<ScriptedFailure>(),
            Some(&ScriptedFailure("cannot start again"))
        );
        assert_eq!(
            log.take_joined(),
            "+a ~a ~a ~a ~a",
            "one run and three restarts"
        );
    });
}

#[test]
fn the_parent_restarts_the_whole_branch_and_fails_past_its_own_intensity() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, c] = three_actors(&log);
        let branch = SupervisorSpec::new("branch")
            .intensity(0, SECOND)
            .child(a.spec())
            .child(b.spec());
        let spec = SupervisorSpec::new("root")
            .intensity(1, LONG)
            .child(c.spec())
            .child(ChildSpec::supervisor(branch).backoff(short_backoff()));
        let root = system.start(spec).await;
        log.take();
        a.end(failure("first")).await;
        assert_eq!(b.incarnation().await, 2);
        assert_eq!(log.take_joined(), "~a -b ~b +a +b", "c is not restarted");
        let seen = node(system.tree(), "root/branch").await;
        assert_eq!(seen.restarts, 1);
        a.end(failure("second")).await;
        let exit = root.failed().await;
        assert_eq!(
            exit.find::<ScriptedFailure>(),
            Some(&ScriptedFailure("second"))
        );
        assert_eq!(log.take_joined(), "~a -b ~b -c ~c");
        assert!(exit.to_string().starts_with(
            "error: root/branch needed more than 1 restarts in 60s: \
             root/branch/a needed more than 0 restarts in 1s"
        ));
    });
}

#[test]
fn each_failure_is_one_line_of_the_log_with_its_cause_also_one_that_is_too_many() {
    TestSystem::paused(|system| async move {
        let log = TestLog::default();
        let _listening = log.listen();
        let actor = TestActor::new("a", &EventLog::default());
        let branch = SupervisorSpec::new("branch")
            .intensity(1, LONG)
            .child(actor.spec());
        let branch = ChildSpec::supervisor(branch).backoff(short_backoff());
        let spec = SupervisorSpec::new("root").intensity(0, LONG).child(branch);
        let root = system.start(spec).await;
        actor.end(failure("first")).await;
        assert_eq!(actor.incarnation().await, 2);
        actor.end(failure("second")).await;
        root.failed().await;
        let told = |cause: &str| {
            let lines = log.lines().into_iter();
            let told = lines.filter(|line| line.contains(cause) && !line.starts_with("DEBUG"));
            told.collect::<Vec<_>>()
        };
        let first = told("failure: first");
        assert_eq!(first.len(), 1, "{first:#?}");
        assert!(first[0].starts_with("WARN"), "{first:?}");
        // Each of the two supervisors has failed, and says so with the whole chain.
        let second = told("failure: second");
        assert_eq!(second.len(), 2, "{second:#?}");
        let chain = "root/branch/a needed more than 1 restarts in 60s: scripted failure: second";
        for (line, supervisor) in second.iter().zip(["root/branch", "root"]) {
            assert!(line.starts_with("ERROR"), "{line}");
            let named = format!("supervisor={supervisor:?}");
            assert!(line.contains(&named) && line.contains(chain), "{line}");
        }
    });
}

#[test]
fn callers_of_a_branch_that_is_restarted_get_restarting_and_not_stopped() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, _] = three_actors(&log);
        let backoff = Backoff::try_new(LONG, LONG, LONG).unwrap();
        let branch = SupervisorSpec::new("branch")
            .intensity(0, SECOND)
            .child(a.spec())
            .child(b.spec());
        let branch = ChildSpec::supervisor(branch).backoff(backoff);
        let root = system
            .start(SupervisorSpec::new("root").child(branch))
            .await;
        let handle = b.handle.clone();
        let waiting = actix_rt::spawn(async move { handle.restarted(2 * LONG).await });
        tokio::task::yield_now().await;
        a.end(failure("a")).await;
        for actor in [&a, &b] {
            eventually("down", || !is_up(actor)).await;
            let refused = actor.ask(Request::Echo(1)).await;
            let Err(AskError::Restarting { retry_in }) = refused else {
                panic!("{refused:?}");
            };
            assert!(!retry_in.is_zero(), "it is the backoff of the branch");
        }
        assert!(waiting.await.unwrap(), "a waiting caller sees the restart");
        root.stop().await;
    });
}

fn is_up(actor: &TestActor) -> bool {
    use futures_util::FutureExt;
    actor.handle.running(LONG).now_or_never() == Some(true)
}

#[test]
fn the_backoff_grows_with_each_failure_and_is_forgotten_after_a_stable_run() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let stable = 20 * SECOND;
        let backoff = Backoff::try_new(SECOND, 4 * SECOND, stable).unwrap();
        // Full jitter is uniform from zero to the ceiling, so it takes many restarts to see the ceiling.
        let mut longest = [Duration::ZERO; 5];
        let root = system
            .start(
                SupervisorSpec::new("root")
                    .intensity(10_000, SECOND)
                    .child(actor.spec().backoff(backoff)),
            )
            .await;
        for _ in 0..200 {
            for (failures, longest) in longest.iter_mut().enumerate() {
                let started_at = Instant::now();
                actor.end(failure("a")).await;
                assert!(actor.handle.running(LONG).await);
                let waited = started_at.elapsed();
                let ceiling = backoff.ceiling(u32::try_from(failures).unwrap() + 1);
                let slack = Duration::from_millis(10);
                assert!(waited <= ceiling + slack, "{failures}: {waited:?}");
                *longest = waited.max(*longest);
            }
            sleep(stable).await;
        }
        let seconds = longest.map(|longest| longest.as_secs_f64());
        assert!(seconds[0] > 0.9 && seconds[1] > 1.8, "{seconds:?}");
        assert!(seconds[2] > 3.6 && seconds[4] > 3.6, "{seconds:?}");
        root.stop().await;
    });
}

#[test]
fn refused_callers_get_the_time_until_the_next_start() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let backoff = Backoff::try_new(LONG, LONG, LONG).unwrap();
        let spec = SupervisorSpec::new("root").child(actor.spec().backoff(backoff));
        let root = system.start(spec).await;
        actor.end(failure("a")).await;
        eventually("down", || !is_up(&actor)).await;
        let Err(AskError::Restarting { retry_in }) = actor.ask(Request::Echo(1)).await else {
            panic!("not restarting");
        };
        sleep(retry_in + Duration::from_millis(2)).await;
        assert_eq!(actor.ask(Request::Incarnation).await, Ok(2));
        root.stop().await;
    });
}

#[test]
fn a_stop_does_not_wait_for_a_backoff() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let backoff = Backoff::try_new(1000 * LONG, 1000 * LONG, LONG).unwrap();
        let spec = SupervisorSpec::new("root").child(actor.spec().backoff(backoff));
        let root = system.start(spec).await;
        actor.end(failure("a")).await;
        let started_at = Instant::now();
        root.stop().await;
        assert!(started_at.elapsed() < SECOND);
        assert_eq!(actor.ask(Request::Echo(1)).await, Err(AskError::Stopped));
    });
}
