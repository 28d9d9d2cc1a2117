//! A supervisor's record of one child, from its first start until it is not started again.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::child::{ChildSpec, Restart};
use super::exit::Exit;
use super::incarnation::Incarnation;
use super::supervisor_spec::{StartChildError, Started};
use super::tree::{ChildState, Kind, Node, Tree};

/// One child of a running supervisor.
pub(super) struct Slot {
    pub(super) spec: ChildSpec,
    pub(super) node: Arc<Node>,
    pub(super) incarnation: Option<Incarnation>,
    /// Failures in a row, for the backoff.
    pub(super) failures: u32,
    /// When the incarnation was ready; `None` until it is.
    pub(super) ready_at: Option<Instant>,
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
    pub(super) ended: oneshot::Sender<Exit>,
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

    /// Asks the child to stop, if it runs. Returns the incarnation that runs.
    pub(super) fn request_stop(&mut self) -> Option<&mut Incarnation> {
        self.restart_at = None;
        let incarnation = self.incarnation.as_mut()?;
        self.node.set_state(ChildState::Stopping);
        // The children of a supervisor stay open: those that stop first may call the others.
        if self.spec.kind == Kind::Actor {
            self.spec.launcher.refuse_calls(Some(Instant::now()));
        }
        incarnation.stop.cancel();
        Some(incarnation)
    }

    pub(super) fn on_ready(&mut self) {
        self.ready_at = Some(Instant::now());
        if self.failures > 0 {
            let (actor, restarts) = (self.node.path(), self.node.restarts());
            tracing::info!(actor, restarts, "child restarted");
        }
        if !self.is_terminating() {
            self.node.set_state(ChildState::Running);
        }
        if let Some(request) = &mut self.request
            && let Some(starting) = request.starting.take()
        {
            starting.send(Ok(())).ok();
        }
    }

    pub(super) fn record_exit(&mut self, exit: Exit) {
        let actor = self.node.path();
        if exit.is_normal() || exit.is_logged() {
            tracing::debug!(actor, %exit, "child ended");
        } else {
            tracing::warn!(actor, reason = exit.label(), %exit, "child ended");
        }
        self.keep_exit(exit);
    }

    /// Records the exit of a child that did not start, which is part of an error: of the exit of its supervisor, or of the
    /// reply to who asked for the start. Whoever gets that error logs it, so that one cause is one line of the log.
    pub(super) fn record_failed_start(&mut self, exit: Exit) {
        let actor = self.node.path();
        tracing::debug!(actor, reason = exit.label(), %exit, "child did not start");
        self.keep_exit(exit);
    }

    /// Records an exit that others log.
    pub(super) fn keep_exit(&mut self, exit: Exit) {
        self.incarnation = None;
        self.node.record_exit(&exit);
        self.last_exit = exit;
    }

    /// The child is started again at `due`.
    pub(super) fn await_restart(&mut self, due: Instant) {
        self.restart_at = Some(due);
        self.node.set_state(ChildState::Restarting);
        self.spec.launcher.refuse_calls(Some(due));
        self.answer_terminating();
    }

    /// The child is not started again. One that was started on request leaves the tree.
    pub(super) fn mark_stopped(&mut self, tree: &Tree) {
        self.restart_at = None;
        self.spec.launcher.refuse_calls(None);
        self.node.set_state(ChildState::Stopped);
        if let Some(request) = self.request.take() {
            // Before any reply, so that a child of the same name can follow at once.
            tree.remove(self.node.path());
            if let Some(starting) = request.starting {
                let failed = StartChildError::Failed(self.last_exit.clone());
                starting.send(Err(failed)).ok();
            }
            request.ended.send(self.last_exit.clone()).ok();
        }
        self.answer_terminating();
    }

    /// The child's supervisor has ended. Whether the child is started again is for the supervisor
    /// above to decide.
    pub(super) fn on_supervisor_end(&mut self, tree: &Tree) {
        if self.request.is_some() {
            return self.mark_stopped(tree);
        }
        self.spec.launcher.refuse_calls(Some(Instant::now()));
        self.node.set_state(ChildState::Stopped);
        self.answer_terminating();
    }

    fn answer_terminating(&mut self) {
        for waiting in self.terminating.drain(..) {
            waiting.send(self.last_exit.clone()).ok();
        }
    }
}
