//! The behaviour of actix 0.13 that the kernel relies on or works around. Each test shows one fact,
//! so that an update of actix that changes it is noticed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// These methods are forbidden elsewhere because of the behaviour shown here.
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

/// Counts what happened to an actor.
#[derive(Clone, Default)]
struct Counters {
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
    counters: Counters,
    mailbox: Option<usize>,
}

impl Subject {
    fn new(counters: &Counters) -> Self {
        Self {
            counters: counters.clone(),
            mailbox: None,
        }
    }

    /// An actor with a mailbox of one that handles no message until `go_on` is notified.
    fn blocked(counters: &Counters) -> Addr<Self> {
        let counters = counters.clone();
        Self::create(|context| {
            let go_on = Arc::clone(&counters.go_on);
            context.set_mailbox_capacity(1);
            context.wait(wrap_future(async move { go_on.notified().await }));
            Self {
                counters,
                mailbox: Some(1),
            }
        })
    }
}

impl Actor for Subject {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.counters.started.fetch_add(1, Relaxed);
        if let Some(capacity) = self.mailbox {
            context.set_mailbox_capacity(capacity);
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.counters.stopped.fetch_add(1, Relaxed);
        self.counters
            .unwinding
            .store(std::thread::panicking(), Relaxed);
    }
}

impl Supervised for Subject {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.counters.restarting.fetch_add(1, Relaxed);
    }
}

enum Request {
    Count,
    /// Counts, and sends itself the next lower number.
    CountDown(u32),
    Panic,
    Terminate,
    Wait,
}

impl Message for Request {
    type Result = ();
}

impl Handler<Request> for Subject {
    type Result = ();

    fn handle(&mut self, what: Request, context: &mut Self::Context) {
        self.counters.handled.fetch_add(1, Relaxed);
        match what {
            Request::Count | Request::CountDown(0) => {}
            Request::CountDown(left) => context.address().do_send(Request::CountDown(left - 1)),
            Request::Panic => panic!("requested"),
            Request::Terminate => context.terminate(),
            Request::Wait => context.wait(wrap_future(pending())),
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
        let in_flight = Arc::clone(&self.counters.in_flight);
        Box::pin(async move {
            assert!(!work.panics, "requested");
            in_flight.fetch_add(1, Relaxed);
            pending().await
        })
    }
}

/// Lets every task be polled many times.
async fn run_all_tasks() {
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
        let counters = Counters::default();
        let subject = Subject::new(&counters);
        let address = actix::Supervisor::start(move |_| subject);
        assert!(address.send(Request::Panic).await.is_err());
        run_all_tasks().await;
        assert!(!address.connected());
        assert_eq!(count(&counters.started), 1);
        assert_eq!(count(&counters.restarting), 0);
    });
}

#[test]
fn send_does_not_hold_senders_back() {
    system(|| async {
        let counters = Counters::default();
        let address = Subject::blocked(&counters);
        // Each is polled once: a sender that was held back would send nothing.
        let mut requests: Vec<_> = (0..100)
            .map(|_| Box::pin(address.send(Request::Count)))
            .collect();
        for request in &mut requests {
            assert!(poll_once(request).is_pending());
        }
        counters.go_on.notify_one();
        run_all_tasks().await;
        assert_eq!(count(&counters.handled), 100, "past a mailbox of one");
    });
}

#[test]
fn do_send_queues_past_the_capacity() {
    system(|| async {
        let counters = Counters::default();
        let address = Subject::blocked(&counters);
        let mut queued = 0;
        while address.try_send(Request::Count).is_ok() {
            queued += 1;
        }
        assert!(queued < 10, "it is full");
        for _ in 0..1000 {
            address.do_send(Request::Count);
        }
        counters.go_on.notify_one();
        run_all_tasks().await;
        assert_eq!(count(&counters.handled), queued + 1000);
    });
}

#[test]
fn every_clone_of_an_address_can_send_once_to_a_full_mailbox() {
    system(|| async {
        let counters = Counters::default();
        let address = Subject::blocked(&counters);
        while address.try_send(Request::Count).is_ok() {}
        for _ in 0..50 {
            assert!(address.clone().try_send(Request::Count).is_ok());
        }
    });
}

#[test]
fn a_mailbox_is_served_before_anything_else_as_long_as_there_are_messages() {
    system(|| async {
        let counters = Counters::default();
        let address = Subject::new(&counters).start();
        run_all_tasks().await;
        let (turns, handled) = (Arc::clone(&counters.turns), Arc::clone(&counters.handled));
        let neighbour = actix_rt::spawn(async move {
            while count(&handled) < 10_001 {
                turns.fetch_add(1, Relaxed);
                tokio::task::yield_now().await;
            }
        });
        address.do_send(Request::CountDown(10_000));
        neighbour.await.unwrap();
        assert!(
            count(&counters.turns) < 5,
            "a neighbour had {} turns while 10,000 messages were handled",
            count(&counters.turns)
        );
    });
}

#[test]
fn response_futures_run_detached_and_without_bound() {
    system(|| async {
        let counters = Counters::default();
        let address = Subject::new(&counters).start();
        for _ in 0..500 {
            address.do_send(Work { panics: false });
        }
        run_all_tasks().await;
        assert_eq!(count(&counters.in_flight), 500);
        // They do not end with the actor either.
        assert!(address.send(Request::Terminate).await.is_ok());
        run_all_tasks().await;
        assert!(!address.connected());
        assert!(Arc::strong_count(&counters.in_flight) > 500);
    });
}

#[test]
fn a_panic_in_a_response_future_drops_the_reply_and_the_actor_goes_on() {
    system(|| async {
        let address = Subject::default().start();
        let answer = address.send(Work { panics: true }).await;
        assert!(matches!(answer, Err(MailboxError::Closed)));
        assert!(address.send(Request::Count).await.is_ok());
    });
}

#[test]
fn closed_means_a_dropped_reply_as_well_as_a_dead_actor() {
    system(|| async {
        let address = Subject::default().start();
        let dropped = address.send(Work { panics: true }).await;
        assert!(address.connected());
        address.do_send(Request::Terminate);
        run_all_tasks().await;
        assert!(!address.connected());
        let dead = address.send(Request::Count).await;
        assert!(matches!(dropped, Err(MailboxError::Closed)));
        assert!(matches!(dead, Err(MailboxError::Closed)));
    });
}

#[test]
fn a_context_can_be_built_and_spawned_by_hand_and_its_panic_awaited() {
    system(|| async {
        let counters = Counters::default();
        let context = Context::<Subject>::new();
        let address = context.address();
        let future = actix_rt::spawn(context.into_future(Subject::new(&counters)));
        assert!(address.send(Request::Count).await.is_ok());
        address.do_send(Request::Panic);
        assert!(future.await.unwrap_err().is_panic());
    });
}

#[test]
fn wait_holds_up_both_the_mailbox_and_the_spawned_futures() {
    system(|| async {
        let counters = Counters::default();
        let turns = Arc::clone(&counters.turns);
        let subject = Subject::new(&counters);
        let address = Subject::create(move |context| {
            context.run_interval(Duration::from_secs(1), move |_, _| {
                turns.fetch_add(1, Relaxed);
            });
            subject
        });
        sleep(Duration::from_secs(10)).await;
        assert!(count(&counters.turns) >= 9);
        assert!(address.send(Request::Wait).await.is_ok());
        let turns_before = count(&counters.turns);
        address.do_send(Request::Count);
        sleep(Duration::from_secs(100)).await;
        assert_eq!(count(&counters.turns), turns_before);
        assert_eq!(count(&counters.handled), 1, "only the wait itself");
    });
}

#[test]
fn dropping_a_live_context_runs_stopped_but_handles_no_message() {
    system(|| async {
        let counters = Counters::default();
        let context = Context::<Subject>::new();
        let address = context.address();
        let mut future = context.into_future(Subject::new(&counters));
        assert!(poll_once(&mut future).is_pending());
        address.do_send(Request::Count);
        drop(future);
        assert_eq!(count(&counters.stopped), 1);
        assert_eq!(count(&counters.handled), 0);
    });
}

#[test]
fn dropping_a_terminated_context_runs_nothing() {
    system(|| async {
        let counters = Counters::default();
        let context = Context::<Subject>::new();
        let _address = context.address();
        let mut future = context.into_future(Subject::new(&counters));
        assert!(poll_once(&mut future).is_pending());
        future.ctx().terminate();
        drop(future);
        assert_eq!(count(&counters.stopped), 0);
    });
}

#[test]
fn a_panic_that_reaches_tokio_runs_stopped_while_unwinding() {
    // A second panic in `stopped` would abort the process: the kernel must catch before tokio does.
    system(|| async {
        let counters = Counters::default();
        let address = Subject::new(&counters).start();
        address.do_send(Request::Panic);
        run_all_tasks().await;
        assert_eq!(count(&counters.stopped), 1);
        assert!(counters.unwinding.load(Relaxed));
    });
}

#[test]
fn terminate_ends_the_actor_within_the_same_poll() {
    system(|| async {
        let counters = Counters::default();
        let context = Context::<Subject>::new();
        let address = context.address();
        let mut future = context.into_future(Subject::new(&counters));
        address.do_send(Request::Terminate);
        address.do_send(Request::Count);
        assert!(poll_once(&mut future).is_ready());
        assert_eq!(count(&counters.handled), 1, "nothing after the terminate");
        assert_eq!(count(&counters.stopped), 1);
    });
}

#[test]
fn stop_ends_the_actor_within_the_same_poll_too() {
    system(|| async {
        let counters = Counters::default();
        let mut context = Context::<Subject>::new();
        let address = context.address();
        context.spawn(wrap_future(pending()));
        context.stop();
        let mut future = context.into_future(Subject::new(&counters));
        address.do_send(Request::Count);
        assert!(poll_once(&mut future).is_ready());
        assert_eq!(count(&counters.handled), 0);
    });
}

#[test]
fn a_paused_clock_drives_the_timers_of_actors() {
    system(|| async {
        let counters = Counters::default();
        let turns = Arc::clone(&counters.turns);
        let subject = Subject::new(&counters);
        let hour = Duration::from_secs(3600);
        let _address = Subject::create(move |context| {
            context.run_later(hour, move |_, _| {
                turns.fetch_add(1, Relaxed);
            });
            subject
        });
        let (started, really) = (Instant::now(), std::time::Instant::now());
        sleep(hour + Duration::from_secs(1)).await;
        assert_eq!(count(&counters.turns), 1);
        assert!(started.elapsed() >= hour);
        assert!(really.elapsed() < Duration::from_secs(60));
    });
}
