//! Running an actix actor under supervision.
//!
//! actix's own `Supervisor` neither catches panics nor makes a new actor, so we build the context
//! ourselves, turn it into a future (`Context::into_future`) and drive that. Around every poll
//! stands a `catch_unwind`: a panic must not reach tokio, because tokio would drop the context
//! while unwinding, and dropping a live actix context polls it once more.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant as WallInstant;

use actix::dev::ContextFut;
use actix::fut::{ActorFuture, ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use actix_rt::Arbiter;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Interval;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::child::{Child, Life, Placement};
use super::exit::Exit;
use super::handle::{Handle, Route};
use super::incarnation::{Beat, Birth, Launch, Running};
use super::stats::Stats;

/// A request for an actor's observable state.
pub(super) type Observe = oneshot::Sender<Value>;

/// Requests for state that may wait: operators look at actors now and then, not all at once.
const OBSERVERS_MAX: usize = 4;

pub(super) struct ActorLauncher<A: Child> {
    handle: Handle<A>,
    placement: Placement,
    factory: Arc<dyn Fn(Life) -> A + Send + Sync>,
}

impl<A: Child> ActorLauncher<A> {
    pub(super) fn new(
        handle: Handle<A>,
        placement: Placement,
        factory: impl Fn(Life) -> A + Send + Sync + 'static,
    ) -> Self {
        Self {
            handle,
            placement,
            factory: Arc::new(factory),
        }
    }
}

impl<A: Child> Launch for ActorLauncher<A> {
    fn launch(&self, birth: Birth) -> Running {
        let (ready_sender, ready) = oneshot::channel();
        let (exit_sender, exited) = oneshot::channel();
        let (observe_sender, observers) = mpsc::channel(OBSERVERS_MAX);
        let stop = CancellationToken::new();
        let kill = CancellationToken::new();
        let beat = Beat::new();
        let life = Life::new(birth.node.path().into(), birth.incarnation);
        birth
            .node
            .attach(Some(Arc::clone(self.handle.stats())), Some(observe_sender));

        let handle = self.handle.clone();
        let factory = Arc::clone(&self.factory);
        let (stopping, killed, beating) = (stop.clone(), kill.clone(), beat.clone());
        let interval = birth.heartbeat.interval;
        let run = move || {
            actix_rt::spawn(async move {
                let born = Born {
                    life,
                    ready: ready_sender,
                    stop: stopping,
                    observers,
                };
                let alive = catch_unwind(AssertUnwindSafe(|| {
                    conceive(&handle, &*factory, born, beating, interval)
                }));
                let exit = match alive {
                    Ok(alive) => tokio::select! {
                        biased;
                        () = killed.cancelled() => Exit::Killed,
                        exit = alive => exit,
                    },
                    Err(payload) => Exit::Panic(panic_text(&*payload)),
                };
                // The supervisor stops listening only when it has abandoned us.
                exit_sender.send(exit).ok();
            });
        };
        match self.placement {
            Placement::Shared => run(),
            Placement::Dedicated => {
                let arbiter = Arbiter::new();
                let thread = arbiter.handle();
                let finished = kill.clone();
                arbiter.spawn_fn(move || {
                    run();
                    // The thread ends with its actor, which ends every path by this token.
                    actix_rt::spawn(async move {
                        finished.cancelled().await;
                        thread.stop();
                    });
                });
            }
        }
        Running {
            ready,
            exited,
            stop,
            kill,
            beat: Some(beat),
        }
    }

    fn mark_down(&self, until: Option<tokio::time::Instant>) {
        self.handle.set_route(Route::Down { until });
    }

    fn mark_stopped(&self) {
        self.handle.set_route(Route::Stopped);
    }
}

struct Born {
    life: Life,
    ready: oneshot::Sender<()>,
    stop: CancellationToken,
    observers: mpsc::Receiver<Observe>,
}

/// Makes the actor and its context and arranges the order of its life.
fn conceive<A: Child>(
    handle: &Handle<A>,
    factory: &(dyn Fn(Life) -> A + Send + Sync),
    born: Born,
    beat: Beat,
    interval: std::time::Duration,
) -> Alive<A> {
    let Born {
        life,
        ready,
        stop,
        observers,
    } = born;
    let actor = factory(life.clone());
    let mut context = Context::<A>::new();
    let address = context.address();
    let opened = handle.clone();
    let own_life = life.clone();
    let start = wrap_future::<_, A>(std::future::ready(()))
        .then(|(), actor: &mut A, context: &mut Context<A>| actor.start(context))
        .map(move |started, _, context: &mut Context<A>| match started {
            Ok(()) => {
                opened.set_route(Route::Up(address));
                // A supervisor that does not wait any more has already asked for the kill.
                ready.send(()).ok();
            }
            Err(exit) => own_life.end(context, exit),
        });
    context.wait(start);
    context.spawn(ControlLane {
        beat: beat.clone(),
        interval: tokio::time::interval(interval),
        observers,
        stop: Box::pin(stop.cancelled_owned()),
        draining: None,
        handle: handle.clone(),
        life: life.clone(),
    });
    beat.strike();
    Alive {
        context: Some(context.into_future(actor)),
        life,
        stats: Arc::clone(handle.stats()),
    }
}

/// A live actor: its context future, with panics turned into exits and its busy time measured.
struct Alive<A: Child> {
    context: Option<ContextFut<A, Context<A>>>,
    life: Life,
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
            Ok(Poll::Ready(())) => Poll::Ready(self.life.take_exit().unwrap_or(Exit::Normal)),
            Err(payload) => Poll::Ready(Exit::Panic(panic_text(&*payload))),
        }
    }
}

impl<A: Child> Drop for Alive<A> {
    fn drop(&mut self) {
        // Dropping a live context runs the actor's `stopped`, which may panic on a broken actor.
        let context = self.context.take();
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(context))) {
            tracing::error!(
                actor = self.life.path(),
                panic = panic_text(&*payload),
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

/// The kernel's own future inside every actor: it beats, answers observers, and carries out the
/// stop. It runs in the actor's loop on purpose: what it proves alive is that very loop.
struct ControlLane<A: Child> {
    beat: Beat,
    interval: Interval,
    observers: mpsc::Receiver<Observe>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    draining: Option<Pin<Box<dyn ActorFuture<A, Output = ()>>>>,
    handle: Handle<A>,
    life: Life,
}

impl<A: Child> Unpin for ControlLane<A> {}

impl<A: Child> ActorFuture<A> for ControlLane<A> {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut A,
        context: &mut Context<A>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        while self.interval.poll_tick(task).is_ready() {}
        self.beat.strike();
        while let Poll::Ready(Some(observer)) = self.observers.poll_recv(task) {
            // Whoever asked may have stopped waiting.
            observer.send(actor.observe()).ok();
        }
        if self.draining.is_none() && self.stop.as_mut().poll(task).is_ready() {
            // The supervisor has closed the handle already, so the calls in flight only get fewer.
            let handle = self.handle.clone();
            let drain = wrap_future::<_, A>(async move { handle.idle().await })
                .then(|(), actor: &mut A, context: &mut Context<A>| actor.stop(context));
            self.draining = Some(Box::pin(drain));
        }
        if let Some(drain) = &mut self.draining
            && drain.as_mut().poll(actor, context, task).is_ready()
        {
            self.life.end(context, Exit::Shutdown);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
