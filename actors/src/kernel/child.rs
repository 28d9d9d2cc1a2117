//! What a supervisor needs to know of a child: how to make one, and what to do when it ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Actor, ActorContext, Context, ResponseActFuture};
use serde_json::Value;

use super::actor::ActorLauncher;
use super::backoff::Backoff;
use super::exit::Exit;
use super::handle::Handle;
use super::incarnation::Launch;
use super::supervisor::{SupervisorLauncher, SupervisorSpec};

/// An actix actor that one of our supervisors can own.
///
/// The order of its life: [`Child::start`] runs before any message is looked at; then messages; then, when the
/// supervisor asks for the stop, the handle refuses new calls, the calls in flight end,
/// [`Child::stop`] runs, and the actor is dropped. A panic anywhere ends the incarnation at once
/// and drops the actor, as does a kill, and neither runs actix's `stopped`: release in `Drop` what
/// must never leak.
pub trait Child: Actor<Context = Context<Self>> {
    /// Acquires what the actor owns. The actor counts as started when this returns `Ok`; an error
    /// is its exit.
    fn start(&mut self, _context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        Box::pin(actix::fut::ready(Ok(())))
    }

    /// Gives back what the actor owns, in its own time but within the shutdown deadline.
    fn stop(&mut self, _context: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        Box::pin(actix::fut::ready(()))
    }

    /// The state worth showing to an operator. Must be quick and hold no secret.
    fn observe(&self) -> Value {
        Value::Null
    }
}

/// What an incarnation is given when it is built: who it is, and how to end itself with a reason.
#[derive(Debug, Clone)]
pub struct IncarnationRef {
    path: Arc<str>,
    incarnation: u64,
    exit: Arc<Mutex<Option<Exit>>>,
}

impl IncarnationRef {
    pub(super) fn new(path: Arc<str>, incarnation: u64) -> Self {
        Self {
            path,
            incarnation,
            exit: Arc::default(),
        }
    }

    /// Where the actor stands in the tree, for example `headroom/models/silero-vad/owner`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// 1 for the first start, one more after each restart.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Ends the actor with `exit` before it does anything else. The first reason given stands.
    pub fn end<A: Child>(&self, context: &mut Context<A>, exit: Exit) {
        self.exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(exit);
        // Not `terminate`: with a cancelled future pending, actix 0.13 then turns in its loop for ever.
        context.stop();
    }

    pub(super) fn take_exit(&self) -> Option<Exit> {
        self.exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// When a child that ended is started again: OTP's restart types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// Only after an abnormal exit.
    Transient,
    /// Never.
    Temporary,
}

impl Restart {
    pub(super) fn applies_to(self, exit: &Exit) -> bool {
        match self {
            Self::Permanent => true,
            Self::Transient => !exit.is_normal(),
            Self::Temporary => false,
        }
    }
}

/// The thread a child lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Its supervisor's thread. Right for everything that never blocks.
    Shared,
    /// A thread of its own per incarnation. If its code blocks for ever, the thread is abandoned
    /// (no thread can be killed from outside), counted, and a new incarnation takes over.
    Dedicated,
}

/// How often an actor must show that its loop turns, and how much silence is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Time between beats.
    pub interval: Duration,
    /// Silence after which the actor counts as stuck.
    pub timeout: Duration,
}

impl Heartbeat {
    /// A beat a second, stuck after 30 s.
    pub const DEFAULT: Self = Self {
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(30),
    };
}

/// How to make a child and what to do when it ends. Cheap to clone; every start makes a new child.
#[derive(Clone)]
pub struct ChildSpec {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) restart: Restart,
    pub(super) start_deadline: Duration,
    pub(super) shutdown_deadline: Duration,
    pub(super) backoff: Backoff,
    pub(super) heartbeat: Heartbeat,
    pub(super) launch: Arc<dyn Launch>,
}

/// What a child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An actix actor.
    Actor,
    /// A supervisor with children of its own.
    Supervisor,
}

impl ChildSpec {
    /// A child that is an actor. `factory` makes a fresh one for every incarnation; `handle`
    /// follows it, and names the child.
    pub fn actor<A: Child>(
        handle: &Handle<A>,
        factory: impl Fn(IncarnationRef) -> A + Send + Sync + 'static,
    ) -> Self {
        let launcher = ActorLauncher::new(handle.clone(), Placement::Shared, factory);
        Self::new(handle.name().to_owned(), Kind::Actor, Arc::new(launcher))
    }

    /// Like [`ChildSpec::actor`], on a thread of its own.
    pub fn dedicated_actor<A: Child>(
        handle: &Handle<A>,
        factory: impl Fn(IncarnationRef) -> A + Send + Sync + 'static,
    ) -> Self {
        let launcher = ActorLauncher::new(handle.clone(), Placement::Dedicated, factory);
        Self::new(handle.name().to_owned(), Kind::Actor, Arc::new(launcher))
    }

    /// A child that is a supervisor. Its shutdown has no deadline of its own: each of its
    /// children has one.
    pub fn supervisor(spec: SupervisorSpec) -> Self {
        let id = spec.id().to_owned();
        let launcher = SupervisorLauncher::new(spec);
        let mut child = Self::new(id, Kind::Supervisor, Arc::new(launcher));
        child.start_deadline = Duration::MAX;
        child.shutdown_deadline = Duration::MAX;
        child
    }

    fn new(id: String, kind: Kind, launch: Arc<dyn Launch>) -> Self {
        Self {
            id,
            kind,
            restart: Restart::Permanent,
            start_deadline: Duration::from_secs(60),
            shutdown_deadline: Duration::from_secs(5),
            backoff: Backoff::DEFAULT,
            heartbeat: Heartbeat::DEFAULT,
            launch,
        }
    }

    /// When to start it again; permanent unless said otherwise.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long a start may take; 60 s unless said otherwise. Past it the child is killed.
    #[must_use]
    pub fn start_deadline(mut self, deadline: Duration) -> Self {
        self.start_deadline = deadline;
        self
    }

    /// How long a stop may take; 5 s unless said otherwise, OTP's default. Past it the child is
    /// killed.
    #[must_use]
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.shutdown_deadline = deadline;
        self
    }

    /// How long to wait between restarts.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How much silence makes an actor count as stuck. Supervisors have no heartbeat.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// The child's name among its siblings.
    pub fn id(&self) -> &str {
        &self.id
    }
}
