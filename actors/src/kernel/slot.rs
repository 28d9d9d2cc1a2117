//! A supervisor's record of one child, from its first start until it is not started again.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::child::{ChildSpec, Restart};
use super::exit::Exit;
use super::incarnation::Incarnation;
use super::supervisor_spec::{StartChildError, Started, StartedChild};
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
    /// Those who asked to terminate the child and wait for its exit.
    pub(super) terminating: Vec<oneshot::Sender<Exit>>,
    /// Set for a child that was started on request.
    pub(super) request: Option<StartRequest>,
}

/// Those who wait for a child that was started on request.
pub(super) struct StartRequest {
    /// Answered when the child is ready or its start has failed.
    pub(super) starting: Option<oneshot::Sender<Started>>,
    /// Answered when the child is not started again.
    pub(super) ended: Option<oneshot::Sender<Exit>>,
}

impl Slot {
    /// Whether this is a child that was started on request and has never been ready.
    pub(super) fn is_first_start(&self) -> bool {
        let request = self.request.as_ref();
        request.is_some_and(|request| request.starting.is_some())
    }

    pub(super) fn is_terminating(&self) -> bool {
        !self.terminating.is_empty()
    }

    /// Whether a restart of its group leaves it out: a temporary child is never started again, and
    /// neither is one that was started on request and is to be terminated.
    pub(super) fn leaves_group(&self) -> bool {
        self.spec.restart == Restart::Temporary || (self.request.is_some() && self.is_terminating())
    }

    /// Asks the child to stop, if it runs, and says whether it does.
    pub(super) fn request_stop(&mut self) -> bool {
        self.restart_at = None;
        let Some(incarnation) = &self.incarnation else {
            return false;
        };
        self.node.set_state(ChildState::Stopping);
        self.spec.launcher.close();
        incarnation.request_stop();
        true
    }

    pub(super) fn on_ready(&mut self) {
        if !self.is_terminating() {
            self.node.set_state(ChildState::Running);
        }
        if let Some(request) = &mut self.request
            && let Some(starting) = request.starting.take()
        {
            let (sender, ended) = oneshot::channel();
            request.ended = Some(sender);
            starting.send(Ok(StartedChild { ended })).ok();
        }
    }

    pub(super) fn record_exit(&mut self, exit: Exit) {
        self.incarnation = None;
        self.node.record_exit(&exit);
        let actor = self.node.path();
        if exit.is_normal() {
            tracing::debug!(actor, %exit, "child ended");
        } else {
            tracing::warn!(actor, reason = exit.label(), %exit, "child ended");
        }
        self.last_exit = exit;
    }

    /// The child is started again at `due`.
    pub(super) fn await_restart(&mut self, due: Instant) {
        self.node.set_state(ChildState::Restarting);
        self.spec.launcher.mark_down(Some(due));
        self.answer_terminating();
    }

    /// The child is not started again. One that was started on request leaves the tree.
    pub(super) fn mark_stopped(&mut self, tree: &Tree) {
        self.restart_at = None;
        self.spec.launcher.mark_stopped();
        self.node.set_state(ChildState::Stopped);
        if let Some(request) = self.request.take() {
            // Before any answer, so that a child of the same name can follow at once.
            tree.remove(self.node.path());
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

    /// The child's supervisor has ended. Whether the child is started again is for the supervisor
    /// above to decide.
    pub(super) fn on_supervisor_end(&mut self, tree: &Tree) {
        if self.request.is_some() {
            return self.mark_stopped(tree);
        }
        self.spec.launcher.mark_down(None);
        self.node.set_state(ChildState::Stopped);
        self.answer_terminating();
    }

    fn answer_terminating(&mut self) {
        for waiting in self.terminating.drain(..) {
            waiting.send(self.last_exit.clone()).ok();
        }
    }
}
