//! Owns the process of a private server: one incarnation is one process, prepared from the ground
//! up, and ends with it.

use std::process::Stdio;
use std::sync::Arc;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, ResponseActFuture};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    DataDir, Prepared, PrivateServerError, RunAs, STOP_WITHIN, ServerState, Shared, Socket,
};
use crate::kernel::process::Process;
use crate::kernel::{Child, Exit, IncarnationRef, ReservationEntry};

/// An actor that is one process of a private server.
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

    fn tell(&self, state: ServerState) {
        self.shared.tell(self.generation, state);
    }

    fn on_ready(&mut self, ready: Ready, cx: &mut Context<Self>) {
        let Ready {
            process,
            socket,
            data_dir,
        } = ready;
        let pid = process.pid();
        self.entry.attach(pid);
        // The start is over: from here on the reservation follows what is measured.
        self.entry.set_reserved(self.entry.reserved());
        let stop = CancellationToken::new();
        let (told, stopped) = oneshot::channel();
        let since = Instant::now();
        self.running = Some(Running {
            pid,
            since,
            stop: stop.clone(),
            stopped: Some(stopped),
        });
        let server = self.shared.server.name();
        tracing::info!(server, pid, socket = %socket.path().display(), "a private server is ready");
        self.tell(ServerState::Running { pid, since, socket });
        let end = wrap_future::<_, Self>(watch(process, data_dir, stop, told));
        cx.spawn(end.map(|ended, owner, cx| owner.on_ended(ended, cx)));
    }

    fn on_ended(&mut self, ended: Option<(Exit, Vec<String>)>, cx: &mut Context<Self>) {
        let Some((exit, lines)) = ended else {
            return self.tell(ServerState::Idle);
        };
        if let Some(running) = &self.running {
            self.shared.ran_for(running.since.elapsed());
        }
        let error = PrivateServerError::Start {
            what: self.shared.server.name(),
            why: exit.to_string(),
            lines,
        };
        self.tell(ServerState::Restarting { error });
        self.incarnation.end(cx, exit);
    }

    fn detach(&self) {
        if let Some(running) = &self.running {
            self.entry.detach(running.pid);
        }
    }
}

/// Sees the process through to its end. `None` when it was asked to end, else how it did and its
/// last words. The folder stays locked until then.
async fn watch(
    mut process: Process,
    data_dir: Arc<DataDir>,
    stop: CancellationToken,
    told: oneshot::Sender<()>,
) -> Option<(Exit, Vec<String>)> {
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        exit = process.ended() => Some(exit),
    };
    let Some(exit) = ended else {
        process.stop(STOP_WITHIN).await;
        drop(data_dir);
        told.send(()).ok();
        return None;
    };
    let lines = process.all_lines().await;
    drop(data_dir);
    Some((Exit::Process(exit), lines))
}

/// Everything from the folder to a process that answers.
async fn boot(shared: Arc<Shared>) -> Result<Ready, PrivateServerError> {
    let (server, config) = (Arc::clone(&shared.server), shared.config.clone());
    let what = server.name();
    let usual = server.usual_user();
    let taken = tokio::task::spawn_blocking(move || {
        let user = config.user.as_deref();
        let account = RunAs::choose(what, user, &config.folder, usual)?;
        DataDir::take(&config.folder, account)
    });
    let taken = taken
        .await
        .map_err(|error| PrivateServerError::Unavailable {
            what,
            why: error.to_string(),
        })?;
    let data_dir = Arc::new(taken?);
    server.orphans(&data_dir).end().await?;
    let prepared = server.prepare(Arc::clone(&data_dir), shared.config.clone());
    let Prepared { process, socket } = prepared.await?;
    let started = Process::spawn(&process, Stdio::null());
    let mut running = started.map_err(|error| PrivateServerError::Start {
        what,
        why: error.to_string(),
        lines: Vec::new(),
    })?;
    let why = match timeout(shared.config.start_timeout, running.ready()).await {
        Ok(Ok(())) => {
            return Ok(Ready {
                process: running,
                socket,
                data_dir,
            });
        }
        Ok(Err(exit)) => exit.to_string(),
        Err(_) => "it was not ready in time".to_owned(),
    };
    running.stop(STOP_WITHIN).await;
    let lines = running.all_lines().await;
    Err(PrivateServerError::Start { what, why, lines })
}

impl Actor for ProcessOwner {
    type Context = Context<Self>;
}

impl Child for ProcessOwner {
    fn start(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let boot = wrap_future::<_, Self>(boot(Arc::clone(&self.shared)));
        Box::pin(boot.map(|booted, owner, cx| match booted {
            Ok(ready) => {
                owner.on_ready(ready, cx);
                Ok(())
            }
            Err(error) => {
                // Whoever asks is told at once, not after all the tries that are left.
                owner.tell(ServerState::Failed {
                    error: error.clone(),
                    retry_at: None,
                });
                Err(Exit::error(error))
            }
        }))
    }

    fn stop(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        self.tell(ServerState::Idle);
        let stopped = self.running.as_mut().and_then(|running| {
            running.stop.cancel();
            running.stopped.take()
        });
        Box::pin(wrap_future(async move {
            if let Some(stopped) = stopped {
                // Nobody tells when the process had ended before.
                stopped.await.ok();
            }
        }))
    }

    fn observe(&self) -> Value {
        let state = self.shared.states.borrow();
        json!({
            "pid": self.running.as_ref().map(|running| running.pid),
            "state": state.label(),
            "folder": self.shared.config.folder,
        })
    }
}

impl Drop for ProcessOwner {
    fn drop(&mut self) {
        self.detach();
    }
}
