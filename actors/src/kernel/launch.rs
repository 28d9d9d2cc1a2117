//! How a supervisor starts a child, without knowing whether it is an actor or a supervisor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::exit::Exit;
use super::tree::{Node, Tree};

/// Starts incarnations of one child, and tells its callers whether it runs.
pub(super) trait Launch: Send + Sync {
    /// Starts an incarnation and returns at once.
    fn launch(&self, context: LaunchContext) -> Running;

    /// Admits no more calls, before the child is asked to stop. The children of a supervisor stay
    /// open: those that stop first may call the others.
    fn close(&self) {}

    /// Refuses calls of a child that has ended, and says when its next start is due.
    fn mark_down(&self, until: Option<Instant>);

    /// Refuses calls of a child that will not be started again.
    fn mark_stopped(&self);
}

/// What an incarnation needs from its supervisor.
pub(super) struct LaunchContext {
    pub(super) tree: Tree,
    pub(super) node: Arc<Node>,
    pub(super) incarnation: u64,
    pub(super) heartbeat_interval: Duration,
}

/// An incarnation that was launched.
pub(super) struct Running {
    /// Resolves when the child is ready; dropped when the child ends first.
    pub(super) ready: oneshot::Receiver<()>,
    /// Admits calls; called when the child is ready.
    pub(super) open: Option<Box<dyn FnOnce()>>,
    /// Resolves with the exit when nothing of the child is left.
    pub(super) exited: oneshot::Receiver<Exit>,
    /// Cancelled to ask for an orderly stop.
    pub(super) stop: CancellationToken,
    /// Cancelled to end the child at its next await point.
    pub(super) kill: CancellationToken,
    /// Recorded by the loop of an actor; `None` for a supervisor.
    pub(super) heartbeat: Option<LastHeartbeat>,
}

/// The time of an actor's last heartbeat, shared by its loop and its supervisor.
#[derive(Debug, Clone)]
pub(super) struct LastHeartbeat {
    origin: Instant,
    /// Milliseconds since `origin`.
    millis: Arc<AtomicU64>,
}

impl LastHeartbeat {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            millis: Arc::default(),
        }
    }

    pub(super) fn record(&self) {
        let millis = self.origin.elapsed().as_millis();
        self.millis
            .store(millis.try_into().unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn at(&self) -> Instant {
        self.origin + Duration::from_millis(self.millis.load(Relaxed))
    }
}
