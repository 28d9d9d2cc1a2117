//! What a child is, and what its supervisor does when it ends.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Actor, ActorContext, Context, ResponseActFuture};
use serde_json::Value;

use super::backoff::Backoff;
use super::exit::Exit;
use super::incarnation::Launch;
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

/// Names one incarnation to itself, and lets it end itself with a reason.
#[derive(Debug, Clone)]
pub struct IncarnationRef {
    path: Arc<str>,
    exit: Arc<OnceLock<Exit>>,
}

impl IncarnationRef {
    pub(super) fn new(path: Arc<str>) -> Self {
        Self {
            path,
            exit: Arc::default(),
        }
    }

    /// The actor's path in the tree, for example `headroom/models/silero-vad:1/owner`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Ends the actor with `exit` before it handles anything else. The first exit given counts.
    pub fn end<A: Child>(&self, context: &mut Context<A>, exit: Exit) {
        self.exit.set(exit).ok();
        // Not `terminate`: when a cancelled future is pending, actix 0.13 then loops for ever.
        context.stop();
    }

    /// The exit given to [`Self::end`]; normal without one.
    pub(super) fn exit(&self) -> Exit {
        self.exit.get().cloned().unwrap_or(Exit::Normal)
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

/// How to start a child and what to do when it ends. Cheap to clone; every start makes a new child.
#[derive(Clone)]
#[must_use]
pub struct ChildSpec {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) restart: Restart,
    pub(super) start_deadline: Duration,
    pub(super) shutdown_deadline: Duration,
    pub(super) backoff: Backoff,
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
            launcher,
        }
    }

    /// When to start the child again. The default is permanent.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long a start may take before the child is killed. The default is 60 s.
    pub fn start_deadline(mut self, deadline: Duration) -> Self {
        self.start_deadline = deadline;
        self
    }

    /// How long a stop may take before the child is killed. The default is 5 s, as in OTP.
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.shutdown_deadline = deadline;
        self
    }

    /// How long to wait before a restart.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}
