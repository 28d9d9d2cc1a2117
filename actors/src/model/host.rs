//! The host actor: it owns a host, the process in which one instance of a model runs.
//!
//! It forwards one request at a time; the model's owner queues the others. It pings the process, and
//! ends it when it does not answer or when a forward takes too long. When the process ends, the
//! actor ends with the process's exit as the reason, and the supervisor starts a new actor.
//!
//! [`call`] passes one request to the process, [`growth`] limits the process's memory, [`trim`]
//! trims and measures it, [`replacement`] replaces it, [`exit`] handles its end.

mod call;
mod exit;
mod growth;
mod replacement;
mod trim;

use actix::fut::{ActorFutureExt, ActorStreamExt, ready, wrap_future, wrap_stream};
use actix::{Actor, AsyncContext, Context, ResponseActFuture, SpawnHandle};
use headroom_model_protocol::{
    Failure, FailureKind, Frame, HostReply, HostRequest, LoadedModel, Sandbox, SandboxState,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::call::Current;
pub(super) use self::call::Forward;
use self::growth::GrowthBound;
pub(super) use self::replacement::ReplaceProcess;
use self::trim::Trims;
use super::connection::ConnectionError;
use super::heartbeat::Heartbeat;
use super::host_process::{Frames, HostError, HostSpec, Running, boot};
use super::infer::InferError;
use super::memory_monitor::{MemoryMonitor, ReplaceReason};
use super::metrics::{FORWARD, SandboxGauge, SharedGauge, start_at_zero};
use crate::kernel::{Child, Exit, IncarnationRef};

/// Owns one host process.
pub(super) struct ModelHost {
    incarnation: IncarnationRef,
    spec: HostSpec,
    running: Option<Running>,
    /// Reads the process's socket.
    reader: Option<SpawnHandle>,
    current: Option<Current>,
    next_id: u64,
    heartbeat: Heartbeat,
    growth_bound: GrowthBound,
    monitor: MemoryMonitor,
    trims: Trims,
    /// Bytes of the process that belong to no file, as it measured them last.
    bytes: u64,
    /// The kernel's count of OOM kills before the process began.
    oom_kills: Option<u64>,
    growth_gauge: SharedGauge,
    /// How the process is confined.
    sandbox: Sandbox,
    sandbox_gauge: SandboxGauge,
    forward_seconds: metrics::Histogram,
}

impl ModelHost {
    pub(super) fn new(incarnation: IncarnationRef, spec: HostSpec) -> Self {
        let heartbeat = Heartbeat::new(
            spec.runtime.config.heartbeat_interval,
            spec.runtime.config.heartbeat_timeout,
        );
        start_at_zero(&spec.model);
        Self {
            forward_seconds: metrics::histogram!(FORWARD.name, "name" => spec.model.clone()),
            growth_gauge: SharedGauge::growth(&spec.model, spec.host_name()),
            sandbox: Sandbox::default(),
            sandbox_gauge: SandboxGauge::new(&spec.model),
            monitor: MemoryMonitor::new(&spec.runtime.config.leak, 0, 0, Instant::now()),
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

    /// Takes a process that has loaded its model.
    fn install(
        &mut self,
        running: Running,
        frames: Frames,
        loaded: LoadedModel,
        cx: &mut Context<Self>,
    ) {
        let (bytes, expected) = (loaded.memory.anonymous, self.spec.state.overgrown_to());
        self.monitor = MemoryMonitor::new(
            &self.spec.runtime.config.leak,
            bytes,
            expected,
            Instant::now(),
        );
        self.growth_gauge.set(0);
        self.growth_bound = GrowthBound::default();
        self.set_measured(bytes);
        self.set_sandbox(running.sandbox.clone());
        self.running = Some(running);
        self.spec.state.set_ready(loaded);
        self.heartbeat.restart();
        let frames = wrap_stream::<_, Self>(frames);
        let read = frames
            .map(|frame, host, cx| host.on_frame(frame, cx))
            // What follows a fault is not read.
            .take_while(|goes_on, _, _| ready(*goes_on))
            .finish();
        self.reader = Some(cx.spawn(read.map(|(), host, cx| host.on_closed(cx))));
    }

    fn set_sandbox(&mut self, sandbox: Sandbox) {
        let host = &self.spec.name;
        let Sandbox {
            landlock_abi,
            seccomp,
            user,
            ref missing,
            ..
        } = sandbox;
        match sandbox.state {
            SandboxState::Partial => {
                let missing = missing.join("; ");
                tracing::warn!(
                    host,
                    landlock_abi,
                    seccomp,
                    user,
                    missing,
                    "a model runs in a partial sandbox"
                );
            }
            SandboxState::Full => {
                tracing::debug!(
                    host,
                    landlock_abi,
                    seccomp,
                    user,
                    "a model runs in its sandbox"
                );
            }
            SandboxState::Off => tracing::debug!(host, user, "a model runs without a sandbox"),
        }
        self.sandbox_gauge.set(sandbox.state);
        self.sandbox = sandbox;
    }

    fn set_measured(&mut self, bytes: u64) {
        self.bytes = bytes;
        self.spec.state.set_measured(bytes, self.monitor.growth());
    }

    /// Kills the process and ends the actor.
    fn fail(&mut self, cx: &mut Context<Self>, error: HostError) {
        self.spec.state.set_not_serving();
        self.running = None;
        self.incarnation.end(cx, Exit::error(error));
    }

    /// Returns whether to read on.
    fn on_frame(
        &mut self,
        frame: Result<Frame<HostReply>, ConnectionError>,
        cx: &mut Context<Self>,
    ) -> bool {
        // The process is being replaced.
        if self.running.is_none() {
            return false;
        }
        let taken = frame.map_err(HostError::from);
        let taken = taken.and_then(|frame| self.take(frame, cx));
        taken.map_err(|error| self.fail(cx, error)).is_ok()
    }

    /// Takes a reply. Fails at one that a process of ours would not send.
    fn take(
        &mut self,
        Frame { header, payload }: Frame<HostReply>,
        cx: &mut Context<Self>,
    ) -> Result<(), HostError> {
        if !payload.is_empty() && !matches!(header, HostReply::Output { .. }) {
            return Err(HostError::Unexpected("bytes beside a message"));
        }
        match header {
            HostReply::Output {
                id,
                outputs,
                input_us,
                forward_us,
            } => {
                let current = self.answered(id, cx)?;
                self.forward_seconds.record(forward_us as f64 / 1e6);
                self.on_output(current, outputs, payload, (input_us, forward_us), cx)?;
                self.monitor.on_call(Instant::now());
                self.trim_if_due(cx);
            }
            HostReply::Failed { id, failure } => {
                let current = self.answered(id, cx)?;
                Self::on_failed(current, failure)?;
            }
            HostReply::OutputSize { id, bytes } => self.on_output_size(id, bytes, cx)?,
            HostReply::Pong { anonymous } => {
                self.heartbeat.on_pong()?;
                let anonymous = self.credible(anonymous);
                self.monitor.on_pong(anonymous);
                self.set_measured(anonymous);
                self.trim_if_due(cx);
            }
            HostReply::Trimmed(trimmed) => self.on_trimmed(trimmed)?,
            HostReply::Denied { action, count } => {
                self.heartbeat.on_report()?;
                self.spec.on_denied(action, count);
            }
            HostReply::Confined(_)
            | HostReply::Ready(_)
            | HostReply::StartFailed(_)
            | HostReply::Described(_) => {
                return Err(HostError::Unexpected("the result of a load"));
            }
        }
        Ok(())
    }

    /// What the server believes of the memory that the process reports: no more than it sees, or allows.
    fn credible(&self, reported: u64) -> u64 {
        let entry = &self.spec.context.entry;
        let running = self.running.as_ref();
        let allowed = running.map_or(0, |running| entry.usage_max(running.process.pid()));
        reported.min(allowed.max(entry.measured()))
    }

    fn on_failed(current: Current, failure: Failure) -> Result<(), HostError> {
        let Failure { kind, message } = failure;
        let error = match (kind, current.outputs) {
            (FailureKind::InvalidInput, _) => InferError::InvalidInput(message),
            (FailureKind::OutOfMemory, _) => InferError::OutOfMemory(message),
            (FailureKind::OutputsDropped, Some(Err(refused))) => InferError::NoMemory(refused),
            // The caller learns of it when its reply is dropped.
            (FailureKind::OutputsDropped, _) => return Err(HostError::DroppedOutputs),
            _ => InferError::Model(message),
        };
        current.reply.send(Err(error));
        Ok(())
    }

    /// Pings the process, unless too many pings have no reply. Runs again after an interval, which
    /// may have taken longer than planned.
    fn beat(&mut self, cx: &mut Context<Self>) {
        cx.run_later(self.spec.runtime.config.heartbeat_interval, Self::beat);
        if self.running.is_none() {
            return;
        }
        if let Some(silent) = self.heartbeat.before_ping() {
            self.spec.state.set_not_serving();
            return self.incarnation.end(cx, Exit::Stuck { silent });
        }
        self.send(&HostRequest::Ping, &[], cx);
        self.bound_growth(cx);
    }

    /// Sends a request. Does nothing between two processes.
    fn send(&mut self, request: &HostRequest, payload: &[u8], cx: &mut Context<Self>) {
        if let Some(running) = &self.running
            && let Err(error) = running.sender.send(request, payload, Vec::new())
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
        self.oom_kills = self.spec.runtime.memory.oom_kills();
        let boot = wrap_future::<_, Self>(boot(self.spec.clone()));
        Box::pin(boot.map(|booted, host, cx| {
            let (running, frames, loaded) = booted.map_err(|error| {
                host.on_boot_failed(&error);
                Exit::error(error)
            })?;
            host.install(running, frames, loaded, cx);
            host.follow_pressure(cx);
            cx.run_later(host.spec.runtime.config.heartbeat_interval, Self::beat);
            Ok(())
        }))
    }

    fn stop(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        self.spec.state.set_not_serving();
        let running = self.running.take();
        Box::pin(wrap_future(async move {
            if let Some(running) = running {
                running.stop().await;
            }
        }))
    }

    fn observe(&self) -> Value {
        json!({
            "pid": self.running.as_ref().map(|running| running.process.pid()),
            "busy": self.current.is_some(),
            "bytes": self.bytes,
            "growth_bytes": self.monitor.growth(),
            "sandbox": self.running.as_ref().map(|_| &self.sandbox),
            "misbehaves": self.spec.state.replace_reason().map(ReplaceReason::label),
        })
    }
}

impl Drop for ModelHost {
    fn drop(&mut self) {
        self.spec.state.set_not_serving();
    }
}
