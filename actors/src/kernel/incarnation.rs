//! One incarnation of a child, from its launch to its exit.
//!
//! A task watches each incarnation. It enforces the start deadline, the heartbeat and the shutdown
//! deadline, and reports to the supervisor that the child is ready and how it ended.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::awake::sleep_awake;
use super::child::ChildSpec;
use super::exit::Exit;
use super::tree::{Kind, Node, Tree};

/// Events of one incarnation: that it is ready, and that it ended.
const EVENTS_MAX: usize = 2;

/// Time without a heartbeat after which an actor is stuck.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs incarnations of one child, and tells its callers whether it runs.
pub(super) trait Launch: Send + Sync {
    /// Runs an incarnation. Resolves with its exit when nothing of the child is left.
    fn run(&self, launch: LaunchContext) -> LocalBoxFuture<'static, Exit>;

    /// Refuses calls, and says when the next start is due; `None` for a child that is not started
    /// again.
    fn refuse_calls(&self, until: Option<Instant>);
}

/// What an incarnation needs from its supervisor.
pub(super) struct LaunchContext {
    pub(super) tree: Tree,
    pub(super) node: Arc<Node>,
    /// Takes the report that the child is ready. Dropped when the child ends first.
    pub(super) ready: oneshot::Sender<()>,
    /// Cancelled to ask for an orderly stop.
    pub(super) stop: CancellationToken,
    /// Cancelled to end the child at its next await point.
    pub(super) kill: CancellationToken,
    pub(super) heartbeat: LastHeartbeat,
}

/// The time of the last heartbeat of an actor's loop.
pub(super) type LastHeartbeat = Rc<Cell<Instant>>;

/// What an incarnation reports: at most once that it is ready, then that it ended.
#[derive(Debug)]
pub(super) enum ChildEvent {
    Ready,
    Ended(Exit),
}

/// A supervisor's hold on one incarnation. Dropping it kills the child.
pub(super) struct Incarnation {
    /// Cancelled to ask for an orderly stop; the exit comes as an event.
    pub(super) stop: CancellationToken,
    /// Cancelled to kill the child; the exit comes as an event.
    pub(super) kill: CancellationToken,
    events: mpsc::Receiver<ChildEvent>,
    _kill_on_drop: DropGuard,
}

impl Incarnation {
    /// Launches a child of `spec`. Must be called inside an actix system.
    pub(super) fn launch(spec: &ChildSpec, tree: &Tree, node: &Arc<Node>) -> Self {
        node.begin_incarnation();
        let (ready_sender, ready) = oneshot::channel();
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let stop = CancellationToken::new();
        let kill = CancellationToken::new();
        let heartbeat = Rc::new(Cell::new(Instant::now()));
        let exited = actix_rt::spawn(spec.launcher.run(LaunchContext {
            tree: tree.clone(),
            node: Arc::clone(node),
            ready: ready_sender,
            stop: stop.clone(),
            kill: kill.clone(),
            heartbeat: Rc::clone(&heartbeat),
        }));
        let watch = Watch {
            spec: spec.clone(),
            exited,
            stop: stop.clone(),
            kill: kill.clone(),
            heartbeat,
        };
        actix_rt::spawn(watch.run(ready, event_sender));
        Self {
            stop,
            kill: kill.clone(),
            events,
            _kill_on_drop: kill.drop_guard(),
        }
    }

    /// The next event.
    pub(super) fn poll_event(&mut self, task: &mut TaskContext<'_>) -> Poll<ChildEvent> {
        let event = self.events.poll_recv(task);
        // The watch ends without a report only when the whole actix system is dropped.
        event.map(|event| event.unwrap_or(ChildEvent::Ended(Exit::Killed)))
    }

    /// See [`Self::poll_event`].
    pub(super) async fn event(&mut self) -> ChildEvent {
        poll_fn(|task| self.poll_event(task)).await
    }

    /// Waits for the end of the child.
    pub(super) async fn ended(&mut self) -> Exit {
        loop {
            // The child may report that it is ready before it sees the stop.
            if let ChildEvent::Ended(exit) = self.event().await {
                return exit;
            }
        }
    }
}

struct Watch {
    spec: ChildSpec,
    exited: JoinHandle<Exit>,
    stop: CancellationToken,
    kill: CancellationToken,
    heartbeat: LastHeartbeat,
}

impl Watch {
    async fn run(mut self, ready: oneshot::Receiver<()>, events: mpsc::Sender<ChildEvent>) {
        let exit = match self.until_ready(ready).await {
            Ok(()) => {
                // Sending fails when the supervisor is gone, which has killed the child by that.
                events.send(ChildEvent::Ready).await.ok();
                self.until_exit().await
            }
            Err(exit) => exit,
        };
        events.send(ChildEvent::Ended(exit)).await.ok();
    }

    /// Waits until the child is ready, or returns its exit when it ends first.
    async fn until_ready(&mut self, ready: oneshot::Receiver<()>) -> Result<(), Exit> {
        tokio::select! {
            biased;
            () = self.kill.cancelled() => Err(self.kill(Exit::Killed).await),
            ready = ready => match ready {
                Ok(()) => Ok(()),
                Err(_) => Err((&mut self.exited).await.unwrap_or_else(Exit::error)),
            },
            () = self.stop.cancelled() => Err(match self.spec.kind {
                // An actor that starts does not see a stop: only a kill ends it.
                Kind::Actor => self.kill(Exit::Shutdown).await,
                Kind::Supervisor => self.until_stopped().await,
            }),
            () = sleep(self.spec.start_deadline) => Err(self.kill(Exit::Killed).await),
        }
    }

    async fn until_exit(&mut self) -> Exit {
        let is_actor = self.spec.kind == Kind::Actor;
        tokio::select! {
            biased;
            () = self.kill.cancelled() => self.kill(Exit::Killed).await,
            exit = &mut self.exited => exit.unwrap_or_else(Exit::error),
            () = self.stop.cancelled() => self.until_stopped().await,
            silent = silence(&self.heartbeat), if is_actor => self.kill(Exit::Stuck { silent }).await,
        }
    }

    /// Waits for the end of a child that was asked to stop.
    async fn until_stopped(&mut self) -> Exit {
        tokio::select! {
            biased;
            () = self.kill.cancelled() => self.kill(Exit::Killed).await,
            exit = &mut self.exited => exit.unwrap_or_else(Exit::error),
            () = sleep(self.spec.shutdown_deadline) => self.kill(Exit::Killed).await,
        }
    }

    /// Kills the child for `reason` and waits until it is gone: an actor at its next await, a
    /// supervisor after its children.
    async fn kill(&mut self, reason: Exit) -> Exit {
        self.kill.cancel();
        drop((&mut self.exited).await);
        reason
    }
}

/// Resolves with the time since the last heartbeat, once that is more than the timeout. Only time
/// counts during which this process ran: after a pause of the process every actor has time to beat.
async fn silence(heartbeat: &LastHeartbeat) -> Duration {
    loop {
        let seen = heartbeat.get();
        let left = HEARTBEAT_TIMEOUT.saturating_sub(seen.elapsed());
        sleep_awake(left.max(HEARTBEAT_TIMEOUT / 8)).await;
        if heartbeat.get() == seen {
            return seen.elapsed();
        }
    }
}
