//! Calls through a handle: each is answered, refused or reported lost, and gives its permit back.

use std::time::Duration;

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{AskError, SupervisorSpec};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::cast::*;

#[test]
fn calls_of_one_caller_are_handled_in_the_order_in_which_they_were_made() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::with_capacity("a", 1000, &journal);
        let root = system.start(over([&role])).await;
        journal.take();
        let calls = (0..1000).map(|number| role.ask(Do::Note(number)));
        futures_util::future::join_all(calls).await;
        let expected: Vec<_> = (0..1000).map(|number| number.to_string()).collect();
        assert_eq!(journal.take(), expected);
        root.stop().await;
    });
}

#[test]
fn one_call_more_than_the_capacity_is_refused_at_once() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::with_capacity("a", 2, &journal);
        let root = system.start(over([&role])).await;
        let holds = [(); 2].map(|()| hold(&role));
        eventually("both are in flight", || role.handle.in_flight() == 2).await;
        assert_eq!(role.ask(Do::Echo(1)).await, Err(AskError::Busy));
        assert_eq!(role.handle.stats().snapshot().refused_busy, 1);
        for (go_on, held) in holds {
            go_on.send(()).unwrap();
            assert_eq!(held.await.unwrap(), Ok(0));
        }
        assert_eq!(role.ask(Do::Echo(1)).await, Ok(1));
        root.stop().await;
    });
}

type Held = actix_rt::task::JoinHandle<Result<u64, AskError>>;

fn hold(role: &Role) -> (oneshot::Sender<()>, Held) {
    let (go_on, held) = oneshot::channel();
    let caller = role.clone();
    let call = actix_rt::spawn(async move { caller.ask(Do::Hold(held)).await });
    (go_on, call)
}

#[test]
fn a_caller_that_gives_up_does_not_free_the_place_of_work_that_goes_on() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::with_capacity("a", 1, &journal);
        let root = system.start(over([&role])).await;
        let (go_on, held) = oneshot::channel();
        let given_up = role.handle.ask(Do::HoldDetached(held), SECOND).await;
        assert_eq!(given_up, Err(AskError::TimedOut));
        assert_eq!(role.ask(Do::Echo(1)).await, Err(AskError::Busy));
        go_on.send(()).unwrap();
        eventually("the place is free", || role.handle.in_flight() == 0).await;
        assert_eq!(role.ask(Do::Echo(1)).await, Ok(1));
        let stats = role.handle.stats().snapshot();
        assert_eq!((stats.timed_out, stats.handled), (1, 2), "the work counts");
        root.stop().await;
    });
}

#[test]
fn whoever_has_the_answer_may_call_again_at_once() {
    // The place must be free before the answer is out: callers on other threads are fast.
    TestSystem::real_time(|system| async move {
        let journal = Journal::default();
        let role = Role::with_capacity("a", 1, &journal);
        let root = system.start(over([&role])).await;
        let caller = role.clone();
        let (done, finished) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let refused = runtime.block_on(async {
                for number in 0..20_000 {
                    let answer = caller.ask(Do::Echo(number)).await;
                    if answer != Ok(number) {
                        return Some((number, answer));
                    }
                    let lost = caller.ask(Do::Forget).await;
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
fn a_deadline_of_for_ever_is_allowed() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let root = system.start(over([&role])).await;
        assert_eq!(role.handle.ask(Do::Echo(1), Duration::MAX).await, Ok(1));
        root.stop().await;
    });
}

#[test]
fn a_dropped_reply_is_told_as_lost_and_the_actor_lives() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let root = system.start(over([&role])).await;
        assert_eq!(role.ask(Do::Forget).await, Err(AskError::Lost));
        assert_eq!(role.incarnation().await, 1);
        assert_eq!(role.handle.stats().snapshot().lost, 1);
        root.stop().await;
    });
}

#[test]
fn calls_in_work_and_calls_that_wait_are_both_told_lost_when_the_actor_dies() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let root = system.start(over([&role])).await;
        let (_go_on, in_work) = hold(&role);
        eventually("in work", || role.handle.in_flight() == 1).await;
        // All of these are queued behind the one that panics.
        let (panicked, queued) = tokio::join!(
            role.ask(Do::Panic),
            futures_util::future::join_all((0..5).map(|number| role.ask(Do::Echo(number))))
        );
        assert_eq!(panicked, Err(AskError::Lost));
        assert_eq!(queued, [Err(AskError::Lost); 5]);
        assert_eq!(in_work.await.unwrap(), Err(AskError::Lost));
        assert_eq!(role.handle.in_flight(), 0);
        assert_eq!(role.handle.stats().snapshot().mailbox_depth, 0);
        assert_eq!(role.incarnation().await, 2);
        root.stop().await;
    });
}

#[test]
fn an_actor_that_was_never_started_is_down() {
    TestSystem::paused(|_| async move {
        let role = Role::new("a", &Journal::default());
        assert!(matches!(
            role.ask(Do::Echo(1)).await,
            Err(AskError::Restarting { .. })
        ));
        assert!(!role.handle.running(SECOND).await);
        assert_eq!(role.handle.stats().snapshot().refused_unavailable, 1);
    });
}

#[test]
fn running_resolves_when_the_actor_runs_and_fails_when_it_is_stopped() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let handle = role.handle.clone();
        let waiting = actix_rt::spawn(async move { handle.running(LONG).await });
        let root = system.start(over([&role])).await;
        assert!(waiting.await.unwrap());
        root.stop().await;
        assert!(!role.handle.running(LONG).await);
    });
}

#[test]
fn restarted_resolves_for_the_next_incarnation_and_not_for_the_one_that_runs() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let root = system.start(over([&role])).await;
        assert!(!role.handle.restarted(SECOND).await, "nothing happened");
        let handle = role.handle.clone();
        let waiting = actix_rt::spawn(async move { handle.restarted(LONG).await });
        tokio::task::yield_now().await;
        role.end(failure("x")).await;
        assert!(waiting.await.unwrap());
        assert_eq!(role.ask(Do::Incarnation).await, Ok(2));
        let handle = role.handle.clone();
        let waiting = actix_rt::spawn(async move { handle.restarted(LONG).await });
        tokio::task::yield_now().await;
        root.stop().await;
        assert!(!waiting.await.unwrap());
    });
}

#[test]
fn running_is_not_fooled_by_an_actor_that_has_died_unnoticed() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let root = system.start(over([&role])).await;
        let caller = role.clone();
        // A task of its own hears of the death before the supervisor does.
        let second = actix_rt::spawn(async move {
            caller.end(failure("x")).await;
            caller.incarnation().await
        });
        assert_eq!(second.await.unwrap(), 2);
        root.stop().await;
    });
}

#[test]
fn only_work_that_says_so_is_cancelled_with_its_caller() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let root = system.start(over([&role])).await;
        let given_up = role.handle.ask(Cancellable(journal.clone()), SECOND).await;
        assert_eq!(given_up, Err(AskError::TimedOut));
        eventually("told", || journal.contains("cancelled")).await;
        eventually("free", || role.handle.in_flight() == 0).await;
        let stats = role.handle.stats().snapshot();
        assert_eq!((stats.cancelled, stats.lost, stats.handled), (1, 0, 0));
        root.stop().await;
    });
}

#[test]
fn a_call_whose_caller_left_before_it_was_looked_at_is_dropped_only_if_it_says_so() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let root = system.start(over([&role])).await;
        // Both callers give up before the actor has its turn.
        let cancellable = role.handle.ask(Cancellable(journal.clone()), SECOND);
        assert!(
            tokio::time::timeout(Duration::ZERO, cancellable)
                .await
                .is_err()
        );
        let other = role.handle.ask(Do::Echo(1), SECOND);
        assert!(tokio::time::timeout(Duration::ZERO, other).await.is_err());
        eventually("free", || role.handle.in_flight() == 0).await;
        let stats = role.handle.stats().snapshot();
        assert_eq!((stats.cancelled, stats.handled), (1, 1));
        assert!(
            !journal.contains("cancelled"),
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
        let journal = Journal::default();
        let role = Role::with_capacity("a", 8, &journal);
        let spec = SupervisorSpec::new("root")
            .intensity(1_000_000, SECOND)
            .child(role.spec());
        let root = system.start(spec).await;
        let callers = (0..50).map(|caller| {
            let role = role.clone();
            actix_rt::spawn(async move { call_many(&role, seed ^ caller).await })
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
        eventually("all places are free", || role.handle.in_flight() == 0).await;
        let stats = role.handle.stats().snapshot();
        assert_eq!(stats.mailbox_depth, 0);
        assert_eq!(stats.refused_busy + stats.refused_unavailable, sum.refused);
        assert_eq!(stats.timed_out, sum.timed_out);
        assert_eq!(
            stats.handled + stats.lost,
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

async fn call_many(role: &Role, seed: u64) -> Outcomes {
    let mut random = StdRng::seed_from_u64(seed);
    let mut outcomes = Outcomes::default();
    for number in 0..400 {
        let (go_on, held) = oneshot::channel();
        let what = match random.random_range(0..100) {
            0..3 => Do::Panic,
            3..5 => Do::End(failure("now and then")),
            5..8 => Do::PanicInSpawnedFuture,
            8..40 => {
                let time = Duration::from_micros(random.random_range(0..5000));
                actix_rt::spawn(async move {
                    sleep(time).await;
                    go_on.send(()).ok();
                });
                if random.random() {
                    Do::Hold(held)
                } else {
                    Do::HoldDetached(held)
                }
            }
            _ => Do::Echo(number),
        };
        let patience = Duration::from_millis(random.random_range(1..10));
        outcomes.count(role.handle.ask(what, patience).await);
        sleep(Duration::from_micros(random.random_range(0..500))).await;
    }
    outcomes
}
