//! What follows from a reading for everybody else: the level, published and answered.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use tokio::time::Instant;

use super::super::levels::{next_level, used_share, wanted_bytes};
use super::super::metrics;
use super::MemorySupervisor;
use crate::kernel::pressure::{Acknowledgement, Level};

/// How long subscribers may take to answer before they count as silent.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(2);

/// A high level that lasts is published again after this time: what was in use then may be idle
/// now.
const REPUBLISH_AFTER: Duration = Duration::from_secs(1);

/// A share of the budget (one part in so many) by which what is wanted must change to be published
/// again at once.
const MATERIAL_PART: u64 = 100;

/// The last publication of the level.
pub(super) struct Published {
    epoch: u64,
    at: Instant,
    wanted: u64,
    /// Answers are still waited for.
    open: bool,
}

impl MemorySupervisor {
    pub(super) fn set_level(&mut self, used: u64, budget: u64, context: &mut Context<Self>) {
        let levels = self.shared.config().levels;
        let (from, to, wanted) = {
            let mut history = self.shared.history();
            let from = history.level();
            let to = next_level(from, used_share(used, budget), history.held(), &levels);
            let wanted = wanted_bytes(to, used, budget, &levels);
            if to != from {
                history.change(to, used, wanted);
            }
            (from, to, wanted)
        };
        if to != from {
            metrics::level_change(to);
            tracing::info!(
                from = from.label(),
                to = to.label(),
                used_bytes = used,
                budget_bytes = budget,
                wanted_bytes = wanted,
                "memory level changed"
            );
            self.publish(to, wanted, context);
        } else if self.is_due_again(to, wanted, budget) {
            self.publish(to, wanted, context);
        }
    }

    /// Whether a level that lasts must be published again: it is high, what was asked for last was
    /// answered, and either something else is wanted now or some time has passed.
    fn is_due_again(&self, level: Level, wanted: u64, budget: u64) -> bool {
        if level < Level::High || wanted == 0 {
            return false;
        }
        self.published.as_ref().is_none_or(|published| {
            let is_material = wanted.abs_diff(published.wanted) > budget / MATERIAL_PART;
            !published.open && (is_material || published.at.elapsed() >= REPUBLISH_AFTER)
        })
    }

    fn publish(&mut self, level: Level, wanted: u64, context: &mut Context<Self>) {
        let epoch = self.shared.writer.publish(level, wanted);
        self.published = Some(Published {
            epoch,
            at: Instant::now(),
            wanted,
            open: wanted > 0,
        });
        if wanted == 0 {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let answers = async move {
            let writer = &shared.writer;
            writer.acknowledgements(epoch, ACKNOWLEDGE_WITHIN).await
        };
        context.spawn(wrap_future::<_, Self>(answers).map(
            move |(came, silent), actor, context| {
                actor.answered(epoch, &came, silent, context);
            },
        ));
    }

    fn answered(
        &mut self,
        epoch: u64,
        came: &[Acknowledgement],
        silent: Vec<String>,
        context: &mut Context<Self>,
    ) {
        match &mut self.published {
            Some(published) if published.epoch == epoch => published.open = false,
            // The level has changed since; these answers are about another one.
            _ => return,
        }
        if !silent.is_empty() {
            tracing::warn!(?silent, "no answer to memory pressure");
        }
        self.shared.history().acknowledge(came, silent);
        if came.iter().any(|answer| answer.bytes > 0) {
            // What was promised back is believed when it is seen.
            self.begin_reading(context);
        }
    }
}
