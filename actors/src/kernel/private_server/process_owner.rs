//! The actor that owns the process of a private server. Each incarnation prepares and starts one
//! process, and ends with it.

use std::process::Stdio;
use std::sync::Arc;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, ResponseActFuture};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::orphans::Orphans;
use super::run_as::RunAs;
use super::{
    DataDir, PreparedServer, PrivateServerError, START_TIMEOUT, STOP_TIMEOUT, ServerState, Shared,
    Socket,
};
use crate::kernel::process::Process;
use crate::kernel::{Child, Exit, IncarnationRef, ReservationEntry};

pub(super) struct ProcessOwner {
    incarnation: IncarnationRef,
    shared: Arc<Shared>,
    entry: Arc<dyn ReservationEntry>,
    generation: u64,
    running: Option<Running>,
}

struct Running {
    pid: i32,
    since: Instant,
    stop: CancellationToken,
    /// Resolves when the process has ended after `stop`.
    stopped: Option<oneshot::Receiver<()>>,
}

/// A process that is ready.
struct Ready {
    process: Process,
    socket: Socket,
    data_dir: Arc<DataDir>,
}

impl ProcessOwner {
    pub(super) fn new(
        incarnation: IncarnationRef,
        shared: Arc<Shared>,
        entry: Arc<dyn ReservationEntry>,
        generation: u64,
    ) -> Self {
        Self {
            incarnation,
            shared,
            entry,
            generation,
            running: None,
        }
    }

    fn set_state(&self, state: ServerState) {
        self.shared.set_state(self.generation, state);
    }

    fn on_ready(&mut self, ready: Ready, context: &mut Context<Self>) {
        let Ready {
            process,
            socket,
            data_dir,
        } = ready;
        let pid = process.pid();
        self.entry.attach(pid);
        // The start is over: from now on the reservation follows the measured usage.
        self.entry.set_reserved(self.entry.reserved());
        let stop = CancellationToken::new();
        let (stopped, receiver) = oneshot::channel();
        let since = Instant::now();
        self.running = Some(Running {
            pid,
            since,
            stop: stop.clone(),
            stopped: Some(receiver),
        });
        let server = self.shared.kind.name;
        tracing::info!(server, pid, socket = %socket.path().display(), "a private server is ready");
        self.set_state(ServerState::Running { pid, since, socket });
        let end = wrap_future::<_, Self>(run_to_end(process, data_dir, stop, stopped));
        context.spawn(end.map(|ended, owner, context| owner.on_ended(ended, context)));
    }

    fn on_ended(&mut self, ended: Option<(Exit, Vec<String>)>, context: &mut Context<Self>) {
        let Some((exit, lines)) = ended else {
            return self.set_state(ServerState::Idle);
        };
        if let Some(running) = &self.running {
            self.shared.record_uptime(running.since.elapsed());
        }
        let error = PrivateServerError::Start {
            server: self.shared.kind.name,
            reason: exit.to_string(),
            lines,
        };
        self.set_state(ServerState::Restarting { error });
        self.incarnation.end(context, exit);
    }
}

/// Waits for the end of the process. Returns `None` after a requested stop, else how the process
/// ended and its last lines. The data folder stays locked until then.
async fn run_to_end(
    mut process: Process,
    data_dir: Arc<DataDir>,
    stop: CancellationToken,
    stopped: oneshot::Sender<()>,
) -> Option<(Exit, Vec<String>)> {
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        exit = process.ended() => Some(exit),
    };
    let Some(exit) = ended else {
        process.stop(STOP_TIMEOUT).await;
        drop(data_dir);
        stopped.send(()).ok();
        return None;
    };
    let lines = process.all_lines().await;
    drop(data_dir);
    Some((Exit::Process(exit), lines))
}

/// Locks the data folder, ends orphans, prepares the server and starts its process. Returns when the
/// server is ready.
async fn start_process(shared: Arc<Shared>) -> Result<Ready, PrivateServerError> {
    let (kind, config) = (shared.kind, shared.config.clone());
    let server = kind.name;
    let locked = tokio::task::spawn_blocking(move || {
        let user = config.user.as_deref();
        let run_as = RunAs::choose(server, user, &config.folder)?;
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
        let start = wrap_future::<_, Self>(start_process(Arc::clone(&self.shared)));
        Box::pin(start.map(|started, owner, context| match started {
            Ok(ready) => {
                owner.on_ready(ready, context);
                Ok(())
            }
            Err(error) => {
                // Callers get the error now and do not wait for the remaining restarts.
                owner.set_state(ServerState::Failed {
                    error: error.clone(),
                    retry_at: None,
                });
                Err(Exit::error(error))
            }
        }))
    }

    fn stop(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        self.set_state(ServerState::Idle);
        let stopped = self.running.as_mut().and_then(|running| {
            running.stop.cancel();
            running.stopped.take()
        });
        Box::pin(wrap_future(async move {
            if let Some(stopped) = stopped {
                // An error means that the process had ended before.
                stopped.await.ok();
            }
        }))
    }

    fn observe(&self) -> Value {
        json!({
            "pid": self.running.as_ref().map(|running| running.pid),
            "state": self.shared.state.borrow().label(),
            "folder": self.shared.config.folder,
        })
    }
}

impl Drop for ProcessOwner {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            self.entry.detach(running.pid);
        }
    }
}
