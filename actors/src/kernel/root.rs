//! The root of a supervision tree, as ordinary code starts and stops it.

use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::child::ChildSpec;
use super::exit::Exit;
use super::incarnation::{ChildEvent, Incarnation};
use super::supervisor_spec::SupervisorSpec;
use super::tree::{ChildState, Tree};

/// The root of a tree. Dropping it kills the tree; [`Root::stop`] stops it in order.
pub struct Root {
    stop: CancellationToken,
    _kill_on_drop: DropGuard,
    ready: Shared<oneshot::Receiver<()>>,
    ended: Shared<oneshot::Receiver<Exit>>,
}

impl Root {
    /// Starts the tree under `spec` and waits until all of its children are ready. Must be called
    /// inside an actix system. All supervisors and actors run on the calling thread.
    ///
    /// # Errors
    /// The exit of the tree when a child did not start.
    pub async fn start(spec: SupervisorSpec, tree: &Tree) -> Result<Self, Exit> {
        let root = Self::launch(spec, tree);
        root.ready().await?;
        Ok(root)
    }

    /// Begins to start the tree under `spec`, as [`Root::start`] does. [`Root::stop`] stops it in order, also before it is
    /// ready.
    pub fn launch(spec: SupervisorSpec, tree: &Tree) -> Self {
        let child = ChildSpec::supervisor(spec);
        let node = tree.node(child.id.clone(), child.kind);
        let mut incarnation = Incarnation::launch(&child, tree, &node);
        let stop = incarnation.stop.clone();
        let kill = incarnation.kill.clone();
        let (ready_sender, ready) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        // A task records the end of the tree, also when nobody waits for it.
        actix_rt::spawn(async move {
            let exit = match incarnation.event().await {
                ChildEvent::Ready => {
                    node.set_state(ChildState::Running);
                    ready_sender.send(()).ok();
                    incarnation.ended().await
                }
                ChildEvent::Ended(exit) => exit,
            };
            child.launcher.refuse_calls(None);
            node.record_exit(&exit);
            node.set_state(ChildState::Stopped);
            ended_sender.send(exit).ok();
        });
        Self {
            stop,
            _kill_on_drop: kill.drop_guard(),
            ready: ready.shared(),
            ended: ended.shared(),
        }
    }

    /// Waits until all children are ready.
    ///
    /// # Errors
    /// The exit of the tree when a child did not start.
    pub async fn ready(&self) -> Result<(), Exit> {
        match self.ready.clone().await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failed().await),
        }
    }

    /// Resolves with the exit when the tree has failed by itself.
    pub async fn failed(&self) -> Exit {
        self.ended.clone().await.unwrap_or(Exit::Killed)
    }

    /// Stops all children, the last started first, each within its deadline. Normal if the tree had
    /// failed before.
    pub async fn stop(self) -> Exit {
        if self.ended.peek().is_some() {
            return Exit::Normal;
        }
        self.stop.cancel();
        self.failed().await
    }
}
