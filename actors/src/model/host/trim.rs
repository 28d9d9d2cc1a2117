//! Trims and measures a host process: when the monitor or the pressure asks for it.

use std::time::Duration;

use actix::fut::{ActorStreamExt, wrap_stream};
use actix::{AsyncContext, Context};
use futures_util::stream;
use headroom_model_protocol::{HostRequest, Trimmed};
use tokio::time::Instant;

use super::{HostError, ModelHost};
use crate::kernel::pressure::{Action, Pressure, Stage};

/// How long a round waits for a host that runs a request. The trim follows that request, and the next
/// reading of memory shows its effect.
const CLEAN_UP_WAIT: Duration = Duration::from_millis(250);

/// The trims of one host process, and the epoch that one of them is to acknowledge.
#[derive(Debug, Default)]
pub(super) struct Trims {
    in_progress: bool,
    /// The epoch of the pressure that waits for the trim in progress.
    waiting: Option<u64>,
    /// Bytes after the last one.
    last: u64,
}

impl Trims {
    /// Begins anew with another process. Returns the bytes of the old one after its last trim.
    pub(super) fn forget_process(&mut self) -> u64 {
        self.in_progress = false;
        std::mem::take(&mut self.last)
    }
}

impl ModelHost {
    /// Trims the process each time the pressure asks for slack, while this incarnation runs.
    pub(super) fn follow_pressure(&self, cx: &mut Context<Self>) {
        let pressure = &self.spec.runtime.memory.pressure;
        let subscription = pressure.subscribe(self.spec.name.clone(), Stage::Slack);
        let changes = stream::unfold(subscription, |mut subscription| async {
            Some((subscription.changed().await, subscription))
        });
        let followed = wrap_stream::<_, Self>(changes);
        let followed = followed.map(|pressure, host, cx| host.on_pressure(pressure, cx));
        cx.spawn(followed.finish());
    }

    fn on_pressure(&mut self, pressure: Pressure, cx: &mut Context<Self>) {
        let epoch = pressure.epoch;
        if !pressure.asks(Stage::Slack) {
            return;
        }
        // The epoch before has ended.
        self.trims.waiting = Some(epoch);
        if self.monitor.was_just_trimmed(Instant::now()) {
            return self.acknowledge(Some(self.trims.last));
        }
        self.trim(cx);
        cx.run_later(CLEAN_UP_WAIT, move |host, _| {
            if host.trims.waiting == Some(epoch) {
                host.acknowledge(None);
            }
        });
    }

    /// Acknowledges the epoch that waits, if any. `before_bytes`: the process was trimmed.
    fn acknowledge(&mut self, before_bytes: Option<u64>) {
        let Some(epoch) = self.trims.waiting.take() else {
            return;
        };
        let action = before_bytes.map(|before_bytes| Action {
            what: self.spec.name.clone(),
            promised_bytes: 0,
            before_bytes,
            after_bytes: self.trims.last,
        });
        let pressure = &self.spec.runtime.memory.pressure;
        pressure.acknowledge(&self.spec.name, epoch, action.into_iter().collect());
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

    pub(super) fn on_trimmed(&mut self, trimmed: Trimmed) -> Result<(), HostError> {
        if !std::mem::take(&mut self.trims.in_progress) {
            return Err(HostError::Unexpected("the result of a trim"));
        }
        let after = self.credible(trimmed.after);
        self.trims.last = after;
        self.acknowledge(Some(self.credible(trimmed.before)));
        let took = Duration::from_micros(trimmed.took_us);
        let now = Instant::now();
        let reason = self.monitor.on_trimmed(after, took, now);
        self.set_measured(after);
        self.growth_gauge.set(self.monitor.growth());
        if let Some(reason) = reason {
            self.request_replacement(reason);
        }
        Ok(())
    }
}
