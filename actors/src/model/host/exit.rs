//! The end of a host process, and how much memory the model's next load must reserve because of it.

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use headroom_model_protocol::FailureKind;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::ModelHost;
use crate::kernel::{Exit, NoticeKind, ProcessExit};
use crate::model::host_process::{EXIT_WITHIN, HostError};
use crate::model::host_state::EndCause;
use crate::model::metrics::{count_crash, count_oom_kill};

impl ModelHost {
    /// A process did not become ready.
    pub(super) fn on_boot_failed(&self, error: &HostError) {
        match error {
            HostError::EndedEarly(exit) if self.is_oom_kill(*exit) => self.on_oom_kill(0),
            HostError::EndedEarly(_) if !self.spec.state.is_killed() => {
                count_crash(&self.spec.model);
            }
            // The reservation was too small.
            HostError::StartFailed(failure) if failure.kind == FailureKind::OutOfMemory => {
                self.require_more(0);
            }
            _ => {}
        }
    }

    /// The socket closed: the process has ended, or is about to.
    pub(super) fn on_closed(&mut self, cx: &mut Context<Self>) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.spec.state.set_not_serving();
        let measured = self.bytes.max(self.spec.context.entry.measured());
        let pid = running.process.pid();
        let begun = Instant::now();
        let exit = async move { running.process.wait_or_kill().await };
        let exit = wrap_future::<_, Self>(exit);
        cx.spawn(exit.map(move |exit, host, cx| {
            // After that time the server has killed it.
            host.spec.on_exit(exit);
            let by_itself = begun.elapsed() < EXIT_WITHIN;
            let by_oom_killer = by_itself && host.is_oom_kill(exit);
            match host.spec.state.set_ended(exit, by_oom_killer) {
                EndCause::OomKill => host.on_oom_kill(measured),
                EndCause::Crash | EndCause::Other => count_crash(&host.spec.model),
                EndCause::Exhausted => {}
            }
            host.incarnation.end(cx, Exit::Process { pid, exit });
        }));
    }

    /// Whether the kernel killed the process because memory had run out.
    fn is_oom_kill(&self, exit: ProcessExit) -> bool {
        let killed = exit == ProcessExit::Signal(Signal::SIGKILL as i32);
        killed && self.spec.runtime.memory.oom_kills() > self.oom_kills
    }

    fn on_oom_kill(&self, measured_bytes: u64) {
        let host = &self.spec.name;
        self.require_more(measured_bytes);
        tracing::error!(
            host,
            measured_bytes,
            "the kernel killed a model's process because memory ran out"
        );
        count_oom_kill(&self.spec.model);
        let kind = NoticeKind::KilledByKernel { measured_bytes };
        self.spec.runtime.memory.notices.publish(host, kind);
    }

    /// The model needs more than the `measured` bytes that it had: the next load reserves more.
    fn require_more(&self, measured: u64) {
        let entry = &self.spec.context.entry;
        let needed = measured.max(entry.reserved()).max(entry.peak());
        let required = needed.saturating_add(needed / 2);
        self.spec.context.feedback.require(required);
    }
}
