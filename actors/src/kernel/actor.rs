//! Running an actix actor under supervision.
//!
//! actix's own `Supervisor` neither catches panics nor makes a new actor, so we build the context
//! ourselves, turn it into a future (`Context::into_future`) and drive that. Around every poll
//! stands a `catch_unwind`: a panic must not reach tokio, because tokio would drop the context
//! while unwinding, and dropping a live actix context polls it once more.
//!
//! Calls do not come through actix's mailbox but through a sender of ours, because actix handles
//! messages as long as there are any before it looks at anything else: callers on other threads
//! that keep a mailbox filled would keep the actor from its heartbeat and its stop, and every other
//! actor of the thread from its turn. The lane yields.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant as WallInstant};

use actix::dev::ContextFut;
use actix::fut::{ActorFuture, ActorFutureExt, wrap_future};
use actix::{ActorContext, AsyncContext, Context};
use actix_rt::Arbiter;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::child::{Child, IncarnationRef, Placement};
use super::exit::Exit;
use super::handle::{Envelope, Handle, IncarnationSender, Route};
use super::incarnation::{LastBeat, Launch, LaunchContext, Running};
use super::stats::Stats;

/// A request for an actor's observable state.
pub(super) type Observe = oneshot::Sender<Value>;

/// Requests for state that may wait: operators look at actors now and then, not all at once.
const OBSERVERS_MAX: usize = 4;

/// The shortest heartbeat: a shorter one would only heat the machine.
const BEAT_MIN: Duration = Duration::from_millis(1);

pub(super) struct ActorLauncher<A: Child> {
    handle: Handle<A>,
    placement: Placement,
    factory: Arc<dyn Fn(IncarnationRef) -> A + Send + Sync>,
}

impl<A: Child> ActorLauncher<A> {
    pub(super) fn new(
        handle: Handle<A>,
        placement: Placement,
        factory: impl Fn(IncarnationRef) -> A + Send + Sync + 'static,
    ) -> Self {
        Self {
            handle,
            placement,
            factory: Arc::new(factory),
        }
    }
}

impl<A: Child> Launch for ActorLauncher<A> {
    fn launch(&self, context: LaunchContext) -> Running {
        let (ready_sender, ready) = oneshot::channel();
        let (exit_sender, exited) = oneshot::channel();
        let (observe_sender, observers) = mpsc::channel(OBSERVERS_MAX);
        let (sender, calls) = mpsc::channel((self.handle.capacity() as usize).max(1));
        let calls = Calls::new(calls);
        let cut = calls.cutter();
        let (in_flight, idle) = mpsc::channel(1);
        let sender = IncarnationSender {
            calls: sender,
            in_flight,
        };
        let stop = CancellationToken::new();
        let kill = CancellationToken::new();
        let beat = LastBeat::new();
        context
            .node
            .attach(Some(Arc::clone(self.handle.stats())), Some(observe_sender));

        let parts = ActorParts {
            incarnation: IncarnationRef::new(context.node.path().into(), context.incarnation),
            ready: ready_sender,
            stop: stop.clone(),
            observers,
            calls,
            idle,
            beat: beat.clone(),
            interval: context.heartbeat.interval,
        };
        let stats = Arc::clone(self.handle.stats());
        let factory = Arc::clone(&self.factory);
        let killed = kill.clone();
        let run = move || {
            actix_rt::spawn(async move {
                let exit = run(stats, &*factory, parts, killed).await;
                // The supervisor stops listening only when it has abandoned us.
                exit_sender.send(exit).ok();
            });
        };
        match self.placement {
            Placement::Shared => run(),
            Placement::Dedicated => run_apart(run, kill.clone()),
        }
        let opened = self.handle.clone();
        Running {
            ready,
            open: Box::new(move || opened.set_route(Route::Up(sender))),
            cut_off: Box::new(cut),
            exited,
            stop,
            kill,
            beat: Some(beat),
        }
    }

    fn close(&self) {
        self.mark_down(None);
    }

    fn mark_down(&self, until: Option<tokio::time::Instant>) {
        self.handle.set_route(Route::Down { until });
    }

    fn mark_stopped(&self) {
        self.handle.set_route(Route::Stopped);
    }
}

/// Runs `run` on a thread of its own, which ends once `over` is cancelled: every life does that at
/// its end. When there is no thread to be had, the drop of `run` tells the supervisor.
fn run_apart(run: impl FnOnce() + Send + 'static, over: CancellationToken) {
    let arbiter = match Arbiter::try_new() {
        Ok(arbiter) => arbiter,
        Err(error) => return tracing::error!(%error, "cannot start a thread for an actor"),
    };
    let thread = arbiter.handle();
    arbiter.spawn_fn(move || {
        run();
        actix_rt::spawn(async move {
            over.cancelled().await;
            thread.stop();
        });
    });
}

/// What an incarnation is made of.
struct ActorParts<A: Child> {
    incarnation: IncarnationRef,
    ready: oneshot::Sender<()>,
    stop: CancellationToken,
    observers: mpsc::Receiver<Observe>,
    calls: Calls<A>,
    /// Closes when no call is in flight and none can follow.
    idle: mpsc::Receiver<Infallible>,
    beat: LastBeat,
    interval: Duration,
}

/// One whole incarnation, from the factory to the drop. Returns after nothing of the actor is left.
async fn run<A: Child>(
    stats: Arc<Stats>,
    factory: &(dyn Fn(IncarnationRef) -> A + Send + Sync),
    parts: ActorParts<A>,
    killed: CancellationToken,
) -> Exit {
    let built = catch_unwind(AssertUnwindSafe(|| build(stats, factory, parts)));
    let mut alive = match built {
        Ok(alive) => alive,
        Err(payload) => return Exit::Panic(panic_text(&*payload)),
    };
    let exit = tokio::select! {
        biased;
        () = killed.cancelled() => Exit::Killed,
        exit = &mut alive => exit,
    };
    match (alive.drop_actor(), exit) {
        // The panic that ended it explains more than those that followed from it.
        (Some(panic), Exit::Panic(first)) => {
            tracing::error!(panic, "an actor panicked again while it was dropped");
            Exit::Panic(first)
        }
        (Some(panic), _) => Exit::Panic(panic),
        (None, exit) => exit,
    }
}

/// Makes the actor and its context and arranges the order of its incarnation.
fn build<A: Child>(
    stats: Arc<Stats>,
    factory: &(dyn Fn(IncarnationRef) -> A + Send + Sync),
    parts: ActorParts<A>,
) -> Alive<A> {
    let ActorParts {
        incarnation,
        ready,
        stop,
        observers,
        calls,
        mut idle,
        beat,
        interval,
    } = parts;
    let actor = factory(incarnation.clone());
    let mut context = Context::<A>::new();
    let own_incarnation = incarnation.clone();
    let first_beat = beat.clone();
    let start = wrap_future::<_, A>(std::future::ready(()))
        .then(|(), actor: &mut A, context: &mut Context<A>| actor.start(context))
        .map(move |started, _, context: &mut Context<A>| match started {
            Ok(()) => {
                // From now on silence counts; the time that the start took does not.
                first_beat.record();
                // A supervisor that does not wait any more has already asked for the kill.
                ready.send(()).ok();
            }
            Err(exit) => own_incarnation.end(context, exit),
        });
    context.wait(start);
    let stopping = wrap_future::<_, A>(async move {
        stop.cancelled().await;
        // The supervisor has closed the handle before, so the calls in flight only get fewer.
        idle.recv().await
    })
    .then(|_, actor: &mut A, context: &mut Context<A>| actor.stop(context));
    let mut interval = tokio::time::interval(interval.max(BEAT_MIN));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    context.spawn(Pump {
        beat,
        interval,
        observers,
        calls,
        stopping: Box::pin(stopping),
        incarnation: incarnation.clone(),
    });
    Alive {
        context: Some(context.into_future(actor)),
        incarnation,
        stats,
    }
}

/// A live actor: its context future, with panics turned into exits and its busy time measured.
struct Alive<A: Child> {
    context: Option<ContextFut<A, Context<A>>>,
    incarnation: IncarnationRef,
    stats: Arc<Stats>,
}

impl<A: Child> Unpin for Alive<A> {}

impl<A: Child> Future for Alive<A> {
    type Output = Exit;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Exit> {
        let Some(context) = &mut self.context else {
            return Poll::Ready(Exit::Normal);
        };
        let before = WallInstant::now();
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(context).poll(task)));
        self.stats.busy_for(before.elapsed());
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => {
                Poll::Ready(self.incarnation.take_exit().unwrap_or(Exit::Normal))
            }
            Err(payload) => Poll::Ready(Exit::Panic(panic_text(&*payload))),
        }
    }
}

impl<A: Child> Alive<A> {
    /// Drops the actor with all that it has spawned, and returns the text if that panicked.
    fn drop_actor(&mut self) -> Option<String> {
        let mut context = self.context.take()?;
        // A live context would be polled once more by its drop, with an actor that may be broken.
        context.ctx().terminate();
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(context)));
        dropped.err().map(|payload| panic_text(&*payload))
    }
}

impl<A: Child> Drop for Alive<A> {
    fn drop(&mut self) {
        // Only when the whole system goes down under us is there something left to drop.
        if let Some(panic) = self.drop_actor() {
            tracing::error!(
                actor = self.incarnation.path(),
                panic,
                "actor panicked while it was dropped"
            );
        }
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    }
}

/// The calls that wait for an actor: gone with it, or at a kill, because an actor that blocks its
/// thread must not keep the places of calls that it will never look at.
struct Calls<A: Child> {
    waiting: Arc<Mutex<Option<mpsc::Receiver<Envelope<A>>>>>,
}

impl<A: Child> Calls<A> {
    fn new(receiver: mpsc::Receiver<Envelope<A>>) -> Self {
        Self {
            waiting: Arc::new(Mutex::new(Some(receiver))),
        }
    }

    fn poll_next(&self, task: &mut TaskContext<'_>) -> Poll<Option<Envelope<A>>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *waiting {
            Some(receiver) => receiver.poll_recv(task),
            None => Poll::Ready(None),
        }
    }

    /// Drops those that wait and lets in no more, from any thread.
    fn cutter(&self) -> impl Fn() + Send + 'static {
        let waiting = Arc::downgrade(&self.waiting);
        move || {
            if let Some(waiting) = waiting.upgrade() {
                // Messages are dropped outside of the lock: they may run code of anybody.
                let receiver = waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                drop(receiver);
            }
        }
    }
}

/// The kernel's own future inside every actor: it beats, answers observers, carries out the stop,
/// and hands over the calls, in this order at every turn. It runs in the actor's loop on purpose:
/// what it proves alive is that very loop.
struct Pump<A: Child> {
    beat: LastBeat,
    interval: Interval,
    observers: mpsc::Receiver<Observe>,
    calls: Calls<A>,
    /// Waits for the stop, then for the calls in flight, then for the actor.
    stopping: Pin<Box<dyn ActorFuture<A, Output = ()>>>,
    incarnation: IncarnationRef,
}

impl<A: Child> Unpin for Pump<A> {}

impl<A: Child> ActorFuture<A> for Pump<A> {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut A,
        context: &mut Context<A>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        while self.interval.poll_tick(task).is_ready() {}
        self.beat.record();
        while let Poll::Ready(Some(observer)) = self.observers.poll_recv(task) {
            // Whoever asked may have stopped waiting.
            observer.send(actor.observe()).ok();
        }
        if self.stopping.as_mut().poll(actor, context, task).is_ready() {
            self.incarnation.end(context, Exit::Shutdown);
            return Poll::Ready(());
        }
        // The channel takes part in tokio's cooperative budget: a full one cannot hold the thread.
        while !context.waiting()
            && let Poll::Ready(Some(call)) = self.calls.poll_next(task)
        {
            call(actor, context);
        }
        Poll::Pending
    }
}
