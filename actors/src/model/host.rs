//! One model host: the actor that owns the process in which one instance of a model runs.
//!
//! It forwards one request at a time; waiting is the owner's business. It asks the process for a
//! sign of life and ends it when there is none, or when a forward takes longer than the model may.
//! When the process ends, so does the actor, with the process's exit as the reason: the supervisor
//! starts a new one.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::fut::{ActorFutureExt, ActorStreamExt, wrap_future, wrap_stream};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};
use futures_util::stream::{LocalBoxStream, StreamExt};
use headroom_model_protocol::{
    ArenaError, ArenaReader, ArenaWriter, FailureKind, Frame, HostReply, HostRequest, Infer, Input,
    Memory, Ready, Start, StartFailureKind, TensorMeta, TensorReader, TensorWriter,
};
use serde_json::{Value, json};
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use super::connection::{self, ConnectionError, Sender};
use super::infer::{BoundInput, BoundRequest, InferError, InferOutput, Tensor};
use super::zygote::{Fork, ForkError, Forked, Zygote};
use crate::kernel::process::{LastLines, Process, ProcessSpec, SpawnError, log_lines};
use crate::kernel::{
    AskError, Call, Child, Entry, Exit, Handle, Life, Message, ProcessExit, Reply,
};

/// After its socket closed, or after it was asked to stop, how long a host may take to end.
const END_WITHIN: Duration = Duration::from_secs(2);

/// How long a fork may take, waiting for a restarting zygote included. A zygote that is found stuck
/// by this very fork adds the time that finding it takes.
const FORK_WITHIN: Duration = Duration::from_secs(15);

/// Tensors up to this size are copied on the actor's thread; a larger copy would hold up others.
const COPY_INLINE_MAX: u64 = 256 * 1024;

/// What all incarnations of one host share.
#[derive(Clone)]
pub(super) struct HostSpec {
    /// What the process is told first.
    pub(super) start: Start,
    /// For logs and the process title.
    pub(super) name: String,
    /// How to get a process.
    pub(super) source: HostSource,
    /// How often the process is asked for a sign of life.
    pub(super) heartbeat_interval: Duration,
    /// How much silence ends it.
    pub(super) heartbeat_timeout: Duration,
    /// How long one forward may take.
    pub(super) forward_deadline: Duration,
    /// Where its memory is counted.
    pub(super) entry: Arc<dyn Entry>,
    /// What it tells of itself.
    pub(super) facts: Facts,
}

/// Where processes come from.
#[derive(Clone)]
pub(super) enum HostSource {
    /// Forked from the zygote.
    Zygote(Handle<Zygote>),
    /// Started alone.
    Spawn(ProcessSpec),
}

/// What a host tells, for its owner and for the model's metadata. Outlives the processes.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    ready: Arc<watch::Sender<Option<Arc<Ready>>>>,
    last_exit: Arc<Mutex<Option<ProcessExit>>>,
}

impl Facts {
    pub(super) fn new() -> Self {
        Self {
            ready: Arc::new(watch::Sender::new(None)),
            last_exit: Arc::default(),
        }
    }

    /// What the last process said when it was ready.
    pub(super) fn ready(&self) -> Option<Arc<Ready>> {
        self.ready.borrow().clone()
    }

    /// How the last process that ended did so.
    pub(super) fn last_exit(&self) -> Option<ProcessExit> {
        *self
            .last_exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, exit: ProcessExit) {
        *self
            .last_exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(exit);
    }
}

/// Why a host did not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostError {
    #[error("cannot prepare a process: {0}")]
    Prepare(#[from] std::io::Error),
    #[error("there is no process")]
    Spawn(#[from] SpawnError),
    #[error("the zygote is not there: {0}")]
    NoZygote(AskError),
    #[error(transparent)]
    Fork(#[from] ForkError),
    #[error("{message}")]
    StartFailed {
        kind: StartFailureKind,
        message: String,
    },
    #[error("the process ended while it loaded the model: {0}")]
    EndedEarly(ProcessExit),
    #[error("the conversation with the process broke")]
    Connection(#[from] ConnectionError),
    #[error("the process sent tensors that cannot be")]
    BadTensor(#[source] ArenaError),
    #[error("one forward took longer than {0:?}")]
    ForwardDeadline(Duration),
}

/// A process of ours, however it came to be. Dropping it kills it.
enum HostProcess {
    Forked {
        pid: i32,
        ended: oneshot::Receiver<ProcessExit>,
        exit: Option<ProcessExit>,
    },
    Spawned(Process),
}

impl HostProcess {
    fn pid(&self) -> i32 {
        match self {
            Self::Forked { pid, .. } => *pid,
            Self::Spawned(process) => process.pid(),
        }
    }

    /// Waits for its end; when that takes too long, kills it and waits again.
    async fn end(&mut self, within: Duration) -> ProcessExit {
        match self {
            Self::Spawned(process) => process.stop(within).await,
            Self::Forked {
                exit: Some(exit), ..
            } => *exit,
            Self::Forked { pid, ended, exit } => {
                let told = match timeout(within, &mut *ended).await {
                    Ok(told) => told,
                    Err(_) => {
                        kill(*pid);
                        let patience = timeout(within, ended).await;
                        patience.unwrap_or(Ok(ProcessExit::Unknown))
                    }
                };
                // Without a word from the zygote, the zygote died, and all its hosts with it.
                *exit.insert(told.unwrap_or(ProcessExit::Unknown))
            }
        }
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        if let Self::Forked {
            pid,
            ended,
            exit: None,
        } = self
            && ended.try_recv() == Err(oneshot::error::TryRecvError::Empty)
        {
            // Not reaped yet, so the number still means our process.
            kill(*pid);
        }
    }
}

/// Kills a forked host with all that it may have started.
fn kill(pid: i32) {
    use nix::sys::signal::{Signal, kill, killpg};
    let pid = nix::unistd::Pid::from_raw(pid);
    // Each fails only when there is nothing left to kill.
    killpg(pid, Signal::SIGKILL).ok();
    kill(pid, Signal::SIGKILL).ok();
}

type Frames = LocalBoxStream<'static, Result<Frame<HostReply>, ConnectionError>>;

/// Owns one host process.
pub(super) struct ModelHost {
    life: Life,
    spec: HostSpec,
    running: Option<Running>,
    /// The request in the process, and its number.
    current: Option<(u64, Reply<Forward>)>,
    next_id: u64,
    last_sign: Instant,
    memory: Memory,
}

struct Running {
    process: HostProcess,
    sender: Sender,
    /// Absent while a request is being written.
    requests: Option<ArenaWriter>,
    replies: Arc<ArenaReader>,
}

impl ModelHost {
    pub(super) fn new(life: Life, spec: HostSpec) -> Self {
        Self {
            life,
            spec,
            running: None,
            current: None,
            next_id: 0,
            last_sign: Instant::now(),
            memory: Memory::default(),
        }
    }

    fn fail(&self, cx: &mut Context<Self>, error: HostError) {
        self.life.end(cx, Exit::error(error));
    }

    fn on_frame(
        &mut self,
        frame: Result<Frame<HostReply>, ConnectionError>,
        cx: &mut Context<Self>,
    ) {
        self.last_sign = Instant::now();
        let Frame { header, payload } = match frame {
            Ok(frame) => frame,
            Err(error) => return self.fail(cx, error.into()),
        };
        match header {
            HostReply::Output {
                id,
                outputs,
                forward_us,
            } => {
                if let Some(reply) = self.take_current(id) {
                    self.on_output(reply, outputs, payload, forward_us, cx);
                }
            }
            HostReply::Failed { id, kind, message } => {
                if let Some(reply) = self.take_current(id) {
                    reply.send(Err(match kind {
                        FailureKind::InvalidInput => InferError::InvalidInput(message),
                        FailureKind::Model => InferError::Model(message),
                        FailureKind::Protocol | FailureKind::Internal => {
                            tracing::error!(host = self.spec.name, message, "a host failed");
                            InferError::HostLost
                        }
                    }));
                }
            }
            HostReply::Pong { memory, .. } => self.memory = memory,
            HostReply::Ready(_)
            | HostReply::StartFailed { .. }
            | HostReply::Done { .. }
            | HostReply::Trimmed { .. } => {
                tracing::warn!(host = self.spec.name, "a host answered what nobody asked");
            }
        }
    }

    fn take_current(&mut self, id: u64) -> Option<Reply<Forward>> {
        self.current
            .take_if(|(current, _)| *current == id)
            .map(|(_, reply)| reply)
    }

    fn on_output(
        &mut self,
        reply: Reply<Forward>,
        outputs: Vec<TensorMeta>,
        payload: Vec<u8>,
        forward_us: u64,
        cx: &mut Context<Self>,
    ) {
        let Some(running) = &self.running else { return };
        let replies = Arc::clone(&running.replies);
        let large = outputs.iter().map(|tensor| tensor.place.len()).sum::<u64>() > COPY_INLINE_MAX;
        let read = copy(large, move || read_outputs(&outputs, &payload, &replies));
        cx.spawn(
            wrap_future::<_, Self>(read).map(move |read, host, cx| match read {
                Ok(outputs) => reply.send(Ok(InferOutput {
                    outputs,
                    forward_us,
                })),
                Err(error) => {
                    drop(reply);
                    host.fail(cx, HostError::BadTensor(error));
                }
            }),
        );
    }

    /// The socket closed: the process has ended, or is about to.
    fn on_closed(&mut self, cx: &mut Context<Self>) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        self.spec.entry.detach(running.process.pid());
        let end = wrap_future::<_, Self>(async move { running.process.end(END_WITHIN).await });
        cx.spawn(end.map(|exit, host, cx| {
            host.spec.facts.ended(exit);
            host.life.end(cx, Exit::Process(exit));
        }));
    }

    fn beat(&mut self, cx: &mut Context<Self>) {
        let silent = self.last_sign.elapsed();
        if silent > self.spec.heartbeat_timeout {
            self.spec.facts.ended(ProcessExit::Unknown);
            return self.life.end(cx, Exit::Stuck { silent });
        }
        let Some(running) = &self.running else { return };
        if let Err(error) = running
            .sender
            .send(&HostRequest::Ping { n: self.next_id }, &[])
        {
            self.fail(cx, error.into());
        }
    }

    fn forward(
        &mut self,
        request: Arc<BoundRequest>,
        reply: Reply<Forward>,
        cx: &mut Context<Self>,
    ) {
        let Some(running) = &mut self.running else {
            return;
        };
        // The handle admits one call at a time, so the arena is there.
        let Some(requests) = running.requests.take() else {
            return;
        };
        self.next_id += 1;
        let id = self.next_id;
        self.current = Some((id, reply));
        let size: usize = request.inputs.iter().map(BoundInput::size).sum();
        let written = copy(size as u64 > COPY_INLINE_MAX, move || {
            write_request(id, &request, requests)
        });
        cx.spawn(
            wrap_future::<_, Self>(written).map(|(requests, frame), host, cx| {
                let Some(running) = &mut host.running else {
                    return;
                };
                running.requests = Some(requests);
                let sent = frame
                    .map_err(HostError::BadTensor)
                    .and_then(|(header, payload)| {
                        running
                            .sender
                            .send(&header, &payload)
                            .map_err(HostError::from)
                    });
                if let Err(error) = sent {
                    host.fail(cx, error);
                }
            }),
        );
        let deadline = self.spec.forward_deadline;
        cx.run_later(deadline, move |host, cx| {
            if let Some(reply) = host.take_current(id) {
                let limit = humantime::format_duration(deadline).to_string();
                reply.send(Err(InferError::Deadline(limit)));
                host.fail(cx, HostError::ForwardDeadline(deadline));
            }
        });
    }
}

/// Runs a copy here when it is small, else on a thread that may be held up.
async fn copy<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> T {
    if !large {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The work does not panic, and the runtime is not shut down under a running actor.
        Err(_) => std::future::pending().await,
    }
}

type WrittenRequest = Result<(HostRequest, Vec<u8>), ArenaError>;

fn write_request(
    id: u64,
    request: &BoundRequest,
    mut arena: ArenaWriter,
) -> (ArenaWriter, WrittenRequest) {
    let mut writer = TensorWriter::new(&mut arena);
    let mut put = |input: &BoundInput| match input {
        BoundInput::Scalar { name, value } => Ok(Input::Scalar {
            name: name.clone(),
            value: *value,
        }),
        BoundInput::Tensor(tensor) => Ok(Input::Tensor(TensorMeta {
            name: tensor.name.clone(),
            datatype: tensor.datatype,
            shape: tensor.shape.clone(),
            place: writer.put(&tensor.data)?,
        })),
    };
    let inputs: Result<Vec<Input>, ArenaError> = request.inputs.iter().map(&mut put).collect();
    let payload = writer.into_payload();
    let written = inputs.map(|inputs| {
        let infer = Infer {
            id,
            inputs,
            wanted: request.wanted.clone(),
            reset_before: request.reset_before,
        };
        (HostRequest::Infer(infer), payload)
    });
    (arena, written)
}

fn read_outputs(
    metas: &[TensorMeta],
    payload: &[u8],
    replies: &ArenaReader,
) -> Result<Vec<Tensor>, ArenaError> {
    let reader = TensorReader::new(payload, replies);
    let read = |meta: &TensorMeta| {
        Ok(Tensor {
            name: meta.name.clone(),
            datatype: meta.datatype,
            shape: meta.shape.clone(),
            data: reader.read(meta)?.into(),
        })
    };
    let outputs = metas.iter().map(read).collect::<Result<_, ArenaError>>()?;
    replies.release()?;
    Ok(outputs)
}

impl BoundInput {
    fn size(&self) -> usize {
        match self {
            Self::Tensor(tensor) => tensor.data.len(),
            Self::Scalar { .. } => 0,
        }
    }
}

/// Gets a process, has it load the model, and waits until it is ready.
async fn boot(spec: HostSpec) -> Result<(Running, Frames, Ready), HostError> {
    let (sender, frames, theirs) = connection::pair::<HostReply>()?;
    let mut frames = frames.boxed_local();
    let requests = ArenaWriter::create("headroom-requests")?;
    let replies = ArenaReader::create("headroom-replies")?;
    let mut process = create(&spec, theirs).await?;
    // Counted from its first byte on, so that a load shows in the budget while it happens.
    spec.entry.attach(process.pid());
    let arenas = vec![owned(&requests)?, owned(&replies)?];
    let begun = sender.send_with(&HostRequest::Start(spec.start.clone()), &[], arenas);
    let ready = match begun {
        Ok(()) => first_word(&mut frames, &mut process).await,
        Err(error) => Err(error.into()),
    };
    match ready {
        Ok(ready) => {
            let replies = Arc::new(replies);
            Ok((
                Running {
                    process,
                    sender,
                    requests: Some(requests),
                    replies,
                },
                frames,
                ready,
            ))
        }
        Err(error) => {
            spec.entry.detach(process.pid());
            drop(sender);
            process.end(END_WITHIN).await;
            Err(error)
        }
    }
}

fn owned(arena: &impl AsFd) -> std::io::Result<OwnedFd> {
    arena.as_fd().try_clone_to_owned()
}

async fn first_word(frames: &mut Frames, process: &mut HostProcess) -> Result<Ready, HostError> {
    loop {
        match frames.next().await {
            Some(Ok(frame)) => match frame.header {
                HostReply::Ready(ready) => return Ok(ready),
                HostReply::StartFailed { kind, message } => {
                    return Err(HostError::StartFailed { kind, message });
                }
                _ => {}
            },
            Some(Err(error)) => return Err(error.into()),
            None => return Err(HostError::EndedEarly(process.end(END_WITHIN).await)),
        }
    }
}

async fn create(spec: &HostSpec, socket: OwnedFd) -> Result<HostProcess, HostError> {
    match &spec.source {
        HostSource::Spawn(process) => {
            let spawned = Process::spawn(process, socket.into());
            let process = spawned.map_err(|source| SpawnError::new(process, source))?;
            Ok(HostProcess::Spawned(process))
        }
        HostSource::Zygote(zygote) => {
            let (log, log_end) = std::io::pipe()?;
            let log = pipe::Receiver::from_owned_fd(log.into())?;
            let within = FORK_WITHIN.saturating_add(spec.heartbeat_timeout);
            let forked = fork(zygote, &spec.name, &socket, &log_end.into(), within).await?;
            let lines = LastLines::default();
            actix_rt::spawn(log_lines(spec.name.clone(), forked.pid, lines, log));
            Ok(HostProcess::Forked {
                pid: forked.pid,
                ended: forked.ended,
                exit: None,
            })
        }
    }
}

/// Asks for a fork until a zygote has answered: one that is dead, or dies of this request, is
/// replaced by its supervisor, and what it may have forked has died with it.
async fn fork(
    zygote: &Handle<Zygote>,
    name: &str,
    socket: &OwnedFd,
    log: &OwnedFd,
    within: Duration,
) -> Result<Forked, HostError> {
    let deadline = Instant::now() + within;
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut runs = zygote.running(left()).await;
    while runs {
        let fork = Fork {
            name: name.to_owned(),
            socket: socket.try_clone()?,
            log: log.try_clone()?,
        };
        match zygote.ask(fork, left()).await {
            Ok(forked) => return Ok(forked?),
            Err(AskError::Restarting { .. } | AskError::Lost) => {
                runs = zygote.restarted(left()).await;
            }
            Err(error) => return Err(HostError::NoZygote(error)),
        }
    }
    Err(HostError::NoZygote(AskError::TimedOut))
}

impl Actor for ModelHost {
    type Context = Context<Self>;
}

impl Child for ModelHost {
    fn start(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let boot = wrap_future::<_, Self>(boot(self.spec.clone()));
        Box::pin(boot.map(|booted, host, cx| {
            let (running, frames, ready) = booted.map_err(Exit::error)?;
            host.memory = ready.memory;
            host.spec.facts.ready.send_replace(Some(Arc::new(ready)));
            host.running = Some(running);
            host.last_sign = Instant::now();
            let frames = wrap_stream::<_, Self>(frames);
            let read = frames
                .map(|frame, host, cx| host.on_frame(frame, cx))
                .finish();
            cx.spawn(read.map(|(), host, cx| host.on_closed(cx)));
            cx.run_interval(host.spec.heartbeat_interval, Self::beat);
            Ok(())
        }))
    }

    fn stop(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        let running = self.running.take();
        let entry = Arc::clone(&self.spec.entry);
        Box::pin(wrap_future(end_in_order(running, entry)))
    }

    fn observe(&self) -> Value {
        json!({
            "pid": self.running.as_ref().map(|running| running.process.pid()),
            "busy": self.current.is_some(),
            "pss_bytes": self.memory.pss,
            "rss_bytes": self.memory.rss,
        })
    }
}

async fn end_in_order(running: Option<Running>, entry: Arc<dyn Entry>) {
    if let Some(Running {
        mut process,
        sender,
        ..
    }) = running
    {
        // It also ends when the socket closes, whether or not it reads this.
        sender.send(&HostRequest::Stop, &[]).ok();
        let pid = process.pid();
        process.end(END_WITHIN).await;
        entry.detach(pid);
    }
}

impl Drop for ModelHost {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            self.spec.entry.detach(running.process.pid());
        }
    }
}

/// Runs one request through the process. Its handle admits one at a time.
#[derive(Debug)]
pub(super) struct Forward(pub(super) Arc<BoundRequest>);

impl Message for Forward {
    type Reply = Result<InferOutput, InferError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

impl Handler<Call<Forward>> for ModelHost {
    type Result = ();

    fn handle(&mut self, call: Call<Forward>, cx: &mut Context<Self>) {
        if let Some((Forward(request), reply)) = call.accept() {
            self.forward(request, reply, cx);
        }
    }
}
