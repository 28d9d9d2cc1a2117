//! The actors that the tests put on the stage: each does what its script says and notes in a
//! journal what happens to it.

use std::future::pending;
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

/// A wait that no test should ever reach the end of.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A backoff of at most a millisecond, for tests that are not about it.
pub(crate) fn quick() -> Backoff {
    Backoff::try_new(Duration::from_millis(1), Duration::from_millis(1), LONG).unwrap()
}

/// What happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Journal {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Journal {
    pub(crate) fn note(&self, line: impl Into<String>) {
        self.lines.lock().unwrap().push(line.into());
    }

    /// What happened since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }

    /// What happened, joined by spaces, since the last call.
    pub(crate) fn story(&self) -> String {
        self.take().join(" ")
    }

    pub(crate) fn contains(&self, line: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|other| other == line)
    }
}

/// The cause of a scripted failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scripted failure: {0}")]
pub(crate) struct Scripted(pub &'static str);

pub(crate) fn failure(cause: &'static str) -> Exit {
    Exit::error(Scripted(cause))
}

/// How a step of an actor's life goes.
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

/// Its journal: `+a` started, `-a` stopped in order, `~a` dropped.
pub(crate) struct Player {
    name: String,
    incarnation: IncarnationRef,
    script: Script,
    journal: Journal,
    cancels: bool,
    refused_itself: bool,
}

impl Actor for Player {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        assert!(!self.script.started_panics, "panic in started");
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        assert!(!self.script.stopped_panics, "panic in stopped");
    }
}

impl Child for Player {
    fn start(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let start = self.script.start.clone().go("start");
        Box::pin(wrap_future(start).map(|started, player: &mut Self, _| {
            if started.is_ok() {
                player.journal.note(format!("+{}", player.name));
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
        Box::pin(wrap_future(stop).map(|_, player: &mut Self, _| {
            player.journal.note(format!("-{}", player.name));
        }))
    }

    fn observe(&self) -> Value {
        json!({ "incarnation": self.incarnation.incarnation(), "refused": self.refused_itself })
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.journal.note(format!("~{}", self.name));
        assert!(!self.script.drop_panics, "panic in drop");
    }
}

/// An instruction to a player. It answers with a number.
pub(crate) enum Do {
    Echo(u64),
    /// Notes the number in the journal.
    Note(u64),
    Incarnation,
    /// Waits in the actor's context until told to go on.
    Hold(oneshot::Receiver<()>),
    /// The same, in a task that the actor's end does not touch.
    HoldDetached(oneshot::Receiver<()>),
    End(Exit),
    Panic,
    PanicInSpawnedFuture,
    PanicInDetachedFuture,
    /// Drops the reply.
    Forget,
    /// Never lets go of the actor's loop, without holding its thread.
    Hang,
    /// Calls itself again, and so on, without end: its queue never runs dry.
    Again(Handle<Player>),
    /// From now on it cancels a future of its own when it is stopped.
    CancelWhenStopped,
}

impl Message for Do {
    type Reply = u64;
}

impl Handler<Call<Do>> for Player {
    type Result = ();

    fn handle(&mut self, call: Call<Do>, context: &mut Context<Self>) {
        let Some((what, reply)) = call.accept() else {
            return;
        };
        match what {
            Do::Echo(number) => reply.send(number),
            Do::Note(number) => {
                self.journal.note(number.to_string());
                reply.send(number);
            }
            Do::Incarnation => reply.send(self.incarnation.incarnation()),
            Do::Hold(go_on) => {
                context.spawn(wrap_future::<_, Self>(go_on).map(|_, _, _| reply.send(0)));
            }
            Do::HoldDetached(go_on) => {
                actix_rt::spawn(async move {
                    go_on.await.ok();
                    reply.send(0);
                });
            }
            Do::End(exit) => self.incarnation.end(context, exit),
            Do::Panic => panic!("panic in handler"),
            Do::PanicInSpawnedFuture => {
                context.spawn(ready(()).map(|(), _: &mut Self, _| panic!("panic in future")));
            }
            Do::PanicInDetachedFuture => {
                actix_rt::spawn(async move {
                    let _reply = reply;
                    panic!("panic in a detached future");
                });
            }
            Do::Forget => {}
            Do::Hang => context.wait(wrap_future(async move {
                let _reply = reply;
                pending().await
            })),
            Do::Again(handle) => {
                reply.send(0);
                // The first poll of a call admits it; nobody waits for the answer.
                let again = handle.ask(Do::Again(handle.clone()), LONG);
                let refused = futures_util::FutureExt::now_or_never(again);
                self.refused_itself |= refused.is_some();
            }
            Do::CancelWhenStopped => {
                self.cancels = true;
                reply.send(0);
            }
        }
    }
}

/// Work that may be dropped with its caller.
pub(crate) struct Cancellable(pub Journal);

impl Message for Cancellable {
    type Reply = ();
    const CANCELLABLE: bool = true;
}

impl Handler<Call<Cancellable>> for Player {
    type Result = ();

    fn handle(&mut self, call: Call<Cancellable>, _: &mut Context<Self>) {
        let Some((Cancellable(journal), mut reply)) = call.accept() else {
            return;
        };
        actix_rt::spawn(async move {
            reply.cancelled().await;
            assert!(reply.is_cancelled());
            journal.note("cancelled");
        });
    }
}

/// A player before it is cast: its handle, and the scripts of its incarnations.
#[derive(Clone)]
pub(crate) struct Role {
    pub(crate) handle: Handle<Player>,
    journal: Journal,
    script: Arc<dyn Fn(u64) -> Script + Send + Sync>,
}

impl Role {
    /// A player that does nothing wrong.
    pub(crate) fn new(name: &str, journal: &Journal) -> Self {
        Self::with_capacity(name, 16, journal)
    }

    pub(crate) fn with_capacity(name: &str, capacity: u32, journal: &Journal) -> Self {
        Self {
            handle: Handle::new(name, capacity),
            journal: journal.clone(),
            script: Arc::new(|_| Script::default()),
        }
    }

    /// Every incarnation follows what `script` says of its number.
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

    fn factory(&self) -> impl Fn(IncarnationRef) -> Player + Send + Sync + 'static {
        let Self {
            handle,
            journal,
            script,
        } = self.clone();
        let name = handle.name().to_owned();
        move |incarnation| {
            let script = script(incarnation.incarnation());
            assert!(!script.factory_panics, "panic in factory");
            Player {
                name: name.clone(),
                incarnation,
                script,
                journal: journal.clone(),
                cancels: false,
                refused_itself: false,
            }
        }
    }

    pub(crate) fn spec(&self) -> ChildSpec {
        ChildSpec::actor(&self.handle, self.factory()).backoff(quick())
    }

    pub(crate) async fn ask(&self, what: Do) -> Result<u64, AskError> {
        self.handle.ask(what, LONG).await
    }

    /// Ends the incarnation that runs, and waits until it has.
    pub(crate) async fn end(&self, exit: Exit) {
        assert_eq!(self.ask(Do::End(exit)).await, Err(AskError::Lost));
    }

    /// Which incarnation answers, once one does.
    pub(crate) async fn incarnation(&self) -> u64 {
        assert!(self.handle.running(LONG).await, "does not run");
        self.ask(Do::Incarnation).await.unwrap()
    }
}

/// Three roles of one journal.
pub(crate) fn three(journal: &Journal) -> [Role; 3] {
    ["a", "b", "c"].map(|name| Role::new(name, journal))
}

/// A root over `roles`, in order.
pub(crate) fn over<'a>(roles: impl IntoIterator<Item = &'a Role>) -> SupervisorSpec {
    roles
        .into_iter()
        .fold(SupervisorSpec::new("root"), |spec, role| {
            spec.child(role.spec())
        })
}

/// Waits until `condition` holds; the paused clock makes this free.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "never came: {what}");
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
