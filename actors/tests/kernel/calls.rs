//! Calls through a handle: each is answered, refused or reported lost, and releases its permit.

use std::time::Duration;

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{AskError, SupervisorSpec};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::scripted::*;

#[test]
fn calls_of_one_caller_are_handled_in_the_order_in_which_they_were_made() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::with_capacity("a", 1000, &log);
        let root = system.start(root_over([&actor])).await;
        log.take();
        let calls = (0..1000).map(|number| actor.ask(Request::Note(number)));
        futures_util::future::join_all(calls).await;
        let expected: Vec<_> = (0..1000).map(|number| number.to_string()).collect();
        assert_eq!(log.take(), expected);
        root.stop().await;
    });
}

#[test]
fn one_call_more_than_the_capacity_is_refused_at_once() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::with_capacity("a", 2, &log);
        let root = system.start(root_over([&actor])).await;
        let holds = [(); 2].map(|()| hold(&actor));
        eventually("both are in flight", || actor.handle.in_flight() == 2).await;
        assert_eq!(actor.ask(Request::Echo(1)).await, Err(AskError::Busy));
        assert_eq!(actor.handle.stats().snapshot().outcomes["refused_busy"], 1);
        for (go_on, held) in holds {
            go_on.send(()).unwrap();
            assert_eq!(held.await.unwrap(), Ok(0));
        }
        assert_eq!(actor.ask(Request::Echo(1)).await, Ok(1));
        root.stop().await;
    });
}

type CallTask = actix_rt::task::JoinHandle<Result<u64, AskError>>;

fn hold(actor: &TestActor) -> (oneshot::Sender<()>, CallTask) {
    let (go_on, held) = oneshot::channel();
    let caller = actor.clone();
    let call = actix_rt::spawn(async move { caller.ask(Request::Hold(held)).await });
    (go_on, call)
}

#[test]
fn a_caller_that_gives_up_does_not_free_the_permit_of_work_that_goes_on() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::with_capacity("a", 1, &log);
        let root = system.start(root_over([&actor])).await;
        let (go_on, held) = oneshot::channel();
        let given_up = actor.handle.ask(Request::HoldDetached(held), SECOND).await;
        assert_eq!(given_up, Err(AskError::TimedOut));
        assert_eq!(actor.ask(Request::Echo(1)).await, Err(AskError::Busy));
        go_on.send(()).unwrap();
        eventually("the permit is free", || actor.handle.in_flight() == 0).await;
        assert_eq!(actor.ask(Request::Echo(1)).await, Ok(1));
        let stats = actor.handle.stats().snapshot();
        assert_eq!(
            (stats.outcomes["timed_out"], stats.outcomes["handled"]),
            (1, 2),
            "the work counts"
        );
        root.stop().await;
    });
}

#[test]
fn a_caller_that_has_its_answer_may_call_again_at_once() {
    // The permit must be free before the answer is sent: callers on other threads are fast.
    TestSystem::real_time(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::with_capacity("a", 1, &log);
        let root = system.start(root_over([&actor])).await;
        let caller = actor.clone();
        let (done, finished) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let refused = runtime.block_on(async {
                for number in 0..20_000 {
                    let answer = caller.ask(Request::Echo(number)).await;
                    if answer != Ok(number) {
                        return Some((number, answer));
                    }
                    let lost = caller.ask(Request::Forget).await;
                    if lost != Err(AskError::Lost) {
                        return Some((number, lost));
                    }
                }
                None
            });
            done.send(refused).unwrap();
        });
        assert_eq!(finished.await.unwrap(), None);
        thread.join().unwrap();
        root.stop().await;
    });
}

#[test]
fn a_deadline_of_duration_max_is_allowed() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        assert_eq!(
            actor.handle.ask(Request::Echo(1), Duration::MAX).await,
            Ok(1)
        );
        root.stop().await;
    });
}

#[test]
fn a_dropped_reply_is_lost_and_the_actor_goes_on() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        assert_eq!(actor.ask(Request::Forget).await, Err(AskError::Lost));
        assert_eq!(actor.incarnation().await, 1);
        assert_eq!(actor.handle.stats().snapshot().outcomes["lost"], 1);
        root.stop().await;
    });
}

#[test]
fn a_repeated_call_survives_two_restarts_of_the_actor_and_gives_up_at_its_deadline() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor]).intensity(9, LONG)).await;
        let answer = actor.handle.ask_again(PanicUntil(2), LONG).await;
        assert_eq!(answer, Ok(3));
        let lost = actor.handle.ask_again(PanicUntil(9), LONG).await;
        assert_eq!(lost, Err(AskError::Lost));
        actor.handle.running(LONG).await;
        let (_go_on, held) = hold(&actor);
        let begun = tokio::time::Instant::now();
        let hung = actor.handle.ask_again(PanicUntil(99), Duration::ZERO).await;
        assert!(hung.is_err() && begun.elapsed() < SECOND, "{hung:?}");
        held.abort();
        root.stop().await;
    });
}

#[test]
fn calls_in_work_and_calls_that_wait_are_both_lost_when_the_actor_ends() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        let (_go_on, in_work) = hold(&actor);
        eventually("in work", || actor.handle.in_flight() == 1).await;
        // All of these are queued behind the one that panics.
        let (panicked, queued) = tokio::join!(
            actor.ask(Request::Panic),
            futures_util::future::join_all((0..5).map(|number| actor.ask(Request::Echo(number))))
        );
        assert_eq!(panicked, Err(AskError::Lost));
        assert_eq!(queued, [Err(AskError::Lost); 5]);
        assert_eq!(in_work.await.unwrap(), Err(AskError::Lost));
        assert_eq!(actor.handle.in_flight(), 0);
        assert_eq!(actor.handle.stats().snapshot().mailbox_depth, 0);
        assert_eq!(actor.incarnation().await, 2);
        root.stop().await;
    });
}

#[test]
fn an_actor_that_was_never_started_is_down() {
    TestSystem::paused(|_| async move {
        let actor = TestActor::new("a", &EventLog::default());
        assert!(matches!(
            actor.ask(Request::Echo(1)).await,
            Err(AskError::Restarting { .. })
        ));
        assert!(!actor.handle.running(SECOND).await);
        assert_eq!(
            actor.handle.stats().snapshot().outcomes["refused_unavailable"],
            1
        );
    });
}

#[test]
fn running_resolves_when_the_actor_runs_and_fails_when_it_is_stopped() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let handle = actor.handle.clone();
        let waiting = actix_rt::spawn(async move { handle.running(LONG).await });
        let root = system.start(root_over([&actor])).await;
        assert!(waiting.await.unwrap());
        root.stop().await;
        assert!(!actor.handle.running(LONG).await);
    });
}

#[test]
fn restarted_resolves_for_the_next_incarnation_and_not_for_the_one_that_runs() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        assert!(!actor.handle.restarted(SECOND).await, "nothing happened");
        let handle = actor.handle.clone();
        let waiting = actix_rt::spawn(async move { handle.restarted(LONG).await });
        tokio::task::yield_now().await;
        actor.end(failure("x")).await;
        assert!(waiting.await.unwrap());
        assert_eq!(actor.ask(Request::Incarnation).await, Ok(2));
        let handle = actor.handle.clone();
        let waiting = actix_rt::spawn(async move { handle.restarted(LONG).await });
        tokio::task::yield_now().await;
        root.stop().await;
        assert!(!waiting.await.unwrap());
    });
}

#[test]
fn running_waits_for_the_next_incarnation_when_the_actor_has_ended_unnoticed() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        let caller = actor.clone();
        // The waiting task learns that the call is lost before the supervisor sees the end.
        let second = actix_rt::spawn(async move {
            caller.end(failure("x")).await;
            caller.incarnation().await
        });
        assert_eq!(second.await.unwrap(), 2);
        root.stop().await;
    });
}

#[test]
fn only_cancellable_work_is_cancelled_when_its_caller_leaves() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        let given_up = actor.handle.ask(CancellableWork(log.clone()), SECOND).await;
        assert_eq!(given_up, Err(AskError::TimedOut));
        eventually("the work is cancelled", || log.contains("cancelled")).await;
        eventually("the permit is free", || actor.handle.in_flight() == 0).await;
        let stats = actor.handle.stats().snapshot();
        assert_eq!(
            (
                stats.outcomes["cancelled"],
                stats.outcomes["lost"],
                stats.outcomes["handled"]
            ),
            (1, 0, 0)
        );
        root.stop().await;
    });
}

#[test]
fn a_waiting_call_whose_caller_left_is_dropped_only_if_it_is_cancellable() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        // Both callers give up before the actor is polled.
        let cancellable = actor.handle.ask(CancellableWork(log.clone()), SECOND);
        assert!(
            tokio::time::timeout(Duration::ZERO, cancellable)
                .await
                .is_err()
        );
        let other = actor.handle.ask(Request::Echo(1), SECOND);
        assert!(tokio::time::timeout(Duration::ZERO, other).await.is_err());
        eventually("the permit is free", || actor.handle.in_flight() == 0).await;
        let stats = actor.handle.stats().snapshot();
        assert_eq!(
            (stats.outcomes["cancelled"], stats.outcomes["handled"]),
            (1, 1)
        );
        assert!(
            !log.contains("cancelled"),
            "never reached the handler's work"
        );
        root.stop().await;
    });
}

#[test]
fn no_accepted_message_is_silently_lost_in_a_restart() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    TestSystem::paused(move |system| async move {
        let log = EventLog::default();
        let actor = TestActor::with_capacity("a", 8, &log);
        let spec = SupervisorSpec::new("root")
            .intensity(1_000_000, SECOND)
            .child(actor.spec());
        let root = system.start(spec).await;
        let callers = (0..50).map(|caller| {
            let actor = actor.clone();
            actix_rt::spawn(async move { call_many(&actor, seed ^ caller).await })
        });
        let mut sum = Outcomes::default();
        for outcomes in futures_util::future::join_all(callers).await {
            sum.add(&outcomes.unwrap());
        }
        assert_eq!(sum.all(), 50 * 400, "every ask returned");
        assert!(
            sum.answered > 0 && sum.lost > 0 && sum.refused > 0,
            "{sum:?}"
        );
        assert_eq!(sum.stopped, 0);
        eventually("all permits are free", || actor.handle.in_flight() == 0).await;
        let stats = actor.handle.stats().snapshot();
        assert_eq!(stats.mailbox_depth, 0);
        assert_eq!(
            stats.outcomes["refused_busy"] + stats.outcomes["refused_unavailable"],
            sum.refused
        );
        assert_eq!(stats.outcomes["timed_out"], sum.timed_out);
        assert_eq!(
            stats.outcomes["handled"] + stats.outcomes["lost"],
            sum.answered + sum.lost + sum.timed_out,
            "what was admitted was answered or lost, also after its caller left"
        );
        root.stop().await;
    });
}

#[derive(Debug, Default)]
struct Outcomes {
    answered: u64,
    lost: u64,
    refused: u64,
    timed_out: u64,
    stopped: u64,
}

impl Outcomes {
    fn count(&mut self, outcome: Result<u64, AskError>) {
        match outcome {
            Ok(_) => self.answered += 1,
            Err(AskError::Lost) => self.lost += 1,
            Err(AskError::Busy | AskError::Restarting { .. }) => self.refused += 1,
            Err(AskError::TimedOut) => self.timed_out += 1,
            Err(AskError::Stopped) => self.stopped += 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.lost += other.lost;
        self.refused += other.refused;
        self.timed_out += other.timed_out;
        self.stopped += other.stopped;
    }

    fn all(&self) -> u64 {
        self.answered + self.lost + self.refused + self.timed_out + self.stopped
    }
}

async fn call_many(actor: &TestActor, seed: u64) -> Outcomes {
    let mut random = StdRng::seed_from_u64(seed);
    let mut outcomes = Outcomes::default();
    for number in 0..400 {
        let (go_on, held) = oneshot::channel();
        let what = match random.random_range(0..100) {
            0..3 => Request::Panic,
            3..5 => Request::End(failure("now and then")),
            5..8 => Request::PanicInSpawnedFuture,
            8..40 => {
                let time = Duration::from_micros(random.random_range(0..5000));
                actix_rt::spawn(async move {
                    sleep(time).await;
                    go_on.send(()).ok();
                });
                if random.random() {
                    Request::Hold(held)
                } else {
                    Request::HoldDetached(held)
                }
            }
            _ => Request::Echo(number),
        };
        let timeout = Duration::from_millis(random.random_range(1..10));
        outcomes.count(actor.handle.ask(what, timeout).await);
        sleep(Duration::from_micros(random.random_range(0..500))).await;
    }
    outcomes
}
