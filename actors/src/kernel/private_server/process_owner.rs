//! The actor that owns the process of a private server. Each incarnation prepares and starts one
//! process, and ends with it.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, ResponseActFuture};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::orphans::Orphans;
use super::run_as::RunAs;
use super::{
    DataDir, PreparedServer, PrivateServerError, START_TIMEOUT, STOP_TIMEOUT, ServerGeneration,
    ServerState, Shared, Socket,
};
use crate::kernel::process::Process;
use crate::kernel::{Backoff, Child, Exit, IncarnationRef};

pub(super) struct ProcessOwner {
    pub(super) incarnation: IncarnationRef,
    pub(super) generation: Arc<ServerGeneration>,
    pub(super) running: Option<Running>,
}

pub(super) struct Running {
    pid: i32,
    since: Instant,
    /// Asks for the stop of the process. What is sent is dropped when the process has ended.
    stop: Option<oneshot::Sender<oneshot::Sender<()>>>,
}

/// A process that is ready.
struct Ready {
    process: Process,
    socket: Socket,
    data_dir: Arc<DataDir>,
}

impl ProcessOwner {
    fn on_ready(&mut self, ready: Ready, context: &mut Context<Self>) {
        let (pid, since) = (ready.process.pid(), Instant::now());
        let socket = ready.socket.clone();
        if let Some(reservation) = &self.generation.reservation {
            let entry = reservation.entry();
            entry.attach(pid);
            // The start is over: from now on the reservation follows the measured usage.
            entry.set_reserved(entry.reserved());
        }
        let (stop, stopping) = oneshot::channel();
        self.running = Some(Running {
            pid,
            since,
            stop: Some(stop),
        });
        let server = self.generation.shared.kind.name;
        tracing::info!(server, pid, socket = %socket.path().display(), "a private server is ready");
        let running = ServerState::Running { pid, since, socket };
        self.generation.set_state(running);
        let end = wrap_future::<_, Self>(run_to_end(ready, stopping));
        context.spawn(end.map(|ended, owner, context| owner.on_ended(ended, context)));
    }

    fn on_ended(&mut self, ended: Option<(Exit, Vec<String>)>, context: &mut Context<Self>) {
        let Some((exit, lines)) = ended else {
            return self.generation.set_state(ServerState::Idle);
        };
        let shared = &self.generation.shared;
        let uptime = self.running.as_ref().map(|running| running.since.elapsed());
        if uptime.is_some_and(|uptime| Backoff::DEFAULT.is_stable(uptime)) {
            shared.failures.store(0, Relaxed);
        }
        let error = PrivateServerError::Start {
            server: shared.kind.name,
            reason: exit.to_string(),
            lines,
        };
        self.generation.set_state(ServerState::Restarting { error });
        self.incarnation.end(context, exit);
    }
}

/// Waits for the end of the process. Returns `None` after a requested stop, else how the process
/// ended and its last lines. The data folder stays locked until then.
async fn run_to_end(
    ready: Ready,
    stopping: oneshot::Receiver<oneshot::Sender<()>>,
) -> Option<(Exit, Vec<String>)> {
    let Ready {
        mut process,
        data_dir,
        ..
    } = ready;
    tokio::select! {
        biased;
        Ok(stopped) = stopping => {
            process.stop(STOP_TIMEOUT).await;
            drop(data_dir);
            drop(stopped);
            None
        }
        exit = process.ended() => {
            let pid = process.pid();
            Some((Exit::Process { pid, exit }, process.all_lines().await))
        }
    }
}

/// Locks the data folder, ends orphans, prepares the server and starts its process. Returns when the
/// server is ready.
async fn start_process(shared: Arc<Shared>) -> Result<Ready, PrivateServerError> {
    let (kind, config) = (shared.kind, shared.config.clone());
    let server = kind.name;
    let locked = tokio::task::spawn_blocking(move || {
        let user = config.user.as_deref();
        let run_as = RunAs::choose(kind.user, user, &config.folder)?;
        DataDir::lock(server, &config.folder, run_as)
    });
    let locked = locked.await;
    let data_dir = Arc::new(locked.map_err(|error| shared.unavailable(error.to_string()))??);
    Orphans::new(kind, &data_dir.folder).end().await?;
    let prepared = (kind.prepare)(Arc::clone(&data_dir), shared.config.search.clone());
    let PreparedServer { process, socket } = prepared.await?;
    let process = Process::spawn(&process, Stdio::null());
    let mut process = process.map_err(|error| data_dir.not_started(&error))?;
    let reason = match timeout(START_TIMEOUT, process.ready()).await {
        Ok(Ok(())) => {
            return Ok(Ready {
                process,
                socket,
                data_dir,
            });
        }
        Ok(Err(exit)) => exit.to_string(),
        Err(_) => format!("it was not ready after {} s", START_TIMEOUT.as_secs()),
    };
    process.stop(STOP_TIMEOUT).await;
    let lines = process.all_lines().await;
    Err(PrivateServerError::Start {
        server,
        reason,
        lines,
    })
}

impl Actor for ProcessOwner {
    type Context = Context<Self>;
}

impl Child for ProcessOwner {
    fn start(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let start = start_process(Arc::clone(&self.generation.shared));
        let start = wrap_future::<_, Self>(start);
        Box::pin(start.map(|started, owner, context| match started {
            Ok(ready) => {
                owner.on_ready(ready, context);
                Ok(())
            }
            Err(error) => {
                // Callers get the error now and do not wait for the remaining restarts.
                owner.generation.set_state(ServerState::Failed {
                    error: error.clone(),
                    retry_at: None,
                });
                Err(Exit::error(error))
            }
        }))
    }

    fn stop(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        self.generation.set_state(ServerState::Idle);
        let (end, ended) = oneshot::channel();
        let stop = self
            .running
            .as_mut()
            .and_then(|running| running.stop.take());
        if let Some(stop) = stop {
            // It fails if the process has ended.
            stop.send(end).ok();
        }
        Box::pin(wrap_future(async move { drop(ended.await) }))
    }

    fn observe(&self) -> Value {
        let shared = &self.generation.shared;
        json!({
            "pid": self.running.as_ref().map(|running| running.pid),
            "state": shared.state.borrow().label(),
            "folder": shared.config.folder,
        })
    }
}

impl Drop for ProcessOwner {
    fn drop(&mut self) {
        if let (Some(running), Some(reservation)) = (&self.running, &self.generation.reservation) {
            reservation.entry().detach(running.pid);
        }
    }
}
