//! Actors that follow a script and record in a log what happens to them.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::fut::{ActorFutureExt, ready, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};

use headroom_actors::kernel::{
    AskError, Backoff, Call, Child, ChildSpec, Exit, Handle, IncarnationRef, Message,
    SupervisorSpec, Tree,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A timeout that no passing test reaches.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A backoff of at most a millisecond, for tests of other things.
pub(crate) fn short_backoff() -> Backoff {
    Backoff::try_new(Duration::from_millis(1), Duration::from_millis(1), LONG).unwrap()
}

/// What happened to the actors, in order.
#[derive(Clone, Default)]
pub(crate) struct EventLog {
    lines: Arc<Mutex<Vec<String>>>,
}

impl EventLog {
    pub(crate) fn add(&self, line: impl Into<String>) {
        self.lines.lock().unwrap().push(line.into());
    }

    /// The entries since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }

    /// The entries since the last call, joined by spaces.
    pub(crate) fn take_joined(&self) -> String {
        self.take().join(" ")
    }

    pub(crate) fn contains(&self, line: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|other| other == line)
    }
}

/// The cause of a scripted failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scripted failure: {0}")]
pub(crate) struct ScriptedFailure(pub &'static str);

pub(crate) fn failure(cause: &'static str) -> Exit {
    Exit::error(ScriptedFailure(cause))
}

/// How a step of an incarnation goes.
#[derive(Clone, Default)]
pub(crate) enum Step {
    #[default]
    AtOnce,
    After(Duration),
    Never,
    Ends(Exit),
    Panics,
}

impl Step {
    async fn go(self, step: &'static str) -> Result<(), Exit> {
        match self {
            Self::AtOnce => Ok(()),
            Self::After(time) => {
                sleep(time).await;
                Ok(())
            }
            Self::Never => pending().await,
            Self::Ends(exit) => Err(exit),
            Self::Panics => panic!("panic in {step}"),
        }
    }
}

/// What one incarnation does.
#[derive(Clone, Default)]
pub(crate) struct Script {
    pub(crate) factory_panics: bool,
    pub(crate) started_panics: bool,
    pub(crate) start: Step,
    pub(crate) stop: Step,
    pub(crate) stopped_panics: bool,
    pub(crate) drop_panics: bool,
}

/// Follows a script. Its log entries: `+a` started, `-a` stopped in order, `~a` dropped.
pub(crate) struct ScriptedActor {
    name: String,
    incarnation: IncarnationRef,
    /// 1 for the first incarnation, one more after each restart.
    number: u64,
    script: Script,
    log: EventLog,
    cancels: bool,
    refused_itself: bool,
}

impl Actor for ScriptedActor {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        assert!(!self.script.started_panics, "panic in started");
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        assert!(!self.script.stopped_panics, "panic in stopped");
    }
}

impl Child for ScriptedActor {
    fn start(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let start = self.script.start.clone().go("start");
        Box::pin(wrap_future(start).map(|started, actor: &mut Self, _| {
            if started.is_ok() {
                actor.log.add(format!("+{}", actor.name));
            }
            started
        }))
    }

    fn stop(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        if self.cancels {
            let cancelled = context.spawn(wrap_future(pending()));
            context.spawn(wrap_future(pending()));
            context.cancel_future(cancelled);
        }
        let stop = self.script.stop.clone().go("stop");
        Box::pin(wrap_future(stop).map(|_, actor: &mut Self, _| {
            actor.log.add(format!("-{}", actor.name));
        }))
    }

    fn observe(&self) -> Value {
        json!({ "incarnation": self.number, "refused": self.refused_itself })
    }
}

impl Drop for ScriptedActor {
    fn drop(&mut self) {
        self.log.add(format!("~{}", self.name));
        assert!(!self.script.drop_panics, "panic in drop");
    }
}

/// A request to a scripted actor, which answers with a number.
pub(crate) enum Request {
    Echo(u64),
    /// Adds the number to the log.
    Note(u64),
    Incarnation,
    /// Waits in the actor's context for the other end of the channel.
    Hold(oneshot::Receiver<()>),
    /// The same in a detached task, which outlives the actor.
    HoldDetached(oneshot::Receiver<()>),
    End(Exit),
    Panic,
    PanicInSpawnedFuture,
    PanicInDetachedFuture,
    /// Drops the reply.
    Forget,
    /// Blocks the actor's loop for ever, but not its thread.
    Hang,
    /// The actor calls itself again and again: its queue is never empty.
    Again(Handle<ScriptedActor>),
    /// The actor cancels one of its futures when it is stopped.
    CancelWhenStopped,
}

impl Message for Request {
    type Reply = u64;
}

/// Panics in the incarnations up to this one, and is answered with the number of a later one.
#[derive(Clone)]
pub(crate) struct PanicUntil(pub(crate) u64);

impl Message for PanicUntil {
    type Reply = u64;
}

impl Handler<Call<PanicUntil>> for ScriptedActor {
    type Result = ();

    fn handle(&mut self, call: Call<PanicUntil>, _: &mut Context<Self>) {
        if let Some((PanicUntil(number), reply)) = call.accept() {
            assert!(self.number > number, "a scripted panic");
            reply.send(self.number);
        }
    }
}

impl Handler<Call<Request>> for ScriptedActor {
    type Result = ();

    fn handle(&mut self, call: Call<Request>, context: &mut Context<Self>) {
        let Some((what, reply)) = call.accept() else {
            return;
        };
        match what {
            Request::Echo(number) => reply.send(number),
            Request::Note(number) => {
                self.log.add(number.to_string());
                reply.send(number);
            }
            Request::Incarnation => reply.send(self.number),
            Request::Hold(go_on) => {
                context.spawn(wrap_future::<_, Self>(go_on).map(|_, _, _| reply.send(0)));
            }
            Request::HoldDetached(go_on) => {
                actix_rt::spawn(async move {
                    go_on.await.ok();
                    reply.send(0);
                });
            }
            Request::End(exit) => self.incarnation.end(context, exit),
            Request::Panic => panic!("panic in handler"),
            Request::PanicInSpawnedFuture => {
                context.spawn(ready(()).map(|(), _: &mut Self, _| panic!("panic in future")));
            }
            Request::PanicInDetachedFuture => {
                actix_rt::spawn(async move {
                    let _reply = reply;
                    panic!("panic in a detached future");
                });
            }
            Request::Forget => {}
            Request::Hang => context.wait(wrap_future(async move {
                let _reply = reply;
                pending().await
            })),
            Request::Again(handle) => {
                reply.send(0);
                // The first poll admits the call; nobody waits for the answer.
                let again = handle.ask(Request::Again(handle.clone()), LONG);
                let refused = futures_util::FutureExt::now_or_never(again);
                self.refused_itself |= refused.is_some();
            }
            Request::CancelWhenStopped => {
                self.cancels = true;
                reply.send(0);
            }
        }
    }
}

/// Work that may be dropped when its caller leaves.
pub(crate) struct CancellableWork(pub EventLog);

impl Message for CancellableWork {
    type Reply = ();
    const CANCELLABLE: bool = true;
}

impl Handler<Call<CancellableWork>> for ScriptedActor {
    type Result = ();

    fn handle(&mut self, call: Call<CancellableWork>, _: &mut Context<Self>) {
        let Some((CancellableWork(log), mut reply)) = call.accept() else {
            return;
        };
        actix_rt::spawn(async move {
            reply.cancelled().await;
            assert!(reply.is_cancelled());
            log.add("cancelled");
        });
    }
}

/// An actor under test: its handle and the scripts of its incarnations.
#[derive(Clone)]
pub(crate) struct TestActor {
    pub(crate) handle: Handle<ScriptedActor>,
    log: EventLog,
    script: Arc<dyn Fn(u64) -> Script + Send + Sync>,
}

impl TestActor {
    /// An actor that never fails.
    pub(crate) fn new(name: &str, log: &EventLog) -> Self {
        Self::with_capacity(name, 16, log)
    }

    pub(crate) fn with_capacity(name: &str, capacity: u32, log: &EventLog) -> Self {
        Self {
            handle: Handle::new(name, capacity),
            log: log.clone(),
            script: Arc::new(|_| Script::default()),
        }
    }

    /// Every incarnation follows what `script` returns for its number.
    pub(crate) fn script(mut self, script: impl Fn(u64) -> Script + Send + Sync + 'static) -> Self {
        self.script = Arc::new(script);
        self
    }

    pub(crate) fn start(self, step: Step) -> Self {
        self.script(move |_| Script {
            start: step.clone(),
            ..Script::default()
        })
    }

    pub(crate) fn stop(self, step: Step) -> Self {
        self.script(move |_| Script {
            stop: step.clone(),
            ..Script::default()
        })
    }

    fn factory(&self) -> impl Fn(IncarnationRef) -> ScriptedActor + Send + Sync + 'static {
        let Self {
            handle,
            log,
            script,
        } = self.clone();
        let name = handle.name().to_owned();
        let started = AtomicU64::new(0);
        move |incarnation| {
            let number = started.fetch_add(1, Relaxed) + 1;
            let script = script(number);
            assert!(!script.factory_panics, "panic in factory");
            ScriptedActor {
                name: name.clone(),
                incarnation,
                number,
                script,
                log: log.clone(),
                cancels: false,
                refused_itself: false,
            }
        }
    }

    pub(crate) fn spec(&self) -> ChildSpec {
        ChildSpec::actor(&self.handle, self.factory()).backoff(short_backoff())
    }

    pub(crate) async fn ask(&self, what: Request) -> Result<u64, AskError> {
        self.handle.ask(what, LONG).await
    }

    /// Ends the incarnation that runs, and waits until it has.
    pub(crate) async fn end(&self, exit: Exit) {
        assert_eq!(self.ask(Request::End(exit)).await, Err(AskError::Lost));
    }

    /// Waits until the actor runs, and returns the number of the incarnation.
    pub(crate) async fn incarnation(&self) -> u64 {
        assert!(self.handle.running(LONG).await, "does not run");
        self.ask(Request::Incarnation).await.unwrap()
    }
}

/// Three actors that share one log.
pub(crate) fn three_actors(log: &EventLog) -> [TestActor; 3] {
    ["a", "b", "c"].map(|name| TestActor::new(name, log))
}

/// A root supervisor of `actors`, in order.
pub(crate) fn root_over<'a>(actors: impl IntoIterator<Item = &'a TestActor>) -> SupervisorSpec {
    actors
        .into_iter()
        .fold(SupervisorSpec::new("root"), |spec, actor| {
            spec.child(actor.spec())
        })
}

/// Waits until `condition` holds; the paused clock makes this free.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// The node at `path`, as operators see it.
pub(crate) async fn node(tree: &Tree, path: &str) -> headroom_actors::kernel::NodeSnapshot {
    let roots = tree.snapshot().await;
    let found = roots.iter().find_map(|root| root.find(path)).cloned();
    found.unwrap_or_else(|| panic!("{path} is not in the tree"))
}

pub(crate) async fn last_exit(tree: &Tree, path: &str) -> String {
    node(tree, path).await.last_exit.unwrap_or_default()
}
