//! The zygote: one process that has libtorch mapped and relocated, and forks a host per request. All
//! hosts share the 56 MB of relocations, and start faster.
//!
//! The zygote reaps its hosts and reports how they exited. When it dies, the kernel kills its hosts.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, ActorStreamExt, wrap_future, wrap_stream};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};
use futures_util::stream::{LocalBoxStream, StreamExt};
use headroom_model_protocol::{ForkRequest, ZygoteReply};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::connection::{self, ConnectionError, FrameSender, ReceivedFrame};
use crate::kernel::process::{Process, ProcessSpec, SpawnError};
use crate::kernel::{
    Call, Child, Exit, IncarnationRef, Message, ProcessExit, ProcessRef, Reply, ReservationEntry,
    sleep_awake,
};

/// How long the process may take to exit after its socket closed.
const EXIT_WITHIN: Duration = Duration::from_secs(2);

/// Owns the zygote process.
pub(super) struct Zygote {
    incarnation: IncarnationRef,
    spec: ProcessSpec,
    entry: Arc<dyn ReservationEntry>,
    fork_deadline: Duration,
    running: Option<Running>,
    forking: HashMap<u64, Reply<Fork>>,
    hosts: HashMap<i32, oneshot::Sender<ProcessExit>>,
    /// Received pidfds of hosts whose frame has not been handled yet.
    descriptors: VecDeque<OwnedFd>,
    next_id: u64,
}

struct Running {
    process: Process,
    sender: FrameSender,
}

type Frames = LocalBoxStream<'static, Result<ReceivedFrame<ZygoteReply>, ConnectionError>>;

/// Why the zygote failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ZygoteError {
    #[error("the zygote cannot be started")]
    Spawn(#[from] SpawnError),
    #[error("the zygote ended before it was ready: {0}")]
    NotReady(ProcessExit),
    #[error("the connection to the zygote failed")]
    Connection(#[from] ConnectionError),
}

impl Zygote {
    /// A zygote that is started according to `spec`; its memory is counted in `entry`. When a fork
    /// takes longer than `fork_deadline`, the zygote counts as stuck and is killed with its hosts.
    pub(super) fn new(
        incarnation: IncarnationRef,
        spec: ProcessSpec,
        entry: Arc<dyn ReservationEntry>,
        fork_deadline: Duration,
    ) -> Self {
        Self {
            incarnation,
            spec,
            entry,
            fork_deadline,
            running: None,
            forking: HashMap::new(),
            hosts: HashMap::new(),
            descriptors: VecDeque::new(),
            next_id: 0,
        }
    }

    fn on_frame(
        &mut self,
        frame: Result<ReceivedFrame<ZygoteReply>, ConnectionError>,
        cx: &mut Context<Self>,
    ) {
        let received = match frame {
            Ok(received) => received,
            Err(error) => {
                return self
                    .incarnation
                    .end(cx, Exit::error(ZygoteError::from(error)));
            }
        };
        self.descriptors.extend(received.descriptors);
        match received.frame.header {
            ZygoteReply::Ready => {}
            ZygoteReply::Forked {
                id,
                pid,
                has_descriptor,
            } => {
                let (sender, ended) = oneshot::channel();
                self.hosts.insert(pid, sender);
                let descriptor = has_descriptor.then(|| self.descriptors.pop_front());
                let process = ProcessRef::new(pid, descriptor.flatten());
                match self.forking.remove(&id) {
                    Some(reply) => reply.send(Ok(Forked { process, ended })),
                    // The host's socket is closed, so that the host exits.
                    None => tracing::warn!(pid, "the zygote forked a host without a request"),
                }
            }
            ZygoteReply::ForkFailed { id, message } => {
                if let Some(reply) = self.forking.remove(&id) {
                    reply.send(Err(message));
                }
            }
            ZygoteReply::Exited { pid, status } => {
                if let Some(ended) = self.hosts.remove(&pid) {
                    let status = ExitStatus::from_raw(status);
                    ended.send(ProcessExit::from_status(status)).ok();
                }
            }
        }
    }

    /// Kills the zygote if it has not answered request `id` yet. The zygote gets no pings: outside
    /// of a fork nobody needs its reply, and to kill it would kill hosts that work.
    fn on_overdue(&mut self, id: u64, cx: &mut Context<Self>) {
        if self.forking.contains_key(&id) {
            let silent = self.fork_deadline;
            self.incarnation.end(cx, Exit::Stuck { silent });
        }
    }

    /// The socket closed: the process has ended, or is about to.
    fn on_closed(&mut self, cx: &mut Context<Self>) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        let pid = running.process.pid();
        self.entry.detach(pid);
        let end = wrap_future::<_, Self>(async move { running.process.stop(EXIT_WITHIN).await });
        cx.spawn(end.map(move |exit, zygote, cx| {
            zygote.incarnation.end(cx, Exit::Process { pid, exit });
        }));
    }
}

async fn boot(spec: ProcessSpec) -> Result<(Running, Frames), ZygoteError> {
    let failed = |source| SpawnError::new(&spec, source);
    let (sender, frames, theirs) = connection::pair::<ZygoteReply>().map_err(failed)?;
    let mut frames = frames.boxed_local();
    let mut process = Process::spawn(&spec, Stdio::from(theirs)).map_err(failed)?;
    match frames.next().await {
        Some(Ok(received)) if received.frame.header == ZygoteReply::Ready => {
            Ok((Running { process, sender }, frames))
        }
        Some(Err(error)) => Err(error.into()),
        _ => Err(ZygoteError::NotReady(process.stop(EXIT_WITHIN).await)),
    }
}

impl Actor for Zygote {
    type Context = Context<Self>;
}

impl Child for Zygote {
    fn start(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let boot = wrap_future::<_, Self>(boot(self.spec.clone()));
        Box::pin(boot.map(|booted, zygote, cx| {
            let (running, frames) = booted.map_err(Exit::error)?;
            zygote.entry.attach(running.process.pid());
            zygote.running = Some(running);
            let frames = wrap_stream::<_, Self>(frames);
            let read = frames
                .map(|frame, zygote, cx| zygote.on_frame(frame, cx))
                .finish();
            cx.spawn(read.map(|(), zygote, cx| zygote.on_closed(cx)));
            Ok(())
        }))
    }

    fn stop(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        let running = self.running.take();
        let entry = Arc::clone(&self.entry);
        Box::pin(wrap_future(async move {
            if let Some(Running {
                mut process,
                sender,
            }) = running
            {
                entry.detach(process.pid());
                // It ends when its control socket closes.
                drop(sender);
                process.stop(EXIT_WITHIN).await;
            }
        }))
    }

    fn observe(&self) -> Value {
        json!({
            "pid": self.running.as_ref().map(|running| running.process.pid()),
            "hosts": self.hosts.keys().collect::<Vec<_>>(),
        })
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            self.entry.detach(running.process.pid());
        }
    }
}

/// Asks for a host.
#[derive(Debug)]
pub(super) struct Fork {
    /// The host's end of the host socket.
    pub(super) socket: OwnedFd,
    /// The host's standard output and error.
    pub(super) log: OwnedFd,
}

/// A host that was forked.
#[derive(Debug)]
pub(super) struct Forked {
    pub(super) process: ProcessRef,
    /// Receives its exit. The sender is dropped when the zygote ends first.
    pub(super) ended: oneshot::Receiver<ProcessExit>,
}

impl Message for Fork {
    /// An error is the reason that the zygote reports.
    type Reply = Result<Forked, String>;
}

impl Handler<Call<Fork>> for Zygote {
    type Result = ();

    fn handle(&mut self, call: Call<Fork>, cx: &mut Context<Self>) {
        let Some((Fork { socket, log }, reply)) = call.accept() else {
            return;
        };
        // Without a process the actor is about to end; the reply is dropped.
        let Some(running) = &self.running else { return };
        self.next_id += 1;
        let id = self.next_id;
        let request = ForkRequest { id };
        match running.sender.send(&request, &[], vec![socket, log]) {
            Ok(()) => {
                self.forking.insert(id, reply);
                let overdue = wrap_future::<_, Self>(sleep_awake(self.fork_deadline));
                cx.spawn(overdue.map(move |(), zygote, cx| zygote.on_overdue(id, cx)));
            }
            Err(error) => self
                .incarnation
                .end(cx, Exit::error(ZygoteError::from(error))),
        }
    }
}
