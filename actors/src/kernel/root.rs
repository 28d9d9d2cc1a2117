//! The root of a supervision tree, as ordinary code starts and stops it.

use tokio::sync::{mpsc, oneshot};

use super::child::ChildSpec;
use super::child_events::ChildEvent;
use super::exit::Exit;
use super::incarnation::Incarnation;
use super::supervisor_spec::SupervisorSpec;
use super::tree::{ChildState, Tree};

/// The root of a tree. Dropping it kills the tree; [`Root::stop`] stops it in order.
pub struct Root {
    tree: Tree,
    incarnation: Incarnation,
    ended: Option<oneshot::Receiver<Exit>>,
}

impl Root {
    /// Starts the tree under `spec` and waits until all of its children are ready. Must be called
    /// inside an actix system. All supervisors and actors run on the calling thread.
    ///
    /// # Errors
    /// The exit of the tree when a child did not start.
    pub async fn start(spec: SupervisorSpec, tree: &Tree) -> Result<Self, Exit> {
        let child = ChildSpec::supervisor(spec);
        let node = tree.node(child.id.clone(), child.kind);
        let (sender, mut events) = mpsc::channel(1);
        let incarnation = Incarnation::launch(&child, tree, &node, 0, sender);
        let (ready_sender, ready) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        // A task records the end of the tree, also when nobody waits for it.
        actix_rt::spawn(async move {
            let mut ready = Some(ready_sender);
            let exit = loop {
                match events.recv().await {
                    Some((_, ChildEvent::Ready)) => {
                        node.set_state(ChildState::Running);
                        if let Some(ready) = ready.take() {
                            ready.send(()).ok();
                        }
                    }
                    Some((_, ChildEvent::Ended(ended))) => break ended.exit,
                    None => break Exit::Killed,
                }
            };
            child.launcher.mark_stopped();
            node.record_exit(&exit);
            node.set_state(ChildState::Stopped);
            drop(ready);
            ended_sender.send(exit).ok();
        });
        if ready.await.is_err() {
            return Err(ended.await.unwrap_or(Exit::Killed));
        }
        Ok(Self {
            tree: tree.clone(),
            incarnation,
            ended: Some(ended),
        })
    }

    /// The tree, for snapshots and metrics.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Resolves once, with the exit, when the tree has failed by itself.
    pub async fn failed(&mut self) -> Exit {
        match &mut self.ended {
            Some(ended) => {
                let exit = ended.await.unwrap_or(Exit::Killed);
                self.ended = None;
                exit
            }
            None => std::future::pending().await,
        }
    }

    /// Stops all children, the last started first, each within its deadline.
    pub async fn stop(mut self) -> Exit {
        self.incarnation.request_stop();
        match self.ended.take() {
            Some(ended) => ended.await.unwrap_or(Exit::Killed),
            None => Exit::Normal,
        }
    }
}
