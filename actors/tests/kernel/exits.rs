//! Every exit has a reason, and a panic ends no more than its own actor.

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{AskError, Exit, Restart, Root, SupervisorSpec};

use crate::scripted::*;

/// Runs one temporary child, sends it `what`, and compares the recorded exit.
fn ends_with(script: Script, what: Request, expected: &'static str) {
    TestSystem::paused(move |system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log).script(move |_| script.clone());
        let spec = SupervisorSpec::new("root").child(actor.spec().restart(Restart::Temporary));
        let root = system.start(spec).await;
        assert_eq!(actor.ask(what).await, Err(AskError::Lost));
        assert!(!actor.handle.running(LONG).await);
        assert_eq!(last_exit(system.tree(), "root/a").await, expected);
        assert!(log.contains("~a"), "not dropped");
        assert_eq!(actor.handle.in_flight(), 0);
        root.stop().await;
    });
}

fn start_fails_with(script: Script, expected: &'static str) {
    TestSystem::paused(move |system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log).script(move |_| script.clone());
        let Err(exit) = Root::start(root_over([&actor]), system.tree()).await else {
            panic!("started");
        };
        assert!(exit.to_string().ends_with(expected), "{exit}");
    });
}

#[test]
fn an_end_without_an_error_is_a_normal_exit() {
    ends_with(Script::default(), Request::End(Exit::Normal), "normal");
}

#[test]
fn an_error_exit_has_its_cause() {
    ends_with(
        Script::default(),
        Request::End(failure("cause")),
        "error: scripted failure: cause",
    );
}

#[test]
fn a_panic_in_a_handler_is_an_exit() {
    ends_with(Script::default(), Request::Panic, "panic: panic in handler");
}

#[test]
fn a_panic_in_a_spawned_future_is_an_exit() {
    ends_with(
        Script::default(),
        Request::PanicInSpawnedFuture,
        "panic: panic in future",
    );
}

#[test]
fn a_panic_in_the_factory_is_a_failed_start() {
    let script = Script {
        factory_panics: true,
        ..Script::default()
    };
    start_fails_with(script, "panic: panic in factory");
}

#[test]
fn a_panic_in_started_is_a_failed_start() {
    let script = Script {
        started_panics: true,
        ..Script::default()
    };
    start_fails_with(script, "panic: panic in started");
}

#[test]
fn a_panic_in_start_is_a_failed_start() {
    let script = Script {
        start: Step::Panics,
        ..Script::default()
    };
    start_fails_with(script, "panic: panic in start");
}

#[test]
fn a_panic_in_stop_is_an_exit_and_the_stop_goes_on() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, _] = three_actors(&log);
        let b = b.stop(Step::Panics);
        let root = system.start(root_over([&a, &b])).await;
        log.take();
        assert!(matches!(root.stop().await, Exit::Shutdown));
        assert_eq!(log.take_joined(), "~b -a ~a");
        assert_eq!(
            last_exit(system.tree(), "root/b").await,
            "panic: panic in stop"
        );
    });
}

#[test]
fn a_panic_in_drop_is_an_exit() {
    let script = Script {
        drop_panics: true,
        ..Script::default()
    };
    ends_with(script, Request::End(Exit::Normal), "panic: panic in drop");
}

#[test]
fn a_panic_in_stopped_is_an_exit() {
    let script = Script {
        stopped_panics: true,
        ..Script::default()
    };
    ends_with(
        script,
        Request::End(Exit::Normal),
        "panic: panic in stopped",
    );
}

#[test]
fn an_actor_that_panics_again_while_it_is_dropped_does_not_abort_the_process() {
    let script = Script {
        stopped_panics: true,
        drop_panics: true,
        ..Script::default()
    };
    ends_with(script.clone(), Request::Panic, "panic: panic in handler");
    ends_with(
        script,
        Request::End(Exit::Normal),
        "panic: panic in stopped",
    );
}

#[test]
fn a_killed_actor_that_panics_in_drop_does_not_affect_the_others() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let [a, b, _] = three_actors(&log);
        let b = b.script(|_| Script {
            stop: Step::Never,
            drop_panics: true,
            stopped_panics: true,
            ..Script::default()
        });
        let root = system.start(root_over([&a, &b])).await;
        log.take();
        root.stop().await;
        assert_eq!(log.take_joined(), "~b -a ~a");
    });
}

#[test]
fn a_panic_in_a_detached_future_loses_its_call_and_nothing_else() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        let lost = actor.ask(Request::PanicInDetachedFuture).await;
        assert_eq!(lost, Err(AskError::Lost));
        assert_eq!(actor.incarnation().await, 1);
        root.stop().await;
    });
}

#[test]
fn an_actor_that_is_ready_and_ends_at_once_has_been_started() {
    TestSystem::paused(|system| async move {
        let dynamic = SupervisorSpec::new("root");
        let handle = dynamic.handle();
        let root = system.start(dynamic).await;
        let one_shot = headroom_actors::kernel::Handle::new("one-shot", 1);
        let spec = headroom_actors::kernel::ChildSpec::actor(&one_shot, OneShot);
        let child = handle
            .start_child(spec.restart(Restart::Temporary))
            .await
            .expect("it was ready");
        assert!(matches!(child.ended().await, Exit::Normal));
        root.stop().await;
    });
}

/// Ends as soon as it is ready.
struct OneShot(headroom_actors::kernel::IncarnationRef);

impl actix::Actor for OneShot {
    type Context = actix::Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        use actix::AsyncContext;
        use actix::fut::{ActorFutureExt, ready};
        let incarnation = self.0.clone();
        context.spawn(ready(()).map(move |(), _: &mut Self, context| {
            incarnation.end(context, Exit::Normal);
        }));
    }
}

impl headroom_actors::kernel::Child for OneShot {}
