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

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant as WallInstant};

use actix::dev::ContextFut;
use actix::fut::{ActorFuture, ActorFutureExt, wrap_future};
use actix::{ActorContext, AsyncContext, Context};
use futures_util::future::LocalBoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::child::{Child, ChildSpec, IncarnationRef};
use super::exit::Exit;
use super::handle::{Envelope, Handle, IncarnationSender, Route};
use super::incarnation::{LastHeartbeat, Launch, LaunchContext};
use super::stats::Stats;
use super::tree::{Kind, Observe};

/// Requests for state that may wait: operators look at actors rarely.
const OBSERVERS_MAX: usize = 4;

/// Time between two heartbeats of an actor that has nothing to do.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

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
    fn run(&self, launch: LaunchContext) -> LocalBoxFuture<'static, Exit> {
        Box::pin(run(self.handle.clone(), Arc::clone(&self.factory), launch))
    }

    fn refuse_calls(&self, until: Option<Instant>) {
        self.handle.set_route(Route::Down(until));
    }
}

/// One incarnation, from the factory to the drop. Returns when nothing of the actor is left.
async fn run<A: Child>(handle: Handle<A>, factory: Arc<Factory<A>>, launch: LaunchContext) -> Exit {
    let kill = launch.kill.clone();
    let mut live = match catch_panic(|| build(handle, &*factory, launch)) {
        Ok(live) => live,
        Err(panic) => return Exit::Panic(panic),
    };
    let exit = tokio::select! {
        biased;
        () = kill.cancelled() => Exit::Killed,
        exit = poll_fn(|task| live.poll(task)) => exit,
    };
    match (live.drop_actor(), exit) {
        // The first panic explains more than those that followed from it.
        (Err(panic), Exit::Panic(first)) => {
            tracing::error!(panic, "an actor panicked again while it was dropped");
            Exit::Panic(first)
        }
        (Err(panic), _) => Exit::Panic(panic),
        (Ok(()), exit) => exit,
    }
}

/// Makes the actor and its context, and schedules the steps of its incarnation.
fn build<A: Child>(handle: Handle<A>, factory: &Factory<A>, launch: LaunchContext) -> LiveActor<A> {
    let (observe_sender, observers) = mpsc::channel(OBSERVERS_MAX);
    let (call_sender, calls) = mpsc::channel((handle.capacity() as usize).max(1));
    // Closes when no call is in flight and none can follow.
    let (in_flight, mut idle) = mpsc::channel::<Infallible>(1);
    let stats = Arc::clone(handle.stats());
    launch.node.attach(Arc::clone(&stats), observe_sender);
    let incarnation = IncarnationRef::new(launch.node.path().into());
    let actor = factory(incarnation.clone());
    let mut context = Context::<A>::new();
    let started = incarnation.clone();
    let first_heartbeat = Rc::clone(&launch.heartbeat);
    let is_stopped = launch.stop.clone();
    let start = wrap_future::<_, A>(std::future::ready(()))
        .then(|(), actor: &mut A, context: &mut Context<A>| actor.start(context))
        .map(move |result, _, context: &mut Context<A>| match result {
            Ok(()) => {
                // The time that the start took does not count as silence.
                first_heartbeat.set(Instant::now());
                // A supervisor that asked for a stop meanwhile has closed the handle.
                if !is_stopped.is_cancelled() {
                    handle.set_route(Route::Up(IncarnationSender {
                        calls: call_sender,
                        in_flight,
                    }));
                }
                // A supervisor that no longer waits has already asked for the kill.
                launch.ready.send(()).ok();
            }
            Err(exit) => started.end(context, exit),
        });
    context.wait(start);
    let stopping = wrap_future::<_, A>(async move {
        launch.stop.cancelled().await;
        // The supervisor has closed the handle before: no new call can come.
        idle.recv().await
    })
    .then(|_, actor: &mut A, context: &mut Context<A>| actor.stop(context));
    let mut interval = tokio::time::interval(HEARTBEAT_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    context.spawn(ActorLoop {
        heartbeat: launch.heartbeat,
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
    /// `None` once it is dropped.
    context: Option<ContextFut<A, Context<A>>>,
    incarnation: IncarnationRef,
    stats: Arc<Stats>,
}

impl<A: Child> LiveActor<A> {
    fn poll(&mut self, task: &mut TaskContext<'_>) -> Poll<Exit> {
        let Some(context) = &mut self.context else {
            return Poll::Ready(Exit::Normal);
        };
        let before = WallInstant::now();
        let polled = catch_panic(|| Pin::new(context).poll(task));
        self.stats.add_busy(before.elapsed());
        match polled {
            Ok(polled) => polled.map(|()| self.incarnation.exit()),
            Err(panic) => Poll::Ready(Exit::Panic(panic)),
        }
    }

    /// Drops the actor with all that it has spawned.
    ///
    /// # Errors
    /// The text of a panic.
    fn drop_actor(&mut self) -> Result<(), String> {
        let Some(mut context) = self.context.take() else {
            return Ok(());
        };
        // The drop of a live context polls it once more, with an actor that may be broken.
        context.ctx().terminate();
        catch_panic(|| drop(context))
    }
}

impl<A: Child> Drop for LiveActor<A> {
    fn drop(&mut self) {
        // Something is left to drop only when the whole actix system is dropped.
        if let Err(panic) = self.drop_actor() {
            tracing::error!(
                actor = self.incarnation.path(),
                panic,
                "an actor panicked while it was dropped"
            );
        }
    }
}

/// Runs `code`.
///
/// # Errors
/// The text of its panic.
fn catch_panic<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        text.unwrap_or("a panic without a text").to_owned()
    })
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
        self.heartbeat.set(Instant::now());
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
