//! The top of a supervision tree, where ordinary code meets it.

use tokio::sync::oneshot;

use super::child::{ChildSpec, Kind};
use super::exit::Exit;
use super::incarnation::{ChildEvent, Incarnation};
use super::supervisor::SupervisorSpec;
use super::tree::{ChildState, Tree};

/// The top of a tree. Dropping it kills the tree; [`Root::stop`] ends it in order.
pub struct Root {
    tree: Tree,
    incarnation: Incarnation,
    ended: Option<oneshot::Receiver<Exit>>,
}

impl Root {
    /// Starts the tree under `spec` and waits until all of its children are ready. Must be called
    /// inside an actix system; all supervisors and shared actors live on the calling thread.
    ///
    /// # Errors
    /// The exit of the tree when a child did not start.
    pub async fn start(spec: SupervisorSpec, tree: &Tree) -> Result<Self, Exit> {
        let child = ChildSpec::supervisor(spec);
        let node = tree.adopt(child.id.clone(), Kind::Supervisor);
        let (incarnation, mut news) = Incarnation::launch(&child, tree, &node);
        let (ready_sender, ready) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        // A task of its own, so that the tree is told of its end even when nobody waits here.
        actix_rt::spawn(async move {
            let mut ready = Some(ready_sender);
            let exit = loop {
                match news.recv().await {
                    Some(ChildEvent::Ready) => {
                        node.set_state(ChildState::Running);
                        if let Some(ready) = ready.take() {
                            ready.send(()).ok();
                        }
                    }
                    Some(ChildEvent::Ended(ended)) => break ended.exit,
                    None => break Exit::Killed,
                }
            };
            child.launch.mark_stopped();
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

    /// Resolves when the tree has failed by itself, with the reason; once.
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
