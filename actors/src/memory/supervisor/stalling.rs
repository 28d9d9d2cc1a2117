//! Tasks that wait for memory: the kernel calls, or the samples tell. And what other rooms have to
//! tell of memory.

use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use tokio::time::{Instant, timeout};

use super::super::config::Levels;
use super::super::history::EventKind;
use super::super::metrics;
use super::super::probe::{Scope, SourceStatus, StallReading, StallWatch};
use super::MemorySupervisor;
use crate::kernel::{Notice, NoticeReader};

/// How often the watch is asked whether it still works.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What is known of stalls.
#[derive(Default)]
pub(super) struct Stalling {
    watch: Option<SourceStatus>,
    /// When tasks of our own group last stalled.
    ours: Option<Instant>,
}

impl Stalling {
    /// The watch, as a source.
    pub(super) fn status(&self) -> Option<SourceStatus> {
        self.watch.clone()
    }

    /// The share of the budget that counts: while our own tasks stall, memory is not plentiful,
    /// whatever the figures say. Peers' stalls are no reason to give anything back.
    pub(super) fn raise(&self, share: f64, levels: &Levels) -> f64 {
        let stalled = |at: Instant| at.elapsed() <= levels.dwell;
        if self.ours.is_some_and(stalled) {
            share.max(levels.elevated)
        } else {
            share
        }
    }
}

impl MemorySupervisor {
    /// Has the kernel call when tasks stall.
    pub(super) fn listen_to_kernel(&mut self, context: &mut Context<Self>) {
        let watch = StallWatch::open(&self.system);
        self.wait_for_stall(watch, context);
    }

    fn wait_for_stall(&mut self, mut watch: StallWatch, context: &mut Context<Self>) {
        self.stalls.watch = Some(watch.status());
        let stalled = async move {
            let stalled = timeout(LOOK_AGAIN, watch.stalled()).await;
            (watch, stalled)
        };
        context.spawn(
            wrap_future::<_, Self>(stalled).map(|(watch, stalled), actor, context| {
                if let Ok(stalled) = stalled {
                    actor.on_stall(stalled.scope, context);
                    actor.read_soon(context);
                }
                actor.wait_for_stall(watch, context);
            }),
        );
    }

    /// Where the kernel does not call, a reading tells. It needs no other one to confirm it.
    pub(super) fn heed_samples(&mut self, stalls: &StallReading, context: &mut Context<Self>) {
        let watched = self.stalls.watch.as_ref().is_some_and(|watch| watch.in_use);
        if !watched && stalls.is_stalling() {
            self.on_stall(stalls.scope, context);
        }
    }

    fn on_stall(&mut self, scope: Scope, context: &mut Context<Self>) {
        metrics::stall(scope);
        if scope == Scope::Group {
            self.stalls.ours = Some(Instant::now());
            self.collect_on_stall(context);
        }
    }

    /// Puts what other rooms tell into the history.
    pub(super) fn listen_to_rooms(&self, context: &mut Context<Self>) {
        Self::wait_for_notice(self.shared.notices.subscribe(), context);
    }

    fn wait_for_notice(mut reader: NoticeReader, context: &mut Context<Self>) {
        let notice = async move {
            let notice = reader.next().await;
            (reader, notice)
        };
        context.spawn(
            wrap_future::<_, Self>(notice).map(|(reader, notice), actor, context| {
                // Without anybody left to tell something, there is nothing to wait for.
                if let Some(notice) = notice {
                    actor.on_notice(notice);
                    Self::wait_for_notice(reader, context);
                }
            }),
        );
    }

    fn on_notice(&self, notice: Notice) {
        let used = self.used_last.unwrap_or(0);
        let kind = EventKind::Notice(notice);
        self.shared.history().record(used, used, kind);
    }
}
