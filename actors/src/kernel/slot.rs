//! A supervisor's record of one child, from its first start until nobody asks for it any more.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::child::{ChildSpec, Restart};
use super::exit::Exit;
use super::incarnation::Incarnation;
use super::supervisor::{StartChildError, StartedChild};
use super::tree::{ChildState, Node, Tree};

/// One child of a running supervisor.
pub(super) struct Slot {
    pub(super) key: u64,
    pub(super) spec: ChildSpec,
    pub(super) node: Arc<Node>,
    pub(super) incarnation: Option<Incarnation>,
    /// Failures in a row, for the backoff.
    pub(super) failures: u32,
    pub(super) restart_at: Option<Instant>,
    pub(super) last_exit: Exit,
    /// Those who want it ended, and are told when it has.
    pub(super) terminating: Vec<oneshot::Sender<Exit>>,
    pub(super) on_request: Option<OnRequest>,
}

/// What those who started a child on request wait for.
pub(super) struct OnRequest {
    pub(super) starting: Option<oneshot::Sender<Result<StartedChild, StartChildError>>>,
    pub(super) ended: Option<oneshot::Sender<Exit>>,
}

impl Slot {
    pub(super) fn never_ready(&self) -> bool {
        let request = self.on_request.as_ref();
        request.is_some_and(|request| request.starting.is_some())
    }

    pub(super) fn is_unwanted(&self) -> bool {
        !self.terminating.is_empty()
    }

    /// Whether a restart of its group leaves it out: a temporary child is never started again, and
    /// one that was to be ended for good has ended.
    pub(super) fn leaves_group(&self) -> bool {
        self.spec.restart == Restart::Temporary || (self.on_request.is_some() && self.is_unwanted())
    }

    pub(super) fn record_exit(&mut self, exit: &Exit) {
        self.incarnation = None;
        self.last_exit = exit.clone();
        self.node.record_exit(exit);
        let actor = self.node.path();
        if exit.is_normal() {
            tracing::debug!(actor, %exit, "child ended");
        } else {
            tracing::warn!(actor, reason = exit.label(), %exit, "child ended");
        }
    }

    pub(super) fn await_restart(&mut self, due: Option<Instant>) {
        self.node.set_state(ChildState::Restarting);
        self.spec.launch.mark_down(due);
        self.answer_terminating();
    }

    /// It is not started again: tells all who wait for that.
    pub(super) fn retire(&mut self, tree: &Tree) {
        self.restart_at = None;
        self.spec.launch.mark_stopped();
        self.node.set_state(ChildState::Stopped);
        if let Some(request) = self.on_request.take() {
            // Forgotten before anyone is told, so that a child of the same name can follow at once.
            tree.forget(self.node.path());
            if let Some(starting) = request.starting {
                let failed = StartChildError::Failed(self.last_exit.clone());
                starting.send(Err(failed)).ok();
            }
            if let Some(ended) = request.ended {
                ended.send(self.last_exit.clone()).ok();
            }
        }
        self.answer_terminating();
    }

    pub(super) fn answer_terminating(&mut self) {
        for waiting in self.terminating.drain(..) {
            waiting.send(self.last_exit.clone()).ok();
        }
    }
}
