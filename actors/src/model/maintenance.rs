//! What a host does for the memory of all: gives free memory back, is looked at, and is replaced by
//! a fresh process when it misbehaves; and what it says when the kernel ended it.

use std::time::Duration;

use actix::fut::{ActorFutureExt, ActorStreamExt, wrap_future, wrap_stream};
use actix::{AsyncContext, Context, Handler};
use futures_util::stream;
use headroom_model_protocol::HostRequest;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::host::ModelHost;
use super::host_process::{boot, end_in_order};
use super::host_state::{EndCause, HostState, TrimReply, Trimmed};
use super::leak_monitor::ReplaceReason;
use crate::kernel::pressure::{Action, Stage, Subscription};
use crate::kernel::{Call, Message, NoticeKind, ProcessExit, Reply};

/// Longest wait for a host in the middle of a call before a clean-up goes on without it. The trim
/// then follows that call, and the next reading of memory shows what it brought.
const CLEAN_UP_WAIT: Duration = Duration::from_millis(250);

/// The trims of one host.
#[derive(Debug, Default)]
pub(super) struct Trims {
    /// The one that the process was asked for.
    under_way: Option<u64>,
    waiting: Vec<TrimReply>,
    /// Bytes after the last one.
    last: u64,
}

impl ModelHost {
    /// Does what it is asked for beside its calls, as long as this incarnation lives.
    pub(super) fn hear_trims(&self, cx: &mut Context<Self>) {
        let asked = stream::unfold(self.spec.facts.hear_trims(), |mut asked| async {
            let reply = asked.recv().await?;
            Some((reply, asked))
        });
        let heard = wrap_stream::<_, Self>(asked).map(|reply, host, cx| {
            if host.leak_monitor.is_fresh(Instant::now()) {
                let (before, after) = (host.trims.last, host.trims.last);
                // Whoever gave up needs no answer, here and below.
                reply.send(Trimmed { before, after }).ok();
            } else {
                host.trims.waiting.push(reply);
                host.trim(cx);
            }
        });
        cx.spawn(heard.finish());
        let pressure = &self.spec.memory.pressure;
        let subscription = pressure.subscribe(self.spec.name.clone(), Stage::Slack);
        let (name, facts) = (self.spec.name.clone(), self.spec.facts.clone());
        cx.spawn(wrap_future(give_slack(subscription, name, facts)));
    }

    /// Trims the process when it is time for that.
    pub(super) fn trim_if_due(&mut self, cx: &mut Context<Self>) {
        if self.leak_monitor.is_due(Instant::now()) {
            self.trim(cx);
        }
    }

    /// Asks the process, which does it between two calls; one that works finishes its call first.
    fn trim(&mut self, cx: &mut Context<Self>) {
        if self.running.is_none() || self.trims.under_way.is_some() {
            return;
        }
        self.next_id += 1;
        let id = self.next_id;
        self.trims.under_way = Some(id);
        self.send(&HostRequest::Trim { id }, cx);
    }

    pub(super) fn on_trimmed(&mut self, id: u64, trimmed: Trimmed, took: Duration) {
        if self.trims.under_way != Some(id) {
            return;
        }
        self.trims.under_way = None;
        self.trims.last = trimmed.after;
        for reply in self.trims.waiting.drain(..) {
            reply.send(trimmed).ok();
        }
        let found = self
            .leak_monitor
            .on_trimmed(trimmed.after, took, Instant::now());
        self.growth.set(self.leak_monitor.growth() as f64);
        if let Some(replace_reason) = found {
            self.on_misbehaviour(replace_reason);
        }
    }

    /// Says so once; the owner sees to the rest when the process has nothing to do.
    fn on_misbehaviour(&self, found: ReplaceReason) {
        let known = self.spec.facts.replace_reason();
        let known = known.map(ReplaceReason::label);
        if known == Some(found.label()) || known == Some("leak") {
            return;
        }
        self.spec.facts.misbehaves(found);
        self.spec.feedback.set_suspect(true);
        let (host, name) = (&self.spec.name, self.metrics_name.clone());
        match found {
            ReplaceReason::Leak(leak) => {
                metrics::counter!("headroom_model_leaks_total", "name" => name).increment(1);
                let (from_bytes, to_bytes, calls) = (leak.from_bytes, leak.to_bytes, leak.calls);
                tracing::warn!(host, from_bytes, to_bytes, calls, "a model leaks memory");
                let kind = NoticeKind::Leaking {
                    from_bytes,
                    to_bytes,
                    calls,
                };
                self.spec.memory.notices.publish(host, kind);
            }
            ReplaceReason::Overgrown { expected, bytes } => {
                metrics::counter!("headroom_model_past_estimate_total", "name" => name)
                    .increment(1);
                tracing::warn!(host, expected, bytes, "a model takes far more than thought");
                let measured = self.spec.entry.peak().max(bytes);
                self.spec.feedback.require(measured);
                let kind = NoticeKind::PastEstimate {
                    estimated_bytes: expected,
                    measured_bytes: bytes,
                };
                self.spec.memory.notices.publish(host, kind);
            }
        }
    }

    /// Ends the process in order and has a fresh one load the model. Not an end of the actor, so it
    /// does not count against the restarts that its supervisor allows.
    fn renew(&mut self, reply: Reply<ReplaceProcess>, cx: &mut Context<Self>) {
        // Without a process, or in the middle of a call, the dropped reply says that it was not done.
        if self.current.is_some() {
            return;
        }
        let Some(running) = self.running.take() else {
            return;
        };
        if let Some(reader) = self.reader.take() {
            cx.cancel_future(reader);
        }
        self.spec.facts.stopped_serving();
        let before = self.trims.last;
        self.trims = Trims::default();
        let reason = self.spec.facts.replace_reason().map(ReplaceReason::label);
        let spec = self.spec.clone();
        self.oom_kills = spec.memory.oom_kills();
        let renewed = async move {
            end_in_order(Some(running)).await;
            // What the process that has ended held would count for others, and bound the next one.
            spec.memory.answers.refresh().await;
            boot(spec).await
        };
        cx.spawn(
            wrap_future::<_, Self>(renewed).map(move |booted, host, cx| match booted {
                Ok((running, frames, ready)) => {
                    let after = ready.memory.anonymous;
                    host.install(running, frames, ready, cx);
                    host.on_renewed(reason.unwrap_or("request"), before, after);
                    reply.send(());
                }
                // Its owner hears of it by the lost reply, its supervisor by its end.
                Err(error) => {
                    host.on_boot_failed(&error);
                    host.fail(cx, error);
                }
            }),
        );
    }

    fn on_renewed(&self, reason: &'static str, before_bytes: u64, after_bytes: u64) {
        self.spec.feedback.set_suspect(false);
        let host = &self.spec.name;
        tracing::info!(
            host,
            reason,
            before_bytes,
            after_bytes,
            "a model's process was replaced"
        );
        let name = self.metrics_name.clone();
        metrics::counter!("headroom_model_recycles_total", "name" => name, "reason" => reason)
            .increment(1);
        let kind = NoticeKind::Replaced {
            before_bytes,
            after_bytes,
        };
        self.spec.memory.notices.publish(host, kind);
    }

    /// The process that was ready has ended; by itself, having held `measured` bytes, unless that
    /// is none.
    pub(super) fn on_ended(&self, exit: ProcessExit, measured: Option<u64>) {
        let by_oom_killer = measured.is_some() && self.is_oom_kill(exit);
        let cause = self.spec.facts.ended(exit, by_oom_killer);
        if cause == EndCause::OomKiller {
            self.on_oom_kill(measured.unwrap_or(0));
        }
    }

    /// Whether it was the kernel that ended the process, for want of memory.
    pub(super) fn is_oom_kill(&self, exit: ProcessExit) -> bool {
        let killed = exit == ProcessExit::Signal(Signal::SIGKILL as i32);
        killed && self.spec.memory.oom_kills() > self.oom_kills
    }

    pub(super) fn on_oom_kill(&self, measured: u64) {
        let host = &self.spec.name;
        self.raise_estimate(measured);
        tracing::error!(
            host,
            measured,
            "the kernel ended a model for want of memory"
        );
        let name = self.metrics_name.clone();
        metrics::counter!("headroom_model_oom_kills_total", "name" => name).increment(1);
        let kind = NoticeKind::KilledByKernel {
            measured_bytes: measured,
        };
        self.spec.memory.notices.publish(host, kind);
    }

    /// The model needs more than the `measured` bytes that it had: the next load must reserve more.
    pub(super) fn raise_estimate(&self, measured: u64) {
        let entry = &self.spec.entry;
        let needed = measured.max(entry.reserved()).max(entry.peak());
        self.spec
            .feedback
            .require(needed.saturating_add(needed / 2));
    }
}

/// Gives free memory back whenever that is asked for.
async fn give_slack(mut subscription: Subscription, name: String, facts: HostState) {
    while let Some(pressure) = subscription.changed().await {
        if !pressure.asks(Stage::Slack) {
            continue;
        }
        let trimmed = facts.trim(CLEAN_UP_WAIT).await;
        let action = trimmed.map(|trimmed| Action {
            what: name.clone(),
            promised_bytes: 0,
            before_bytes: trimmed.before,
            after_bytes: trimmed.after,
        });
        let actions = action.into_iter().collect();
        subscription.acknowledge(pressure.epoch, actions);
    }
}

/// Replaces the process by a fresh one. The reply is lost when there is none to replace, or no fresh
/// one to be had.
#[derive(Debug)]
pub(super) struct ReplaceProcess;

impl Message for ReplaceProcess {
    type Reply = ();
}

impl Handler<Call<ReplaceProcess>> for ModelHost {
    type Result = ();

    fn handle(&mut self, call: Call<ReplaceProcess>, cx: &mut Context<Self>) {
        if let Some((ReplaceProcess, reply)) = call.accept() {
            self.renew(reply, cx);
        }
    }
}
