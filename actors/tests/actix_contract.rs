//! The facts of actix 0.13 that the kernel is built on, or built against. Each was read in actix's
//! source; here each is shown, so that an update that changes one of them is noticed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// The point of this file is to show what the kernel protects everyone else from.
#![allow(clippy::disallowed_methods)]

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use actix::fut::wrap_future;
use actix::prelude::*;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Runs `test` in an actix system whose clock stands still unless everything waits.
fn system<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let system = System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    });
    system.block_on(async { test().await });
}

/// What happened to an actor.
#[derive(Clone, Default)]
struct Seen {
    started: Arc<AtomicU32>,
    stopped: Arc<AtomicU32>,
    restarting: Arc<AtomicU32>,
    handled: Arc<AtomicU32>,
    in_flight: Arc<AtomicU32>,
    turns: Arc<AtomicU32>,
    unwinding: Arc<AtomicBool>,
    go_on: Arc<Notify>,
}

fn count(counter: &AtomicU32) -> u32 {
    counter.load(Relaxed)
}

#[derive(Default)]
struct Subject {
    seen: Seen,
    mailbox: Option<usize>,
}

impl Subject {
    fn new(seen: &Seen) -> Self {
        Self {
            seen: seen.clone(),
            mailbox: None,
        }
    }

    /// With a mailbox of one, that does not look at any message before it is told to.
    fn held_back(seen: &Seen) -> Addr<Self> {
        let seen = seen.clone();
        Self::create(|context| {
            let go_on = Arc::clone(&seen.go_on);
            context.set_mailbox_capacity(1);
            context.wait(wrap_future(async move { go_on.notified().await }));
            Self {
                seen,
                mailbox: Some(1),
            }
        })
    }
}

impl Actor for Subject {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.seen.started.fetch_add(1, Relaxed);
        if let Some(capacity) = self.mailbox {
            context.set_mailbox_capacity(capacity);
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.seen.stopped.fetch_add(1, Relaxed);
        self.seen.unwinding.store(std::thread::panicking(), Relaxed);
    }
}

impl Supervised for Subject {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.seen.restarting.fetch_add(1, Relaxed);
    }
}

enum Do {
    Count,
    /// Counts, and sends itself the rest.
    CountDown(u32),
    Panic,
    Terminate,
    Wait,
}

impl Message for Do {
    type Result = ();
}

impl Handler<Do> for Subject {
    type Result = ();

    fn handle(&mut self, what: Do, context: &mut Self::Context) {
        self.seen.handled.fetch_add(1, Relaxed);
        match what {
            Do::Count | Do::CountDown(0) => {}
            Do::CountDown(left) => context.address().do_send(Do::CountDown(left - 1)),
            Do::Panic => panic!("as told"),
            Do::Terminate => context.terminate(),
            Do::Wait => context.wait(wrap_future(pending())),
        }
    }
}

/// Work whose answer comes from a `ResponseFuture`.
struct Work {
    panics: bool,
}

impl Message for Work {
    type Result = ();
}

impl Handler<Work> for Subject {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, work: Work, _: &mut Self::Context) -> Self::Result {
        let in_flight = Arc::clone(&self.seen.in_flight);
        Box::pin(async move {
            assert!(!work.panics, "as told");
            in_flight.fetch_add(1, Relaxed);
            pending().await
        })
    }
}

/// Lets every task have its turn, some times over.
async fn everyone_had_a_turn() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut TaskContext::from_waker(Waker::noop()))
}

#[test]
fn actix_supervisor_does_not_restart_after_a_panic() {
    system(|| async {
        let seen = Seen::default();
        let subject = Subject::new(&seen);
        let address = actix::Supervisor::start(move |_| subject);
        assert!(address.send(Do::Panic).await.is_err());
        everyone_had_a_turn().await;
        assert!(!address.connected());
        assert_eq!(count(&seen.started), 1);
        assert_eq!(count(&seen.restarting), 0);
    });
}

#[test]
fn send_does_not_hold_senders_back() {
    system(|| async {
        let seen = Seen::default();
        let address = Subject::held_back(&seen);
        // Each is polled once and never again: a sender that was held back would send nothing.
        let mut requests: Vec<_> = (0..100)
            .map(|_| Box::pin(address.send(Do::Count)))
            .collect();
        for request in &mut requests {
            assert!(poll_once(request).is_pending());
        }
        seen.go_on.notify_one();
        everyone_had_a_turn().await;
        assert_eq!(count(&seen.handled), 100, "past a mailbox of one");
    });
}

#[test]
fn do_send_queues_past_the_capacity() {
    system(|| async {
        let seen = Seen::default();
        let address = Subject::held_back(&seen);
        let mut queued = 0;
        while address.try_send(Do::Count).is_ok() {
            queued += 1;
        }
        assert!(queued < 10, "it is full");
        for _ in 0..1000 {
            address.do_send(Do::Count);
        }
        seen.go_on.notify_one();
        everyone_had_a_turn().await;
        assert_eq!(count(&seen.handled), queued + 1000);
    });
}

#[test]
fn every_clone_of_an_address_owns_a_place_in_a_full_mailbox() {
    system(|| async {
        let seen = Seen::default();
        let address = Subject::held_back(&seen);
        while address.try_send(Do::Count).is_ok() {}
        for _ in 0..50 {
            assert!(address.clone().try_send(Do::Count).is_ok());
        }
    });
}

#[test]
fn a_mailbox_is_served_before_anything_else_as_long_as_there_are_messages() {
    system(|| async {
        let seen = Seen::default();
        let address = Subject::new(&seen).start();
        everyone_had_a_turn().await;
        let (turns, handled) = (Arc::clone(&seen.turns), Arc::clone(&seen.handled));
        let neighbour = actix_rt::spawn(async move {
            while count(&handled) < 10_001 {
                turns.fetch_add(1, Relaxed);
                tokio::task::yield_now().await;
            }
        });
        address.do_send(Do::CountDown(10_000));
        neighbour.await.unwrap();
        assert!(
            count(&seen.turns) < 5,
            "a neighbour had {} turns while 10,000 messages were handled",
            count(&seen.turns)
        );
    });
}

#[test]
fn response_futures_run_detached_and_without_bound() {
    system(|| async {
        let seen = Seen::default();
        let address = Subject::new(&seen).start();
        for _ in 0..500 {
            address.do_send(Work { panics: false });
        }
        everyone_had_a_turn().await;
        assert_eq!(count(&seen.in_flight), 500);
        // They do not end with the actor either.
        assert!(address.send(Do::Terminate).await.is_ok());
        everyone_had_a_turn().await;
        assert!(!address.connected());
        assert!(Arc::strong_count(&seen.in_flight) > 500);
    });
}

#[test]
fn a_panic_in_a_response_future_drops_the_reply_and_the_actor_lives() {
    system(|| async {
        let address = Subject::default().start();
        let answer = address.send(Work { panics: true }).await;
        assert!(matches!(answer, Err(MailboxError::Closed)));
        assert!(address.send(Do::Count).await.is_ok());
    });
}

#[test]
fn closed_means_a_dropped_reply_as_well_as_a_dead_actor() {
    system(|| async {
        let address = Subject::default().start();
        let dropped = address.send(Work { panics: true }).await;
        assert!(address.connected());
        address.do_send(Do::Terminate);
        everyone_had_a_turn().await;
        assert!(!address.connected());
        let dead = address.send(Do::Count).await;
        assert!(matches!(dropped, Err(MailboxError::Closed)));
        assert!(matches!(dead, Err(MailboxError::Closed)));
    });
}

#[test]
fn a_context_can_be_built_and_spawned_by_hand_and_its_panic_awaited() {
    system(|| async {
        let seen = Seen::default();
        let context = Context::<Subject>::new();
        let address = context.address();
        let life = actix_rt::spawn(context.into_future(Subject::new(&seen)));
        assert!(address.send(Do::Count).await.is_ok());
        address.do_send(Do::Panic);
        assert!(life.await.unwrap_err().is_panic());
    });
}

#[test]
fn wait_holds_up_both_the_mailbox_and_the_spawned_futures() {
    system(|| async {
        let seen = Seen::default();
        let turns = Arc::clone(&seen.turns);
        let subject = Subject::new(&seen);
        let address = Subject::create(move |context| {
            context.run_interval(Duration::from_secs(1), move |_, _| {
                turns.fetch_add(1, Relaxed);
            });
            subject
        });
        sleep(Duration::from_secs(10)).await;
        assert!(count(&seen.turns) >= 9);
        assert!(address.send(Do::Wait).await.is_ok());
        let turns_before = count(&seen.turns);
        address.do_send(Do::Count);
        sleep(Duration::from_secs(100)).await;
        assert_eq!(count(&seen.turns), turns_before);
        assert_eq!(count(&seen.handled), 1, "only the wait itself");
    });
}

#[test]
fn dropping_a_live_context_runs_stopped_but_handles_no_message() {
    system(|| async {
        let seen = Seen::default();
        let context = Context::<Subject>::new();
        let address = context.address();
        let mut life = context.into_future(Subject::new(&seen));
        assert!(poll_once(&mut life).is_pending());
        address.do_send(Do::Count);
        drop(life);
        assert_eq!(count(&seen.stopped), 1);
        assert_eq!(count(&seen.handled), 0);
    });
}

#[test]
fn dropping_a_terminated_context_runs_nothing() {
    system(|| async {
        let seen = Seen::default();
        let context = Context::<Subject>::new();
        let _address = context.address();
        let mut life = context.into_future(Subject::new(&seen));
        assert!(poll_once(&mut life).is_pending());
        life.ctx().terminate();
        drop(life);
        assert_eq!(count(&seen.stopped), 0);
    });
}

#[test]
fn a_panic_that_reaches_tokio_runs_stopped_while_unwinding() {
    // A second panic in there would abort the process: the kernel must catch before tokio does.
    system(|| async {
        let seen = Seen::default();
        let address = Subject::new(&seen).start();
        address.do_send(Do::Panic);
        everyone_had_a_turn().await;
        assert_eq!(count(&seen.stopped), 1);
        assert!(seen.unwinding.load(Relaxed));
    });
}

#[test]
fn terminate_ends_the_actor_within_the_same_poll() {
    system(|| async {
        let seen = Seen::default();
        let context = Context::<Subject>::new();
        let address = context.address();
        let mut life = context.into_future(Subject::new(&seen));
        address.do_send(Do::Terminate);
        address.do_send(Do::Count);
        assert!(poll_once(&mut life).is_ready());
        assert_eq!(count(&seen.handled), 1, "nothing after the terminate");
        assert_eq!(count(&seen.stopped), 1);
    });
}

#[test]
fn stop_ends_the_actor_within_the_same_poll_too() {
    system(|| async {
        let seen = Seen::default();
        let mut context = Context::<Subject>::new();
        let address = context.address();
        context.spawn(wrap_future(pending()));
        context.stop();
        let mut life = context.into_future(Subject::new(&seen));
        address.do_send(Do::Count);
        assert!(poll_once(&mut life).is_ready());
        assert_eq!(count(&seen.handled), 0);
    });
}

#[test]
fn a_paused_clock_drives_the_timers_of_actors() {
    system(|| async {
        let seen = Seen::default();
        let turns = Arc::clone(&seen.turns);
        let subject = Subject::new(&seen);
        let hour = Duration::from_secs(3600);
        let _address = Subject::create(move |context| {
            context.run_later(hour, move |_, _| {
                turns.fetch_add(1, Relaxed);
            });
            subject
        });
        let (begun, really) = (Instant::now(), std::time::Instant::now());
        sleep(hour + Duration::from_secs(1)).await;
        assert_eq!(count(&seen.turns), 1);
        assert!(begun.elapsed() >= hour);
        assert!(really.elapsed() < Duration::from_secs(60));
    });
}
