//! Running an actix actor under supervision.
//!
//! actix's own `Supervisor` neither catches panics nor makes a new actor. So the kernel builds the
//! context itself, turns it into a future (`Context::into_future`) and drives that future. Every
//! poll happens inside a `catch_unwind`: a panic must not reach tokio, because tokio would drop the
//! context while unwinding, and dropping a live actix context polls it once more.
//!
//! Calls do not come through actix's mailbox but through a channel of the kernel. actix handles
//! messages as long as there are any before it looks at anything else: callers on other threads
//! that keep a mailbox filled would keep the actor from its heartbeat and its stop, and every other
//! actor of the thread from its turn. The kernel's channel yields.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant as WallInstant};

use actix::dev::ContextFut;
use actix::fut::{ActorFuture, ActorFutureExt, wrap_future};
use actix::{ActorContext, AsyncContext, Context};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::child::{Child, ChildSpec, IncarnationRef};
use super::exit::Exit;
use super::handle::{Envelope, Handle, IncarnationSender, Route};
use super::launch::{LastHeartbeat, Launch, LaunchContext, Running};
use super::stats::Stats;
use super::tree::{Kind, Observe};

/// Requests for state that may wait: operators look at actors rarely.
const OBSERVERS_MAX: usize = 4;

/// The shortest time between heartbeats: a shorter one would only waste CPU time.
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(1);

impl ChildSpec {
    /// A child that is an actor. `factory` makes a new one for every incarnation. `handle` names
    /// the child and leads to whichever incarnation runs.
    pub fn actor<A: Child>(
        handle: &Handle<A>,
        factory: impl Fn(IncarnationRef) -> A + Send + Sync + 'static,
    ) -> Self {
        let launcher = ActorLauncher {
            handle: handle.clone(),
            factory: Arc::new(factory),
        };
        Self::new(handle.name(), Kind::Actor, Arc::new(launcher))
    }
}

type Factory<A> = dyn Fn(IncarnationRef) -> A + Send + Sync;

struct ActorLauncher<A: Child> {
    handle: Handle<A>,
    factory: Arc<Factory<A>>,
}

impl<A: Child> Launch for ActorLauncher<A> {
    fn launch(&self, context: LaunchContext) -> Running {
        let (ready_sender, ready) = oneshot::channel();
        let (exit_sender, exited) = oneshot::channel();
        let (observe_sender, observers) = mpsc::channel(OBSERVERS_MAX);
        let (call_sender, calls) = mpsc::channel((self.handle.capacity() as usize).max(1));
        let (in_flight, idle) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let kill = CancellationToken::new();
        let heartbeat = LastHeartbeat::new();
        let stats = self.handle.stats();
        context.node.attach(Arc::clone(stats), observe_sender);

        let parts = ActorParts {
            incarnation: IncarnationRef::new(context.node.path().into(), context.incarnation),
            stats: Arc::clone(stats),
            ready: ready_sender,
            stop: stop.clone(),
            observers,
            calls,
            idle,
            heartbeat: heartbeat.clone(),
            interval: context.heartbeat_interval,
        };
        let factory = Arc::clone(&self.factory);
        let killed = kill.clone();
        actix_rt::spawn(async move {
            let exit = run(&*factory, parts, killed).await;
            exit_sender.send(exit).ok();
        });
        let handle = self.handle.clone();
        let sender = IncarnationSender {
            calls: call_sender,
            in_flight,
        };
        Running {
            ready,
            open: Some(Box::new(move || handle.set_route(Route::Up(sender)))),
            exited,
            stop,
            kill,
            heartbeat: Some(heartbeat),
        }
    }

    fn close(&self) {
        self.mark_down(None);
    }

    fn mark_down(&self, until: Option<Instant>) {
        self.handle.set_route(Route::Down { until });
    }

    fn mark_stopped(&self) {
        self.handle.set_route(Route::Stopped);
    }
}

/// What an incarnation is built from.
struct ActorParts<A: Child> {
    incarnation: IncarnationRef,
    stats: Arc<Stats>,
    ready: oneshot::Sender<()>,
    stop: CancellationToken,
    observers: mpsc::Receiver<Observe>,
    calls: mpsc::Receiver<Envelope<A>>,
    /// Closes when no call is in flight and none can follow.
    idle: mpsc::Receiver<Infallible>,
    heartbeat: LastHeartbeat,
    interval: Duration,
}

/// One incarnation, from the factory to the drop. Returns when nothing of the actor is left.
async fn run<A: Child>(
    factory: &Factory<A>,
    parts: ActorParts<A>,
    killed: CancellationToken,
) -> Exit {
    let mut live = match catch_unwind(AssertUnwindSafe(|| build(factory, parts))) {
        Ok(live) => live,
        Err(payload) => return Exit::Panic(panic_text(&*payload)),
    };
    let exit = tokio::select! {
        biased;
        () = killed.cancelled() => Exit::Killed,
        exit = &mut live => exit,
    };
    match (live.drop_actor(), exit) {
        // The first panic explains more than those that followed from it.
        (Some(panic), Exit::Panic(first)) => {
            tracing::error!(panic, "an actor panicked again while it was dropped");
            Exit::Panic(first)
        }
        (Some(panic), _) => Exit::Panic(panic),
        (None, exit) => exit,
    }
}

/// Makes the actor and its context, and schedules the steps of its incarnation.
fn build<A: Child>(factory: &Factory<A>, parts: ActorParts<A>) -> LiveActor<A> {
    let ActorParts {
        incarnation,
        stats,
        ready,
        stop,
        observers,
        calls,
        mut idle,
        heartbeat,
        interval,
    } = parts;
    let actor = factory(incarnation.clone());
    let mut context = Context::<A>::new();
    let started = incarnation.clone();
    let first_heartbeat = heartbeat.clone();
    let start = wrap_future::<_, A>(std::future::ready(()))
        .then(|(), actor: &mut A, context: &mut Context<A>| actor.start(context))
        .map(move |result, _, context: &mut Context<A>| match result {
            Ok(()) => {
                // The time that the start took does not count as silence.
                first_heartbeat.record();
                // A supervisor that no longer waits has already asked for the kill.
                ready.send(()).ok();
            }
            Err(exit) => started.end(context, exit),
        });
    context.wait(start);
    let stopping = wrap_future::<_, A>(async move {
        stop.cancelled().await;
        // The supervisor has closed the handle before: no new call can come.
        idle.recv().await
    })
    .then(|_, actor: &mut A, context: &mut Context<A>| actor.stop(context));
    let mut interval = tokio::time::interval(interval.max(HEARTBEAT_INTERVAL_MIN));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    context.spawn(ActorLoop {
        heartbeat,
        interval,
        observers,
        calls,
        stopping: Box::pin(stopping),
        incarnation: incarnation.clone(),
    });
    LiveActor {
        context: Some(context.into_future(actor)),
        incarnation,
        stats,
    }
}

/// A live actor: the future of its context. It turns panics into exits and measures the time that
/// the actor's code takes.
struct LiveActor<A: Child> {
    context: Option<ContextFut<A, Context<A>>>,
    incarnation: IncarnationRef,
    stats: Arc<Stats>,
}

impl<A: Child> Unpin for LiveActor<A> {}

impl<A: Child> Future for LiveActor<A> {
    type Output = Exit;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Exit> {
        let Some(context) = &mut self.context else {
            return Poll::Ready(Exit::Normal);
        };
        let before = WallInstant::now();
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(context).poll(task)));
        self.stats.add_busy(before.elapsed());
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => {
                Poll::Ready(self.incarnation.take_exit().unwrap_or(Exit::Normal))
            }
            Err(payload) => Poll::Ready(Exit::Panic(panic_text(&*payload))),
        }
    }
}

impl<A: Child> LiveActor<A> {
    /// Drops the actor with all that it has spawned. Returns the text of a panic.
    fn drop_actor(&mut self) -> Option<String> {
        let mut context = self.context.take()?;
        // The drop of a live context polls it once more, with an actor that may be broken.
        context.ctx().terminate();
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(context)));
        dropped.err().map(|payload| panic_text(&*payload))
    }
}

impl<A: Child> Drop for LiveActor<A> {
    fn drop(&mut self) {
        // Something is left to drop only when the whole actix system is dropped.
        if let Some(panic) = self.drop_actor() {
            tracing::error!(
                actor = self.incarnation.path(),
                panic,
                "an actor panicked while it was dropped"
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

/// The kernel's future inside every actor. At every poll it records a heartbeat, answers observers,
/// carries out the stop and hands over calls, in this order. It runs in the actor's own loop,
/// because a heartbeat must prove that this loop turns.
struct ActorLoop<A: Child> {
    heartbeat: LastHeartbeat,
    interval: Interval,
    observers: mpsc::Receiver<Observe>,
    calls: mpsc::Receiver<Envelope<A>>,
    /// Waits for the stop, then for the calls in flight, then for the actor.
    stopping: Pin<Box<dyn ActorFuture<A, Output = ()>>>,
    incarnation: IncarnationRef,
}

impl<A: Child> Unpin for ActorLoop<A> {}

impl<A: Child> ActorFuture<A> for ActorLoop<A> {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut A,
        context: &mut Context<A>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        while self.interval.poll_tick(task).is_ready() {}
        self.heartbeat.record();
        while let Poll::Ready(Some(observer)) = self.observers.poll_recv(task) {
            // The operator may have stopped waiting.
            observer.send(actor.observe()).ok();
        }
        if self.stopping.as_mut().poll(actor, context, task).is_ready() {
            self.incarnation.end(context, Exit::Shutdown);
            return Poll::Ready(());
        }
        // The channel takes part in tokio's cooperative budget, so a full one cannot keep the thread.
        while !context.waiting()
            && let Poll::Ready(Some(call)) = self.calls.poll_recv(task)
        {
            call(actor, context);
        }
        Poll::Pending
    }
}
