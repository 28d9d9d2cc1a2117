//! The clean-up of one level: which stage its rounds ask, and how long they wait. It reads no memory
//! and asks nobody itself.

use std::time::Duration;

use tokio::time::Instant;

use super::super::history::{EventKind, gained_bytes};
use super::super::metrics;
use super::super::plan::rounds;
use super::super::shared::Shared;
use super::rounds::{Request, RoundReport};
use crate::kernel::pressure::{Level, Stage};

/// How long subscribers may take to acknowledge a round, outside of an emergency.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(2);

/// While a level of at least high lasts, it is cleaned up again after this time: resources that were
/// in use may be idle now.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// If the wanted bytes grow by more than this part of the budget (one in so many), the level is
/// cleaned up again at once.
const GROWTH_PART: u64 = 100;

/// A repeated clean-up, or a collection that nobody requested, that gives less is not recorded.
pub(super) const NOTEWORTHY: u64 = 1 << 20;

/// The clean-up of the current level.
pub(super) struct CleanUp {
    level: Level,
    /// Whether the same level was cleaned up just before.
    is_repeated: bool,
    /// The current or the last round. The first one, 0, includes free memory in allocators.
    pub(super) round: usize,
    wanted: u64,
    began: Instant,
    /// When the last round ended.
    ended: Instant,
}

impl CleanUp {
    /// A clean-up of `level` that follows `last`.
    pub(super) fn new(level: Level, wanted: u64, last: Option<&Self>) -> Self {
        let now = Instant::now();
        Self {
            level,
            is_repeated: last.is_some_and(|last| last.level == level),
            round: 0,
            wanted,
            began: now,
            ended: now,
        }
    }

    /// The request of the current round; `None` if there is no such round, or nothing is wanted.
    pub(super) fn request(&self, emergency_deadline: Duration) -> Option<Request> {
        let rounds = rounds(self.level);
        let max_stage = *rounds.get(self.round).filter(|_| self.wanted > 0)?;
        let within = if self.level < Level::Critical {
            ACKNOWLEDGE_WITHIN
        } else {
            // In an emergency, the rounds that are left share the time that is left.
            let left = emergency_deadline.saturating_sub(self.began.elapsed());
            left / u32::try_from(rounds.len() - self.round).unwrap_or(u32::MAX)
        };
        Some(Request {
            level: self.level,
            min_stage: Stage::Slack,
            max_stage,
            wanted_bytes: self.wanted,
            within,
        })
    }

    /// Goes on to the next round, if there is one.
    pub(super) fn next_round(&mut self, wanted: u64) -> bool {
        let has_next = self.round + 1 < rounds(self.level).len();
        if has_next {
            self.round += 1;
            self.wanted = wanted;
        }
        has_next
    }

    /// Whether the same level must be cleaned up again after all rounds: much more is wanted than
    /// before, or some time has passed.
    pub(super) fn is_due_again(&self, wanted: u64, budget: u64) -> bool {
        let growth = wanted.saturating_sub(self.wanted);
        growth > budget / GROWTH_PART || self.ended.elapsed() >= REPEAT_AFTER
    }

    /// Records the current round, which has ended.
    pub(super) fn log_round(&mut self, report: RoundReport, shared: &Shared) {
        self.ended = Instant::now();
        metrics::actions(&report.actors);
        let Some(max_stage) = rounds(self.level).get(self.round).copied() else {
            return;
        };
        if self.is_repeated && gained_bytes(&report.actors) < NOTEWORTHY {
            // The same as a second ago, when it was recorded.
            return;
        }
        let (before, after) = (report.used_before_bytes, report.used_after_bytes);
        if !report.silent.is_empty() {
            tracing::warn!(silent = ?report.silent, "no acknowledgement of memory pressure in time");
        }
        let promised = report.actors.iter().map(|it| it.action.promised_bytes);
        tracing::info!(
            level = self.level.label(),
            max_stage = max_stage.label(),
            wanted_bytes = self.wanted,
            promised_bytes = promised.sum::<u64>(),
            gained_bytes = before.saturating_sub(after),
            seconds = self.began.elapsed().as_secs_f64(),
            "memory was cleaned up"
        );
        let kind = EventKind::CleanUp {
            level: self.level,
            max_stage,
            wanted_bytes: self.wanted,
            actions: report.actors,
            silent: report.silent,
        };
        shared.history().record(before, after, kind);
    }
}
