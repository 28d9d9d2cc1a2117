//! Trims and measures a host process: when the monitor, the owner of the memory or the pressure asks
//! for it.

use std::time::Duration;

use actix::fut::{ActorStreamExt, wrap_future, wrap_stream};
use actix::{AsyncContext, Context};
use futures_util::stream;
use headroom_model_protocol::{HostRequest, Trimmed};
use tokio::time::Instant;

use super::ModelHost;
use crate::kernel::pressure::{Action, Stage, Subscription};
use crate::model::host_state::{HostState, TrimReply};

/// How long a clean-up waits for a host that runs a call. The trim follows that call, and the next
/// reading of memory shows its effect.
const CLEAN_UP_WAIT: Duration = Duration::from_millis(250);

/// The trims of one host process.
#[derive(Debug, Default)]
pub(super) struct Trims {
    in_progress: bool,
    waiting: Vec<TrimReply>,
    /// Bytes after the last one.
    pub(super) last: u64,
}

impl ModelHost {
    /// Serves requests for trims while this incarnation runs.
    pub(super) fn receive_trims(&self, cx: &mut Context<Self>) {
        let requests = stream::unfold(self.spec.state.receive_trims(), |mut requests| async {
            let reply = requests.recv().await?;
            Some((reply, requests))
        });
        let served = wrap_stream::<_, Self>(requests).map(|reply, host, cx| {
            if host.monitor.was_just_trimmed(Instant::now()) {
                let trimmed = Trimmed {
                    before: host.trims.last,
                    after: host.trims.last,
                    took_us: 0,
                };
                // Fails when the requester has left, here and below.
                reply.send(trimmed).ok();
            } else {
                host.trims.waiting.push(reply);
                host.trim(cx);
            }
        });
        cx.spawn(served.finish());
        let pressure = &self.spec.memory.pressure;
        let subscription = pressure.subscribe(self.spec.name.clone(), Stage::Slack);
        let (name, state) = (self.spec.name.clone(), self.spec.state.clone());
        cx.spawn(wrap_future(trim_on_pressure(subscription, name, state)));
    }

    pub(super) fn trim_if_due(&mut self, cx: &mut Context<Self>) {
        if self.monitor.is_due(Instant::now()) {
            self.trim(cx);
        }
    }

    /// Asks the process for a trim. A process that runs a call finishes it first.
    fn trim(&mut self, cx: &mut Context<Self>) {
        if self.running.is_some() && !self.trims.in_progress {
            self.trims.in_progress = true;
            self.send(&HostRequest::Trim, &[], cx);
        }
    }

    pub(super) fn on_trimmed(&mut self, trimmed: Trimmed) {
        self.trims.in_progress = false;
        self.trims.last = trimmed.after;
        for reply in self.trims.waiting.drain(..) {
            reply.send(trimmed).ok();
        }
        let took = Duration::from_micros(trimmed.took_us);
        let now = Instant::now();
        let reason = self.monitor.on_trimmed(trimmed.after, took, now);
        self.growth_gauge.set(self.monitor.growth() as f64);
        if let Some(reason) = reason {
            self.request_replacement(reason);
        }
    }
}

/// Trims the host each time the pressure asks for slack, and reports the result.
async fn trim_on_pressure(mut subscription: Subscription, name: String, state: HostState) {
    loop {
        let pressure = subscription.changed().await;
        if !pressure.asks(Stage::Slack) {
            continue;
        }
        let trimmed = state.trim(CLEAN_UP_WAIT).await;
        let action = trimmed.map(|trimmed| Action {
            what: name.clone(),
            promised_bytes: 0,
            before_bytes: trimmed.before,
            after_bytes: trimmed.after,
        });
        subscription.acknowledge(pressure.epoch, action.into_iter().collect());
    }
}
