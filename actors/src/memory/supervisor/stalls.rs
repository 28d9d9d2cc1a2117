//! Stalls, which the kernel reports or readings show, and the notices of other modules.

use std::time::Duration;

use actix::fut::{ActorFutureExt, ActorStreamExt, wrap_future, wrap_stream};
use actix::{AsyncContext, Context};
use futures_util::stream;
use tokio::time::{Instant, timeout};

use super::super::config::Levels;
use super::super::history::EventKind;
use super::super::metrics;
use super::super::probe::{Scope, StallTrigger};
use super::MemorySupervisor;

/// The status of the trigger is updated at least this often.
const STATUS_INTERVAL: Duration = Duration::from_secs(30);

impl MemorySupervisor {
    /// Reads memory soon after each stall that the kernel reports.
    pub(super) fn watch_stalls(&mut self, mut trigger: StallTrigger, context: &mut Context<Self>) {
        self.stall_trigger = Some(trigger.status.clone());
        let stalled = async move {
            let scope = timeout(STATUS_INTERVAL, trigger.stalled()).await;
            (trigger, scope)
        };
        context.spawn(
            wrap_future::<_, Self>(stalled).map(|(trigger, scope), actor, context| {
                if let Ok(scope) = scope {
                    actor.on_stall(scope, context);
                    actor.read_soon(context);
                }
                actor.watch_stalls(trigger, context);
            }),
        );
    }

    /// Detects a stall in the last reading, where the kernel reports none.
    pub(super) fn check_stalls(&mut self, context: &mut Context<Self>) {
        let trigger = self.stall_trigger.as_ref();
        let report = self.shared.report();
        let stalls = report.as_ref().and_then(|last| last.stalls.as_ref());
        if trigger.is_none_or(|trigger| !trigger.in_use)
            && let Some(stalls) = stalls.filter(|stalls| stalls.is_stalling())
        {
            self.on_stall(stalls.scope, context);
        }
    }

    fn on_stall(&mut self, scope: Scope, context: &mut Context<Self>) {
        metrics::stall(scope);
        if scope == Scope::Group {
            self.stalled_at = Some(Instant::now());
            self.collect_on_stall(context);
        }
    }

    /// The share of the budget in use, raised to the elevated level while tasks of the server's
    /// control group stall. Stalls of other processes are no reason to give memory back.
    pub(super) fn share_with_stalls(&self, share: f64, levels: &Levels) -> f64 {
        match self.stalled_at {
            Some(at) if at.elapsed() <= levels.dwell => share.max(levels.elevated),
            _ => share,
        }
    }

    /// Records the notices of other modules in the history.
    pub(super) fn subscribe_to_notices(&self, context: &mut Context<Self>) {
        let reader = self.shared.notices.subscribe();
        let notices = stream::unfold(reader, |mut reader| async move {
            Some((reader.next().await?, reader))
        });
        let recorded = wrap_stream::<_, Self>(notices).map(|notice, actor, _| {
            let used = actor.shared.ledger().used();
            let kind = EventKind::Notice(notice);
            actor.shared.history().record(used, used, kind);
        });
        context.spawn(recorded.finish());
    }
}
