//! One model host: the actor that owns the process in which one instance of a model runs.
//!
//! It forwards one request at a time; waiting is the owner's business. It asks the process for a
//! sign of life and ends it when there is none, or when a forward takes longer than the model may.
//! When the process ends, so does the actor, with the process's exit as the reason: the supervisor
//! starts a new one.

mod call;

use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, ActorStreamExt, wrap_future, wrap_stream};
use actix::{Actor, AsyncContext, Context, ResponseActFuture, SpawnHandle};
use headroom_model_protocol::{
    ArenaError, FailureKind, Frame, HostReply, HostRequest, LoadedModel, Start, StartFailureKind,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::config::MemoryDeps;
use super::connection::ConnectionError;
use super::growth::GrowthBound;
use super::heartbeat::Heartbeat;
use super::host_process::{END_WITHIN, Frames, Running, boot, end_in_order};
use super::host_state::{HostState, Trimmed};
use super::infer::InferError;
use super::leak::LeakConfig;
use super::leak_monitor::{LeakMonitor, ReplaceReason};
use super::maintenance::Trims;
use super::zygote::{ForkError, Zygote};
use crate::kernel::process::{ProcessSpec, SpawnError};
use crate::kernel::{
    AskError, Child, Exit, Handle, IncarnationRef, MemoryFeedback, ProcessExit, ReservationEntry,
};

use self::call::Current;
pub(super) use self::call::Forward;

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
    /// How long loading the model may take.
    pub(super) load_deadline: Duration,
    /// How long one forward may take.
    pub(super) forward_deadline: Duration,
    /// Where its memory is counted.
    pub(super) entry: Arc<dyn ReservationEntry>,
    /// Where it is said what the next load must reserve.
    pub(super) feedback: MemoryFeedback,
    /// What it tells of itself.
    pub(super) facts: HostState,
    /// What it has to do with the memory of all.
    pub(super) memory: MemoryDeps,
    /// When it is looked at for leaks.
    pub(super) leak: LeakConfig,
}

/// Where processes come from.
#[derive(Clone)]
pub(super) enum HostSource {
    /// Forked from the zygote.
    Zygote(Handle<Zygote>),
    /// Started alone.
    Spawn(ProcessSpec),
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
    #[error("the process sent {bytes} bytes of outputs, {allowed} were allowed")]
    TooMuchOutput { bytes: u64, allowed: u64 },
    #[error("the process was asked for what it cannot do")]
    OutOfStep,
    #[error("loading took longer than {0:?}")]
    LoadDeadline(Duration),
    #[error("one forward took longer than {0:?}")]
    ForwardDeadline(Duration),
}

/// Owns one host process.
pub(super) struct ModelHost {
    incarnation: IncarnationRef,
    pub(super) spec: HostSpec,
    pub(super) running: Option<Running>,
    /// What reads from the process's socket.
    pub(super) reader: Option<SpawnHandle>,
    pub(super) current: Option<Current>,
    pub(super) next_id: u64,
    heartbeat: Heartbeat,
    pub(super) growth_bound: GrowthBound,
    /// What its process holds that belongs to no file, by the last sign of life.
    bytes: u64,
    pub(super) leak_monitor: LeakMonitor,
    pub(super) trims: Trims,
    /// The kernel's kills before the process began.
    pub(super) oom_kills: Option<u64>,
    /// The model and its version, as metrics name them.
    pub(super) metrics_name: String,
    pub(super) growth: metrics::Gauge,
    /// Time inside the model: what is left of a request's time is ours.
    forward_seconds: metrics::Histogram,
}

impl ModelHost {
    pub(super) fn new(incarnation: IncarnationRef, spec: HostSpec) -> Self {
        let name = format!("{}:{}", spec.start.model, spec.start.version);
        let now = Instant::now();
        let heartbeat = Heartbeat::new(spec.heartbeat_interval, spec.heartbeat_timeout);
        Self {
            forward_seconds: metrics::histogram!("headroom_model_forward_seconds", "name" => name.clone()),
            growth: metrics::gauge!(
                "headroom_model_growth_bytes", "name" => name.clone(), "host" => spec.name.clone()
            ),
            metrics_name: name,
            leak_monitor: LeakMonitor::new(&spec.leak, 0, 0, now),
            trims: Trims::default(),
            oom_kills: None,
            incarnation,
            spec,
            running: None,
            reader: None,
            current: None,
            next_id: 0,
            heartbeat,
            growth_bound: GrowthBound::default(),
            bytes: 0,
        }
    }

    /// Takes in a process that has loaded its model.
    pub(super) fn install(
        &mut self,
        running: Running,
        frames: Frames,
        ready: LoadedModel,
        cx: &mut Context<Self>,
    ) {
        let now = Instant::now();
        let (bytes, held) = (ready.memory.anonymous, self.spec.facts.held());
        self.leak_monitor = LeakMonitor::new(&self.spec.leak, bytes, held, now);
        self.growth_bound = GrowthBound::default();
        self.bytes = bytes;
        self.running = Some(running);
        self.spec.facts.started(ready);
        self.heartbeat.on_sign();
        let frames = wrap_stream::<_, Self>(frames);
        let read = frames
            .map(|frame, host, cx| host.on_frame(frame, cx))
            .finish();
        self.reader = Some(cx.spawn(read.map(|(), host, cx| host.on_closed(cx))));
    }

    /// There is no process: it may have been the kernel's doing.
    pub(super) fn on_boot_failed(&self, error: &HostError) {
        match error {
            HostError::EndedEarly(exit) if self.is_oom_kill(*exit) => self.on_oom_kill(0),
            // What is reserved was too little: the next load reserves more, where there is more.
            HostError::StartFailed {
                kind: StartFailureKind::Memory,
                ..
            } => self.raise_estimate(0),
            _ => {}
        }
    }

    pub(super) fn fail(&self, cx: &mut Context<Self>, error: HostError) {
        self.spec.facts.stopped_serving();
        self.incarnation.end(cx, Exit::error(error));
    }

    fn on_frame(
        &mut self,
        frame: Result<Frame<HostReply>, ConnectionError>,
        cx: &mut Context<Self>,
    ) {
        self.heartbeat.on_sign();
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
                self.forward_seconds.record(forward_us as f64 / 1e6);
                if let Some(current) = self.take_current(id, cx) {
                    self.on_output(current, outputs, payload, forward_us, cx);
                    self.leak_monitor.on_call(Instant::now());
                    self.trim_if_due(cx);
                }
            }
            HostReply::Failed { id, kind, message } => {
                if let Some(current) = self.take_current(id, cx) {
                    let error = match (kind, current.refused) {
                        (FailureKind::InvalidInput, _) => InferError::InvalidInput(message),
                        (FailureKind::Model, _) => InferError::Model(message),
                        (FailureKind::Memory, _) => InferError::OutOfMemory(message),
                        (FailureKind::NoMemory, Some(refused)) => InferError::NoMemory(refused),
                        (
                            FailureKind::NoMemory | FailureKind::Protocol | FailureKind::Internal,
                            _,
                        ) => {
                            tracing::error!(host = self.spec.name, message, "a host failed");
                            InferError::HostLost
                        }
                    };
                    let lost = error == InferError::HostLost;
                    current.reply.send(Err(error));
                    // A bug of its own ends the process by itself; one of ours must, too: whoever
                    // was told that it is lost waits for the next.
                    if lost && kind != FailureKind::Internal {
                        self.fail(cx, HostError::OutOfStep);
                    }
                }
            }
            HostReply::OutputSize { id, bytes } => self.on_output_size(id, bytes, cx),
            HostReply::Pong { anonymous, .. } => {
                self.bytes = anonymous;
                self.leak_monitor.on_sign_of_life(anonymous);
                self.trim_if_due(cx);
            }
            HostReply::Trimmed {
                id,
                before,
                after,
                took_us,
            } => {
                let took = Duration::from_micros(took_us);
                self.on_trimmed(id, Trimmed { before, after }, took);
            }
            HostReply::Ready(_) | HostReply::StartFailed { .. } | HostReply::Done { .. } => {
                tracing::warn!(host = self.spec.name, "a host answered what nobody asked");
            }
        }
    }

    /// The socket closed: the process has ended, or is about to.
    fn on_closed(&mut self, cx: &mut Context<Self>) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        self.spec.facts.stopped_serving();
        let measured = self.bytes.max(self.spec.entry.measured());
        let begun = Instant::now();
        let end = wrap_future::<_, Self>(async move { running.process.end(END_WITHIN).await });
        cx.spawn(end.map(move |exit, host, cx| {
            // After that time it was us who killed it.
            let unasked = begun.elapsed() < END_WITHIN;
            host.on_ended(exit, unasked.then_some(measured));
            host.incarnation.end(cx, Exit::Process(exit));
        }));
    }

    /// Sends a ping, unless too many have had no answer. Comes back after an interval, once however
    /// long that has really been.
    fn beat(&mut self, cx: &mut Context<Self>) {
        cx.run_later(self.spec.heartbeat_interval, Self::beat);
        if self.running.is_none() {
            return;
        }
        if let Some(silent) = self.heartbeat.on_beat() {
            self.spec.facts.stopped_serving();
            return self.incarnation.end(cx, Exit::Stuck { silent });
        }
        let n = self.next_id;
        self.send(&HostRequest::Ping { n }, cx);
        self.bound_growth(cx);
    }

    /// Sends a request without a payload. There is nothing to send to between two processes.
    pub(super) fn send(&self, request: &HostRequest, cx: &mut Context<Self>) {
        if let Some(running) = &self.running
            && let Err(error) = running.sender.send(request, &[])
        {
            self.fail(cx, error.into());
        }
    }
}

impl Actor for ModelHost {
    type Context = Context<Self>;
}

impl Child for ModelHost {
    fn start(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        self.oom_kills = self.spec.memory.oom_kills();
        let boot = wrap_future::<_, Self>(boot(self.spec.clone()));
        Box::pin(boot.map(|booted, host, cx| {
            let (running, frames, ready) = booted.map_err(|error| {
                host.on_boot_failed(&error);
                Exit::error(error)
            })?;
            host.install(running, frames, ready, cx);
            host.hear_trims(cx);
            cx.run_later(host.spec.heartbeat_interval, Self::beat);
            Ok(())
        }))
    }

    fn stop(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        self.spec.facts.stopped_serving();
        let (running, facts) = (self.running.take(), self.spec.facts.clone());
        Box::pin(wrap_future(async move {
            let Some(running) = running else { return };
            let pid = running.process.pid();
            end_in_order(Some(running)).await;
            facts.forget(pid);
        }))
    }

    fn observe(&self) -> Value {
        json!({
            "pid": self.running.as_ref().map(|running| running.process.pid()),
            "busy": self.current.is_some(),
            "bytes": self.bytes,
            "growth_bytes": self.leak_monitor.growth(),
            "misbehaves": self.spec.facts.replace_reason().map(ReplaceReason::label),
        })
    }
}

impl Drop for ModelHost {
    fn drop(&mut self) {
        self.spec.facts.stopped_serving();
        if let Some(running) = &self.running {
            self.spec.facts.forget(running.process.pid());
        }
    }
}
