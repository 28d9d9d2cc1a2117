//! What a child is, and what its supervisor does when it ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Actor, ActorContext, Context, ResponseActFuture};
use serde_json::Value;

use super::backoff::Backoff;
use super::exit::Exit;
use super::launch::Launch;
use super::tree::Kind;

/// An actix actor that a supervisor can own.
///
/// An incarnation goes through these steps: [`Child::start`] runs before any message is handled;
/// then the actor handles messages; when its supervisor asks it to stop, its handle refuses new
/// calls, the calls in flight end, [`Child::stop`] runs, and the actor is dropped. A panic at any
/// step ends the incarnation at once and drops the actor, and so does a kill. Neither runs actix's
/// `stopped`: release in `Drop` what must never leak.
pub trait Child: Actor<Context = Context<Self>> {
    /// Acquires what the actor owns. The actor is ready when this returns `Ok`; an error is its
    /// exit.
    fn start(&mut self, _context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        Box::pin(actix::fut::ready(Ok(())))
    }

    /// Releases what the actor owns, within the shutdown deadline.
    fn stop(&mut self, _context: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        Box::pin(actix::fut::ready(()))
    }

    /// The state that operators see. Must be quick and contain no secret.
    fn observe(&self) -> Value {
        Value::Null
    }
}

/// Identifies one incarnation to itself, and lets it end itself with a reason.
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

    /// The actor's path in the tree, for example `headroom/models/silero-vad/owner`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// 1 for the first start, one more after each restart.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Ends the actor with `exit` before it handles anything else. The first exit given counts.
    pub fn end<A: Child>(&self, context: &mut Context<A>, exit: Exit) {
        self.exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(exit);
        // Not `terminate`: when a cancelled future is pending, actix 0.13 then loops for ever.
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

/// How often the loop of an actor beats, and after how long a silence it counts as stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Time between two heartbeats.
    pub interval: Duration,
    /// Time without a heartbeat after which the actor is stuck.
    pub timeout: Duration,
}

impl Heartbeat {
    /// One heartbeat a second, stuck after 30 s without one.
    pub const DEFAULT: Self = Self {
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(30),
    };
}

/// How to start a child and what to do when it ends. Cheap to clone; every start makes a new child.
#[derive(Clone)]
pub struct ChildSpec {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) restart: Restart,
    pub(super) start_deadline: Duration,
    pub(super) shutdown_deadline: Duration,
    pub(super) backoff: Backoff,
    pub(super) heartbeat: Heartbeat,
    pub(super) launcher: Arc<dyn Launch>,
}

impl ChildSpec {
    pub(super) fn new(id: &str, kind: Kind, launcher: Arc<dyn Launch>) -> Self {
        Self {
            id: id.to_owned(),
            kind,
            restart: Restart::Permanent,
            start_deadline: Duration::from_secs(60),
            shutdown_deadline: Duration::from_secs(5),
            backoff: Backoff::DEFAULT,
            heartbeat: Heartbeat::DEFAULT,
            launcher,
        }
    }

    /// When to start the child again. The default is permanent.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long a start may take before the child is killed. The default is 60 s.
    #[must_use]
    pub fn start_deadline(mut self, deadline: Duration) -> Self {
        self.start_deadline = deadline;
        self
    }

    /// How long a stop may take before the child is killed. The default is 5 s, as in OTP.
    #[must_use]
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.shutdown_deadline = deadline;
        self
    }

    /// How long to wait before a restart.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// When an actor counts as stuck. Supervisors have no heartbeat.
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
