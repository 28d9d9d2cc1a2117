//! What follows from a reading for everybody else: the level, and the clean-up that brings it down.
//!
//! A clean-up asks in rounds ([`rounds`]). What subscribers say that they gave is recorded beside
//! what the next reading shows; only the reading counts.

use std::sync::Arc;
use std::time::Duration;

use actix::Context;
use tokio::time::Instant;

use super::super::history::{ActionRecord, EventKind};
use super::super::levels::{next_level, used_share, wanted_bytes};
use super::super::metrics;
use super::super::plan::{decay, rounds};
use super::MemorySupervisor;
use super::collecting::NOTEWORTHY;
use super::epoch::{Ask, Purpose};
use crate::kernel::pressure::{Acknowledgement, Level, Stage};

/// How long the subscribers of one round may take to answer before they count as silent, outside of
/// an emergency.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A high level that lasts is cleaned up again after this time: what was in use then may be idle
/// now.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// A share of the budget (one part in so many) by which what is wanted must grow to clean up again
/// at once.
const MATERIAL_PART: u64 = 100;

/// The clean-up of the level that lasts.
pub(super) struct CleanUp {
    level: Level,
    /// Whether the same level was cleaned up before.
    again: bool,
    /// The round now, or the last.
    round: usize,
    began: Instant,
    wanted: u64,
    used_before: u64,
    step: Step,
}

/// One change of the level. All sizes in bytes.
struct Change {
    from: Level,
    to: Level,
    used_before: u64,
    used: u64,
    budget: u64,
    wanted: u64,
}

enum Step {
    /// Answers are waited for.
    Asked,
    /// All that will come has come; a reading that begins later shows what it gave.
    Answered {
        at: Instant,
        came: Vec<Acknowledgement>,
        silent: Vec<String>,
    },
    /// Nothing more is asked for the moment.
    Over { at: Instant },
}

impl MemorySupervisor {
    /// Draws the consequences of a reading that began at `began`.
    pub(super) fn follow(
        &mut self,
        began: Instant,
        used: u64,
        budget: u64,
        context: &mut Context<Self>,
    ) {
        let before = self.used_last.replace(used).unwrap_or(used);
        let levels = self.shared.config().levels;
        let (from, held) = {
            let history = self.shared.history();
            (history.level(), history.held())
        };
        let share = used_share(used, budget);
        self.shared.writer.set_reached(levels.reached(share));
        let share = self.stalls.raise(share, &levels);
        let to = next_level(from, share, held, &levels);
        let wanted = wanted_bytes(to, used, budget, &levels);
        let verified = self.verify(began, used, from);
        if to != from {
            let change = Change {
                from,
                to,
                used_before: before,
                used,
                budget,
                wanted,
            };
            self.change_level(&change, context);
        } else if verified && wanted > 0 {
            self.next_round(to, used, wanted, context);
        } else if self.is_due_again(to, wanted, budget) {
            self.clean_up(to, used, wanted, context);
        }
    }

    fn change_level(&mut self, change: &Change, context: &mut Context<Self>) {
        let Change { to, .. } = *change;
        let (before, used) = (change.used_before, change.used);
        let mut history = self.shared.history();
        history.change(to, before, used, change.wanted);
        drop(history);
        metrics::level_change(to);
        // The level of an event is fixed where it stands in the code.
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    from = change.from.label(),
                    to = to.label(),
                    used_before_bytes = before,
                    used_bytes = used,
                    budget_bytes = change.budget,
                    wanted_bytes = change.wanted,
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
        // Nobody waits for it: if it fails, memory goes back a little later. The level is the one of
        // that moment, so that of two changes the last to run is right.
        drop(tokio::task::spawn_blocking(move || {
            let level = shared.history().level();
            shared.allocator.set_decay(decay(level))
        }));
        self.clean_up(to, used, change.wanted, context);
    }

    /// Begins the clean-up of `level`, instead of the one under way.
    fn clean_up(&mut self, level: Level, used: u64, wanted: u64, context: &mut Context<Self>) {
        let again = self
            .clean_up
            .as_ref()
            .is_some_and(|last| last.level == level);
        self.clean_up = Some(CleanUp {
            level,
            again,
            round: 0,
            began: Instant::now(),
            wanted,
            used_before: used,
            step: Step::Over { at: Instant::now() },
        });
        match rounds(level).first() {
            Some(first) if wanted > 0 => self.ask(level, *first, context),
            _ => self.announce(level, wanted),
        }
    }

    fn next_round(&mut self, level: Level, used: u64, wanted: u64, context: &mut Context<Self>) {
        let Some(clean_up) = &mut self.clean_up else {
            return;
        };
        let Some(next) = rounds(level).get(clean_up.round + 1) else {
            return;
        };
        clean_up.round += 1;
        clean_up.wanted = wanted;
        clean_up.used_before = used;
        self.ask(level, *next, context);
    }

    fn ask(&mut self, level: Level, max_stage: Stage, context: &mut Context<Self>) {
        let Some(clean_up) = &mut self.clean_up else {
            return;
        };
        let within = if level >= Level::Critical {
            let left = self.shared.config().emergency_deadline;
            let left = left.saturating_sub(clean_up.began.elapsed());
            // What an emergency begins with must leave time for what follows.
            let rounds_left = rounds(level).len().saturating_sub(clean_up.round).max(1);
            left / u32::try_from(rounds_left).unwrap_or(u32::MAX)
        } else {
            ANSWER_WITHIN
        };
        clean_up.step = Step::Asked;
        let ask = Ask {
            purpose: Purpose::CleanUp,
            level,
            max_stage,
            wanted_bytes: clean_up.wanted,
            within,
            // Our own allocator is the first of those that keep what is free.
            purges: clean_up.round == 0,
        };
        self.open_epoch(&ask, context);
    }

    /// All answers of a round that will come have come.
    pub(super) fn answered(&mut self, came: Vec<Acknowledgement>, silent: Vec<String>) {
        if let Some(clean_up) = &mut self.clean_up {
            clean_up.step = Step::Answered {
                at: Instant::now(),
                came,
                silent,
            };
        }
    }

    /// Records a round that is answered, if a reading that began at `began` shows what it gave.
    fn verify(&mut self, began: Instant, used: u64, level: Level) -> bool {
        let Some(clean_up) = &mut self.clean_up else {
            return false;
        };
        if !matches!(clean_up.step, Step::Answered { at, .. } if at <= began) {
            return false;
        }
        let over = Step::Over { at: Instant::now() };
        let Step::Answered { came, silent, .. } = std::mem::replace(&mut clean_up.step, over)
        else {
            return false;
        };
        let max_stage = rounds(level).get(clean_up.round).copied();
        let actions = ActionRecord::all(came);
        metrics::actions(&actions);
        let gained: u64 = actions
            .iter()
            .map(|record| record.action.gained_bytes())
            .sum();
        if clean_up.again && gained < NOTEWORTHY {
            // The same as a second ago, and told then.
            return true;
        }
        if !silent.is_empty() {
            tracing::warn!(?silent, "no answer to memory pressure");
        }
        let promised: u64 = actions
            .iter()
            .map(|record| record.action.promised_bytes)
            .sum();
        tracing::info!(
            level = level.label(),
            max_stage = max_stage.map(Stage::label),
            wanted_bytes = clean_up.wanted,
            promised_bytes = promised,
            gained_bytes = clean_up.used_before.saturating_sub(used),
            seconds = clean_up.began.elapsed().as_secs_f64(),
            "memory was cleaned up"
        );
        if let Some(max_stage) = max_stage {
            let kind = EventKind::CleanUp {
                level,
                max_stage,
                wanted_bytes: clean_up.wanted,
                actions,
                silent,
            };
            let before = clean_up.used_before;
            self.shared.history().record(before, used, kind);
        }
        true
    }

    /// Whether a level that lasts must be cleaned up again: it is high, all rounds are over, and
    /// either more is wanted than before or some time has passed.
    fn is_due_again(&self, level: Level, wanted: u64, budget: u64) -> bool {
        if level < Level::High || wanted == 0 {
            return false;
        }
        self.clean_up.as_ref().is_none_or(|clean_up| {
            let grown = wanted.saturating_sub(clean_up.wanted) > budget / MATERIAL_PART;
            match clean_up.step {
                Step::Over { at } => grown || at.elapsed() >= REPEAT_AFTER,
                _ => false,
            }
        })
    }

    /// Whether subscribers are being asked for something.
    pub(super) fn is_cleaning_up(&self) -> bool {
        self.clean_up
            .as_ref()
            .is_some_and(|clean_up| !matches!(clean_up.step, Step::Over { .. }))
    }
}
