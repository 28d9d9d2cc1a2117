//! One life of one child, from launch to exit: the part of supervision that is the same for
//! actors, processes and supervisors. It enforces the start deadline, the heartbeat and the
//! shutdown deadline, and it always ends with an exit reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::child::{ChildSpec, Heartbeat};
use super::exit::Exit;
use super::tree::{Node, Tree};

/// After a kill, how long to wait for the end before the child's thread is abandoned. A kill is
/// carried out at the next await point; only code that blocks its thread can outlast this.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// Makes running children. One implementation per kind of child.
pub(super) trait Launch: Send + Sync {
    /// Starts an incarnation and returns at once.
    fn launch(&self, birth: Birth) -> Running;

    /// Says to the child's callers that it is down, and until when it will stay so.
    fn mark_down(&self, _until: Option<Instant>) {}

    /// Says to the child's callers that it will not come back.
    fn mark_stopped(&self) {}
}

/// What a launch is given.
pub(super) struct Birth {
    pub(super) tree: Tree,
    pub(super) node: Arc<Node>,
    pub(super) incarnation: u64,
    pub(super) heartbeat: Heartbeat,
    pub(super) shutdown_deadline: Duration,
}

/// A launched child.
pub(super) struct Running {
    /// Resolves when the child has started; dropped when it ends before.
    pub(super) ready: oneshot::Receiver<()>,
    /// Resolves with the child's own account of its end.
    pub(super) exited: oneshot::Receiver<Exit>,
    /// Cancelled to ask for an orderly stop.
    pub(super) stop: CancellationToken,
    /// Cancelled to end it at its next await point.
    pub(super) kill: CancellationToken,
    /// Written by the child's loop at every turn; none for children that have no loop of ours.
    pub(super) beat: Option<Beat>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whatever still stands of the child (its thread, if it had one) ends with our interest.
        self.kill.cancel();
    }
}

/// The time of the last sign of life, shared between an actor's loop and its supervisor.
#[derive(Debug, Clone)]
pub(super) struct Beat {
    origin: Instant,
    last_millis: Arc<AtomicU64>,
}

impl Beat {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            last_millis: Arc::default(),
        }
    }

    pub(super) fn strike(&self) {
        let millis = self
            .origin
            .elapsed()
            .as_millis()
            .try_into()
            .unwrap_or(u64::MAX);
        self.last_millis.store(millis, Relaxed);
    }

    fn last(&self) -> Instant {
        self.origin + Duration::from_millis(self.last_millis.load(Relaxed))
    }
}

/// How an incarnation went.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    /// How long it ran after it was ready; none when it never was.
    pub(super) uptime: Option<Duration>,
}

/// The supervisor's grip on one incarnation. Dropping it kills the child.
pub(super) struct Incarnation {
    stop: CancellationToken,
    kill: CancellationToken,
    ready: Option<oneshot::Receiver<()>>,
    ended: Option<oneshot::Receiver<Ended>>,
}

impl Incarnation {
    /// Launches `spec`. Must be called inside an actix system.
    pub(super) fn launch(spec: &ChildSpec, tree: &Tree, node: &Arc<Node>) -> Self {
        let incarnation = node.begin_incarnation();
        let running = spec.launch.launch(Birth {
            tree: tree.clone(),
            node: Arc::clone(node),
            incarnation,
            heartbeat: spec.heartbeat,
            shutdown_deadline: spec.shutdown_deadline,
        });
        let stop = CancellationToken::new();
        let kill = CancellationToken::new();
        let (ready_sender, ready) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        let watch = Watch {
            running,
            stop: stop.clone(),
            kill: kill.clone(),
            start_deadline: spec.start_deadline,
            shutdown_deadline: spec.shutdown_deadline,
            heartbeat: spec.heartbeat,
            tree: tree.clone(),
        };
        actix_rt::spawn(async move {
            let ended = watch.run(ready_sender).await;
            // Nobody left to tell means that the supervisor itself was killed.
            ended_sender.send(ended).ok();
        });
        Self {
            stop,
            kill,
            ready: Some(ready),
            ended: Some(ended),
        }
    }

    /// Asks for the stop; the end comes through [`Incarnation::take_ended`].
    pub(super) fn request_stop(&self) {
        self.stop.cancel();
    }

    /// Resolves when the child is ready, with an error when it ends before. Can be taken once.
    pub(super) fn take_ready(&mut self) -> Option<oneshot::Receiver<()>> {
        self.ready.take()
    }

    /// Resolves when the child has ended. Can be taken once.
    pub(super) fn take_ended(&mut self) -> Option<oneshot::Receiver<Ended>> {
        self.ended.take()
    }
}

impl Drop for Incarnation {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

struct Watch {
    running: Running,
    stop: CancellationToken,
    kill: CancellationToken,
    start_deadline: Duration,
    shutdown_deadline: Duration,
    heartbeat: Heartbeat,
    tree: Tree,
}

impl Watch {
    async fn run(mut self, announce: oneshot::Sender<()>) -> Ended {
        let started = tokio::select! {
            biased;
            exit = &mut self.running.exited => return Ended { exit: told(exit), uptime: None },
            () = self.kill.cancelled() => Err(Exit::Killed),
            () = self.stop.cancelled() => Err(Exit::Shutdown),
            ready = &mut self.running.ready => match ready {
                Ok(()) => Ok(Instant::now()),
                Err(_) => {
                    let exit = told((&mut self.running.exited).await);
                    return Ended { exit, uptime: None };
                }
            },
            () = after(self.start_deadline) => Err(Exit::Killed),
        };
        let since = match started {
            Ok(since) => since,
            Err(reason) => {
                // A child that is still starting is not listening for a stop: only a kill ends it.
                return Ended {
                    exit: self.end_by_force(reason).await,
                    uptime: None,
                };
            }
        };
        // A supervisor that is gone has cancelled `kill` by that: the next select sees it.
        announce.send(()).ok();
        let exit = tokio::select! {
            biased;
            exit = &mut self.running.exited => told(exit),
            () = self.kill.cancelled() => self.end_by_force(Exit::Killed).await,
            () = self.stop.cancelled() => self.end_in_order().await,
            silent = silence(self.running.beat.clone(), self.heartbeat) => {
                self.end_by_force(Exit::Stuck { silent }).await
            }
        };
        Ended {
            exit,
            uptime: Some(since.elapsed()),
        }
    }

    async fn end_in_order(&mut self) -> Exit {
        self.running.stop.cancel();
        tokio::select! {
            biased;
            exit = &mut self.running.exited => told(exit),
            () = self.kill.cancelled() => self.end_by_force(Exit::Killed).await,
            () = after(self.shutdown_deadline) => self.end_by_force(Exit::Killed).await,
        }
    }

    async fn end_by_force(&mut self, reason: Exit) -> Exit {
        self.running.kill.cancel();
        if tokio::time::timeout(KILL_GRACE, &mut self.running.exited)
            .await
            .is_err()
        {
            self.tree.count_abandoned_thread();
        }
        reason
    }
}

fn told(exit: Result<Exit, oneshot::error::RecvError>) -> Exit {
    exit.unwrap_or_else(|_| Exit::Panic("ended without giving a reason".to_owned()))
}

/// `sleep` that takes `Duration::MAX` for never.
async fn after(deadline: Duration) {
    if deadline == Duration::MAX {
        std::future::pending::<()>().await;
    }
    sleep(deadline).await;
}

/// Resolves once the beat has been silent for too long, with the length of the silence.
async fn silence(beat: Option<Beat>, heartbeat: Heartbeat) -> Duration {
    let Some(beat) = beat else {
        return std::future::pending().await;
    };
    loop {
        let due = beat.last() + heartbeat.timeout;
        if due <= Instant::now() {
            return beat.last().elapsed();
        }
        sleep_until(due).await;
    }
}
