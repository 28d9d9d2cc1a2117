//! Replaces a host process that leaks or is overgrown.
//!
//! The host actor only records that its process must be replaced. The owner asks for the replacement when
//! the process has no request.

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context, Handler};

use super::ModelHost;
use crate::kernel::{Call, Message, NoticeKind, Reply};
use crate::model::host_process::boot;
use crate::model::memory_monitor::ReplaceReason;
use crate::model::metrics::{count_leak, count_past_estimate, count_recycle};

impl ModelHost {
    /// Records and reports a reason once, and a leak also after another reason.
    pub(super) fn request_replacement(&self, reason: ReplaceReason) {
        let earlier = self.spec.state.replace_reason();
        let earlier = earlier.map(ReplaceReason::label);
        if earlier == Some(reason.label()) || earlier == Some("leak") {
            return;
        }
        self.spec.state.request_replacement(reason);
        let feedback = &self.spec.context.feedback;
        feedback.set_suspect(true);
        let (host, model) = (&self.spec.name, &self.spec.model);
        match reason {
            ReplaceReason::Leak(leak) => {
                count_leak(model);
                let (from_bytes, to_bytes, calls) = (leak.from_bytes, leak.to_bytes, leak.calls);
                tracing::warn!(host, from_bytes, to_bytes, calls, "a model leaks memory");
            }
            ReplaceReason::Overgrown { expected, bytes } => {
                count_past_estimate(model);
                tracing::warn!(
                    host,
                    expected,
                    bytes,
                    "a model uses far more memory than expected"
                );
                feedback.require(self.spec.context.entry.peak().max(bytes));
            }
        }
        self.spec
            .runtime
            .memory
            .notices
            .publish(host, reason.into());
    }

    /// Stops the process and starts another one. The actor does not end, so that the supervisor does
    /// not count a restart.
    fn replace(&mut self, reply: Reply<ReplaceProcess>, cx: &mut Context<Self>) {
        // A dropped reply means that nothing was replaced.
        if self.current.is_some() {
            return;
        }
        let Some(running) = self.running.take() else {
            return;
        };
        if let Some(reader) = self.reader.take() {
            cx.cancel_future(reader);
        }
        self.spec.state.set_not_serving();
        let before = self.trims.forget_process();
        let reason = self.spec.state.replace_reason().map(ReplaceReason::label);
        let spec = self.spec.clone();
        self.oom_kills = spec.runtime.memory.oom_kills();
        let replaced = async move {
            running.stop().await;
            // The ledger still counts the old process's memory, which would limit the new process.
            spec.runtime.memory.answers.read_memory().await;
            boot(spec).await
        };
        cx.spawn(
            wrap_future::<_, Self>(replaced).map(move |booted, host, cx| match booted {
                Ok((running, frames, loaded)) => {
                    let after = loaded.memory.anonymous;
                    host.install(running, frames, loaded, cx);
                    host.on_replaced(reason.unwrap_or("request"), before, after);
                    reply.send(());
                }
                // The owner learns of it from the dropped reply, the supervisor from the exit.
                Err(error) => {
                    host.on_boot_failed(&error);
                    host.fail(cx, error);
                }
            }),
        );
    }

    fn on_replaced(&self, reason: &'static str, before_bytes: u64, after_bytes: u64) {
        self.spec.context.feedback.set_suspect(false);
        let host = &self.spec.name;
        tracing::info!(
            host,
            reason,
            before_bytes,
            after_bytes,
            "a model's process was replaced"
        );
        count_recycle(&self.spec.model, reason);
        let kind = NoticeKind::Replaced {
            before_bytes,
            after_bytes,
        };
        self.spec.runtime.memory.notices.publish(host, kind);
    }
}

/// Replaces the process. The reply is dropped when there is no process, or when the new process
/// does not become ready.
#[derive(Debug)]
pub(in crate::model) struct ReplaceProcess;

impl Message for ReplaceProcess {
    type Reply = ();
}

impl Handler<Call<ReplaceProcess>> for ModelHost {
    type Result = ();

    fn handle(&mut self, call: Call<ReplaceProcess>, cx: &mut Context<Self>) {
        if let Some((ReplaceProcess, reply)) = call.accept() {
            self.replace(reply, cx);
        }
    }
}
