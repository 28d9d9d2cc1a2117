//! One incarnation of a child, from its launch to its exit.
//!
//! A task watches each incarnation. It enforces the start deadline, the heartbeat and the shutdown
//! deadline, and reports to the supervisor that the child is ready and how it ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::awake::sleep_awake;
use super::child::{ChildSpec, Heartbeat};
use super::child_events::{ChildEvent, Ended};
use super::exit::Exit;
use super::launch::{LastHeartbeat, LaunchContext, Running};
use super::tree::{Kind, Node, Tree};

/// A supervisor's hold on one incarnation. Dropping it kills the child.
pub(super) struct Incarnation {
    stop: CancellationToken,
    kill: CancellationToken,
}

impl Incarnation {
    /// Launches a child of `spec`, whose events go to `events` under `key`. Must be called inside
    /// an actix system.
    pub(super) fn launch(
        spec: &ChildSpec,
        tree: &Tree,
        node: &Arc<Node>,
        key: u64,
        events: mpsc::Sender<(u64, ChildEvent)>,
    ) -> Self {
        let running = spec.launcher.launch(LaunchContext {
            tree: tree.clone(),
            node: Arc::clone(node),
            incarnation: node.begin_incarnation(),
            heartbeat_interval: spec.heartbeat.interval,
        });
        let stop = CancellationToken::new();
        let kill = CancellationToken::new();
        let watch = Watch {
            running,
            kind: spec.kind,
            stop: stop.clone(),
            kill: kill.clone(),
            start_deadline: spec.start_deadline,
            shutdown_deadline: spec.shutdown_deadline,
            heartbeat: spec.heartbeat,
        };
        actix_rt::spawn(watch.run(key, events));
        Self { stop, kill }
    }

    /// Asks for an orderly stop; the exit comes as an event.
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
}

impl Watch {
    async fn run(mut self, key: u64, events: mpsc::Sender<(u64, ChildEvent)>) {
        let ended = match self.until_ready().await {
            Ok(()) => {
                let since = Instant::now();
                if let Some(open) = self.running.open.take() {
                    open();
                }
                // Sending fails when the supervisor is gone, which has killed the child by that.
                events.send((key, ChildEvent::Ready)).await.ok();
                Ended {
                    exit: self.until_exit().await,
                    uptime: Some(since.elapsed()),
                }
            }
            Err(exit) => Ended { exit, uptime: None },
        };
        events.send((key, ChildEvent::Ended(ended))).await.ok();
    }

    /// Waits until the child is ready, or returns its exit when it ends first.
    async fn until_ready(&mut self) -> Result<(), Exit> {
        tokio::select! {
            biased;
            () = self.kill.cancelled() => Err(self.kill(Exit::Killed).await),
            () = self.stop.cancelled() => Err(match self.kind {
                // An actor that starts does not see a stop: only a kill ends it.
                Kind::Actor => self.kill(Exit::Shutdown).await,
                Kind::Supervisor => self.stop().await,
            }),
            ready = &mut self.running.ready => match ready {
                Ok(()) => Ok(()),
                Err(_) => Err(exit_of((&mut self.running.exited).await)),
            },
            () = after(self.start_deadline) => Err(self.kill(Exit::Killed).await),
        }
    }

    async fn until_exit(&mut self) -> Exit {
        tokio::select! {
            biased;
            exit = &mut self.running.exited => exit_of(exit),
            () = self.kill.cancelled() => self.kill(Exit::Killed).await,
            () = self.stop.cancelled() => self.stop().await,
            silent = silence(self.running.heartbeat.clone(), self.heartbeat) => {
                self.kill(Exit::Stuck { silent }).await
            }
        }
    }

    async fn stop(&mut self) -> Exit {
        self.running.stop.cancel();
        tokio::select! {
            biased;
            exit = &mut self.running.exited => exit_of(exit),
            () = self.kill.cancelled() => self.kill(Exit::Killed).await,
            () = after(self.shutdown_deadline) => self.kill(Exit::Killed).await,
        }
    }

    /// Kills the child for `reason` and waits until it is gone: an actor at its next await, a
    /// supervisor after its children.
    async fn kill(&mut self, reason: Exit) -> Exit {
        self.running.kill.cancel();
        drop((&mut self.running.exited).await);
        reason
    }
}

fn exit_of(exit: Result<Exit, RecvError>) -> Exit {
    exit.unwrap_or_else(|_| Exit::Panic("ended without an exit".to_owned()))
}

/// Sleeps for `deadline`; for ever when it is `Duration::MAX`.
async fn after(deadline: Duration) {
    if deadline == Duration::MAX {
        std::future::pending::<()>().await;
    }
    sleep(deadline).await;
}

/// Resolves with the time since the last heartbeat, once that is more than the timeout. Only time
/// counts during which this process ran: after a pause of the process every actor has time to beat.
async fn silence(last: Option<LastHeartbeat>, heartbeat: Heartbeat) -> Duration {
    let Some(last) = last else {
        return std::future::pending().await;
    };
    loop {
        let seen = last.at();
        let left = heartbeat.timeout.saturating_sub(seen.elapsed());
        sleep_awake(left.max(heartbeat.timeout / 8)).await;
        if last.at() == seen {
            return seen.elapsed();
        }
    }
}
