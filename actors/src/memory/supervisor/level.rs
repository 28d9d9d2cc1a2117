//! What follows from a reading: the level, and the next round of the clean-up that lowers it.

use std::sync::Arc;

use actix::Context;
use tokio::time::Instant;

use super::super::levels::{next_level, used_share, wanted_bytes};
use super::super::metrics;
use super::super::plan::decay;
use super::MemorySupervisor;
use super::clean_up::CleanUp;
use super::rounds::RoundKind;
use crate::kernel::pressure::Level;

impl MemorySupervisor {
    /// Sets the level by a reading that began at `began`, and goes on with the clean-up.
    pub(super) fn update_level(
        &mut self,
        began: Instant,
        used_before: u64,
        used: u64,
        context: &mut Context<Self>,
    ) {
        let levels = self.shared.config().levels;
        let budget = self.shared.ledger().budget;
        let history = self.shared.history();
        let (from, age) = (history.level, history.level_age());
        drop(history);
        let share = used_share(used, budget);
        self.shared.pressure.set_reached(levels.reached(share));
        let share = self.share_with_stalls(share, &levels);
        let to = next_level(from, share, age, &levels);
        let wanted = wanted_bytes(to, used, budget, &levels);
        let is_clean_up_round_over = self.finish_round(began, used);
        if to != from {
            self.change_level(from, to, used_before, used, wanted);
            self.begin_clean_up(to, wanted, context);
        } else if is_clean_up_round_over && wanted > 0 {
            let clean_up = self.clean_up.as_mut();
            if clean_up.is_some_and(|clean_up| clean_up.next_round(wanted)) {
                self.begin_clean_up_round(context);
            }
        } else if to >= Level::High && wanted > 0 && !self.is_cleaning_up() {
            let clean_up = self.clean_up.as_ref();
            if clean_up.is_none_or(|clean_up| clean_up.is_due_again(wanted, budget)) {
                self.begin_clean_up(to, wanted, context);
            }
        }
    }

    fn change_level(&self, from: Level, to: Level, used_before: u64, used: u64, wanted: u64) {
        let mut history = self.shared.history();
        history.set_level(to, used_before, used, wanted);
        drop(history);
        metrics::level_change(to);
        // The level of a log event must be constant where it is written.
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    from = from.label(),
                    to = to.label(),
                    used_before_bytes = used_before,
                    used_bytes = used,
                    budget_bytes = self.shared.ledger().budget,
                    wanted_bytes = wanted,
                    "memory level changed"
                )
            };
        }
        if to >= Level::Critical {
            log!(warn);
        } else {
            log!(info);
        }
        let shared = Arc::clone(&self.shared);
        // If it fails, freed pages go back a little later. It uses the level of the moment at which it
        // runs, so that of two changes the later one has effect.
        drop(tokio::task::spawn_blocking(move || {
            let level = shared.history().level;
            shared.allocator.set_decay(decay(level))
        }));
    }

    /// Begins a clean-up of `level`, in place of the last one.
    fn begin_clean_up(&mut self, level: Level, wanted: u64, context: &mut Context<Self>) {
        self.clean_up = Some(CleanUp::new(level, wanted, self.clean_up.as_ref()));
        if !self.begin_clean_up_round(context) {
            self.publish_level(level, wanted);
        }
    }

    /// Begins the current round of the clean-up; `false` if there is nothing to ask for.
    fn begin_clean_up_round(&mut self, context: &mut Context<Self>) -> bool {
        let deadline = self.shared.config().emergency_deadline;
        let Some(clean_up) = &self.clean_up else {
            return false;
        };
        let (request, purges) = (clean_up.request(deadline), clean_up.round == 0);
        if request.is_some() {
            self.begin_round(RoundKind::CleanUp, request, purges, context);
        }
        request.is_some()
    }
}
