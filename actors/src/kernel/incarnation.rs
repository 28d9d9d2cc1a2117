//! One life of one child, from launch to exit: the part of supervision that is the same for
//! actors, processes and supervisors. It enforces the start deadline, the heartbeat and the
//! shutdown deadline, and it always ends with an exit reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::awake::sleep_awake;
use super::child::{ChildSpec, Heartbeat, Kind};
use super::exit::Exit;
use super::tree::{Node, Tree};

/// After a kill, how long to wait for the end before the child's thread is abandoned. A kill is
/// carried out at the next await point; only code that blocks its thread, or a process that is held
/// inside the system, can outlast this.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// Makes running children. One implementation per kind of child.
pub(super) trait Launch: Send + Sync {
    /// Starts an incarnation and returns at once.
    fn launch(&self, context: LaunchContext) -> Running;

    /// Lets no more callers in, before the child is asked to stop. A supervisor's children are not
    /// closed with it: those that stop first may still need the others.
    fn close(&self) {}

    /// Says to the callers of a child that has ended that it is down, and until when.
    fn mark_down(&self, _until: Option<Instant>) {}

    /// Says to the callers of a child that has ended that it will not come back.
    fn mark_stopped(&self) {}
}

/// What a launch is given.
pub(super) struct LaunchContext {
    pub(super) tree: Tree,
    pub(super) node: Arc<Node>,
    pub(super) incarnation: u64,
    pub(super) heartbeat: Heartbeat,
}

/// A launched child.
pub(super) struct Running {
    /// Resolves when the child has started; dropped when it ends before.
    pub(super) ready: oneshot::Receiver<()>,
    /// Called once it is ready: lets its callers in.
    pub(super) open: Box<dyn FnOnce() + Send>,
    /// Called at a kill: drops the calls that wait for it.
    pub(super) cut_off: Box<dyn Fn() + Send>,
    /// Resolves with the child's own account of its end, after all of it is gone.
    pub(super) exited: oneshot::Receiver<Exit>,
    /// Cancelled to ask for an orderly stop.
    pub(super) stop: CancellationToken,
    /// Cancelled to end it at its next await point.
    pub(super) kill: CancellationToken,
    /// Written by the child's loop at every turn; none for children that have no loop of ours.
    pub(super) beat: Option<LastBeat>,
}

/// The time of the last sign of life, shared between an actor's loop and its supervisor.
#[derive(Debug, Clone)]
pub(super) struct LastBeat {
    origin: Instant,
    last_millis: Arc<AtomicU64>,
}

impl LastBeat {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            last_millis: Arc::default(),
        }
    }

    pub(super) fn record(&self) {
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

/// What an incarnation tells its supervisor: at most once that it is ready, then that it ended.
#[derive(Debug)]
pub(super) enum ChildEvent {
    Ready,
    Ended(Ended),
}

/// Ready, ended: there is never more to tell.
const EVENTS_MAX: usize = 2;

/// The supervisor's grip on one incarnation. Dropping it kills the child.
pub(super) struct Incarnation {
    stop: CancellationToken,
    kill: CancellationToken,
}

impl Incarnation {
    /// Launches `spec`. Must be called inside an actix system.
    pub(super) fn launch(
        spec: &ChildSpec,
        tree: &Tree,
        node: &Arc<Node>,
    ) -> (Self, mpsc::Receiver<ChildEvent>) {
        let incarnation = node.begin_incarnation();
        let running = spec.launch.launch(LaunchContext {
            tree: tree.clone(),
            node: Arc::clone(node),
            incarnation,
            heartbeat: spec.heartbeat,
        });
        let stop = CancellationToken::new();
        let kill = CancellationToken::new();
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let watch = Watch {
            running,
            kind: spec.kind,
            stop: stop.clone(),
            kill: kill.clone(),
            start_deadline: spec.start_deadline,
            shutdown_deadline: spec.shutdown_deadline,
            heartbeat: spec.heartbeat,
            tree: tree.clone(),
        };
        actix_rt::spawn(watch.run(sender));
        (Self { stop, kill }, events)
    }

    /// Asks for the stop; the end comes as events.
    pub(super) fn request_stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Incarnation {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

struct Watch {
    running: Running,
    kind: Kind,
    stop: CancellationToken,
    kill: CancellationToken,
    start_deadline: Duration,
    shutdown_deadline: Duration,
    heartbeat: Heartbeat,
    tree: Tree,
}

impl Watch {
    async fn run(mut self, events: mpsc::Sender<ChildEvent>) {
        let ended = match self.start().await {
            Ok(()) => {
                let since = Instant::now();
                std::mem::replace(&mut self.running.open, Box::new(|| {}))();
                // The supervisor may be gone; then it has asked for the kill by that.
                events.try_send(ChildEvent::Ready).ok();
                Ended {
                    exit: self.live().await,
                    uptime: Some(since.elapsed()),
                }
            }
            Err(exit) => Ended { exit, uptime: None },
        };
        events.try_send(ChildEvent::Ended(ended)).ok();
    }

    /// Waits until the child is ready; else says how it ended instead.
    async fn start(&mut self) -> Result<(), Exit> {
        let running = &mut self.running;
        tokio::select! {
            biased;
            () = self.kill.cancelled() => Err(self.end_by_force(Exit::Killed).await),
            () = self.stop.cancelled() => Err(match self.kind {
                // An actor that is still starting is not listening: only a kill ends it.
                Kind::Actor => self.end_by_force(Exit::Shutdown).await,
                Kind::Supervisor => self.end_in_order().await,
            }),
            started = started(&mut running.ready, &mut running.exited) => started,
            () = after(self.start_deadline) => Err(self.end_by_force(Exit::Killed).await),
        }
    }

    async fn live(&mut self) -> Exit {
        tokio::select! {
            biased;
            exit = &mut self.running.exited => told(exit),
            () = self.kill.cancelled() => self.end_by_force(Exit::Killed).await,
            () = self.stop.cancelled() => self.end_in_order().await,
            silent = silence(self.running.beat.clone(), self.heartbeat) => {
                self.end_by_force(Exit::Stuck { silent }).await
            }
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

    /// Kills the child, for `reason`.
    async fn end_by_force(&mut self, reason: Exit) -> Exit {
        self.running.kill.cancel();
        (self.running.cut_off)();
        let grace = match self.kind {
            // It waits for nothing but its own children, each of which has its grace.
            Kind::Supervisor => Duration::MAX,
            Kind::Actor => KILL_GRACE,
        };
        tokio::select! {
            biased;
            exit = &mut self.running.exited => drop(exit),
            () = after(grace) => self.tree.count_abandoned(self.kind),
        }
        reason
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Whatever still stands of the child (its thread, if it had one) ends with our interest.
        self.running.kill.cancel();
    }
}

async fn started(
    ready: &mut oneshot::Receiver<()>,
    exited: &mut oneshot::Receiver<Exit>,
) -> Result<(), Exit> {
    match ready.await {
        Ok(()) => Ok(()),
        Err(_) => Err(told(exited.await)),
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

/// Resolves once the beat has been silent for too long, with the length of the silence. What counts
/// is time during which this process ran: after a pause of it everybody is given time to beat.
async fn silence(beat: Option<LastBeat>, heartbeat: Heartbeat) -> Duration {
    let Some(beat) = beat else {
        return std::future::pending().await;
    };
    loop {
        let seen = beat.last();
        let left = heartbeat.timeout.saturating_sub(seen.elapsed());
        sleep_awake(left.max(heartbeat.timeout / 8)).await;
        if beat.last() == seen {
            return seen.elapsed();
        }
    }
}
