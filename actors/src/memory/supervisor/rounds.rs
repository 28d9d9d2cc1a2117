//! Rounds: a request to subscribers, their acknowledgements, and the reading that shows what came
//! back. Clean-ups consist of rounds, and a collection is one. At most one round is open.
//!
//! This is the one place that begins and ends rounds, and so the one that publishes the pressure.
//! A round of a clean-up ends an open collection, since it asks for the same and more. A collection
//! begins only while no round is open.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::super::history::{ActionRecord, CollectionReason};
use super::MemorySupervisor;
use super::collecting::CollectCall;
use crate::kernel::pressure::{Acknowledgements, Level, Stage};
use crate::kernel::{Clock, Timestamp};

/// A request to subscribers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) level: Level,
    /// The first stage that is asked.
    pub(super) min_stage: Stage,
    /// The last stage that is asked.
    pub(super) max_stage: Stage,
    pub(super) wanted_bytes: u64,
    /// How long subscribers may take to acknowledge.
    pub(super) within: Duration,
}

pub(super) enum RoundKind {
    CleanUp,
    Collection {
        reason: CollectionReason,
        /// The last stage that is asked.
        max_stage: Stage,
        /// The calls that asked for it.
        calls: Vec<CollectCall>,
    },
}

/// An open round.
pub(super) struct Round {
    number: u64,
    kind: RoundKind,
    began: Instant,
    /// The level at its begin.
    level: Level,
    used_before: u64,
    /// All acknowledgements that it will get, and when they were complete.
    acknowledged: Option<(Instant, Acknowledgements)>,
}

/// The result of a round. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RoundReport {
    /// Usage of the whole process tree before.
    pub used_before_bytes: u64,
    /// Usage of the whole process tree afterwards.
    pub used_after_bytes: u64,
    /// When it began.
    pub began_at: Timestamp,
    /// How long it took.
    pub took_ms: f64,
    /// Whether it ran to its end.
    pub is_complete: bool,
    /// What ended it early. `null` if it ran to its end.
    pub interruption: Option<Interruption>,
    /// What each actor gave back.
    pub actors: Vec<ActionRecord>,
    /// The actors that did not acknowledge in time.
    pub silent: Vec<String>,
}

/// What ends a collection early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interruption {
    /// The level rose. A clean-up took its place, and asks for the same.
    LevelRose,
    /// A further clean-up of the same level took its place.
    CleanUp,
    /// The level fell. What was asked for goes on, but nobody learns what it gives.
    LevelFell,
}

impl Interruption {
    /// What ended a round that began at the level `began` and ends at `now`.
    fn of(began: Level, now: Level) -> Self {
        match now.cmp(&began) {
            Ordering::Greater => Self::LevelRose,
            Ordering::Equal => Self::CleanUp,
            Ordering::Less => Self::LevelFell,
        }
    }
}

impl Round {
    fn is_clean_up(&self) -> bool {
        matches!(self.kind, RoundKind::CleanUp)
    }
}

impl MemorySupervisor {
    /// Begins a round in place of the open one: asks subscribers for `request`, and purges the
    /// allocator of this process if `purges` is set.
    pub(super) fn begin_round(
        &mut self,
        kind: RoundKind,
        request: Option<Request>,
        purges: bool,
        context: &mut Context<Self>,
    ) {
        self.end_round();
        self.rounds_begun += 1;
        let number = self.rounds_begun;
        self.round = Some(Round {
            number,
            kind,
            began: Instant::now(),
            level: self.shared.history().level,
            used_before: self.shared.ledger().used(),
            acknowledged: None,
        });
        let shared = Arc::clone(&self.shared);
        let epoch = request.map(|it| {
            let (pressure, max_stage) = (&shared.pressure, Some(it.max_stage));
            pressure.publish_from(it.min_stage, it.level, max_stage, it.wanted_bytes)
        });
        let acknowledgements = async move {
            let others = async {
                let (epoch, it) = epoch.zip(request)?;
                shared.pressure.acknowledgements(epoch, it.within).await
            };
            let own = async { if purges { shared.purge().await } else { None } };
            let (others, own) = tokio::join!(others, own);
            // If another epoch has begun, this round has ended, and nobody reads its acknowledgements.
            let mut all = others.unwrap_or_default();
            all.received.extend(own);
            all
        };
        context.spawn(wrap_future::<_, Self>(acknowledgements).map(
            move |acknowledgements, actor, context| {
                actor.on_acknowledgements(number, acknowledgements, context);
            },
        ));
    }

    fn on_acknowledgements(
        &mut self,
        number: u64,
        acknowledgements: Acknowledgements,
        context: &mut Context<Self>,
    ) {
        // Another round may have begun since.
        if let Some(round) = self.round.as_mut().filter(|round| round.number == number) {
            round.acknowledged = Some((Instant::now(), acknowledgements));
            // Only a reading shows what came back.
            self.begin_reading(context);
        }
    }

    /// Ends the open round if a reading that began at `began` shows what came back. Returns whether
    /// it was a round of a clean-up.
    pub(super) fn finish_round(&mut self, began: Instant, used: u64) -> bool {
        let round = self.round.take_if(|round| {
            let acknowledged = round.acknowledged.as_ref();
            acknowledged.is_some_and(|(at, _)| *at <= began)
        });
        let is_clean_up = round.as_ref().is_some_and(Round::is_clean_up);
        if let Some(round) = round {
            self.record_round(round, used);
        }
        is_clean_up
    }

    /// Publishes a level at which nobody is asked for anything. The open round ends.
    pub(super) fn publish_level(&mut self, level: Level, wanted_bytes: u64) {
        self.end_round();
        self.shared.pressure.publish(level, None, wanted_bytes);
    }

    /// Ends the open round without its acknowledgements. The last reading answers a collection.
    fn end_round(&mut self) {
        if let Some(round) = self.round.take().filter(|round| !round.is_clean_up()) {
            let used = self.shared.ledger().used();
            self.record_round(round, used);
        }
    }

    /// Records what came back, by the usage after the round.
    fn record_round(&mut self, round: Round, used: u64) {
        let level = {
            let mut history = self.shared.history();
            history.count_round(round.is_clean_up());
            history.level
        };
        let is_complete = round.acknowledged.is_some();
        let acknowledgements = round.acknowledged.map(|(_, all)| all).unwrap_or_default();
        let report = RoundReport {
            used_before_bytes: round.used_before,
            used_after_bytes: used,
            began_at: Clock::now().time_of(round.began),
            took_ms: round.began.elapsed().as_secs_f64() * 1e3,
            is_complete,
            interruption: (!is_complete).then(|| Interruption::of(round.level, level)),
            actors: ActionRecord::all(acknowledgements.received),
            silent: acknowledgements.silent,
        };
        match (round.kind, &mut self.clean_up) {
            (
                RoundKind::Collection {
                    reason,
                    max_stage,
                    calls,
                },
                _,
            ) => {
                self.record_collection(reason, max_stage, calls, report);
            }
            (RoundKind::CleanUp, Some(clean_up)) => clean_up.log_round(report, &self.shared),
            (RoundKind::CleanUp, None) => {}
        }
    }

    /// Whether a round of a clean-up is open.
    pub(super) fn is_cleaning_up(&self) -> bool {
        self.round.as_ref().is_some_and(Round::is_clean_up)
    }
}
