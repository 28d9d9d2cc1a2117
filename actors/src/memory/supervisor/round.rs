//! One round: a request to subscribers, their acknowledgements, and the reading that shows what came
//! back. Clean-ups consist of rounds, and a collection is one. At most one round is open.

use std::time::Duration;

use tokio::time::Instant;

use super::super::history::{ActionRecord, CollectionReason};
use super::messages::{CollectSlack, RoundReport};
use crate::kernel::Reply;
use crate::kernel::pressure::{Acknowledgements, Level, Stage};

/// A request to subscribers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) level: Level,
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
        /// The calls that asked for it.
        replies: Vec<Reply<CollectSlack>>,
    },
}

/// An open round.
pub(super) struct Round {
    pub(super) number: u64,
    pub(super) kind: RoundKind,
    pub(super) began: Instant,
    pub(super) used_before: u64,
    /// All acknowledgements that it will get, and when they were complete.
    pub(super) acknowledged: Option<(Instant, Acknowledgements)>,
}

impl Round {
    /// Whether a reading that began at `began` shows what came back.
    pub(super) fn is_shown(&self, began: Instant) -> bool {
        let acknowledged = self.acknowledged.as_ref();
        acknowledged.is_some_and(|(at, _)| *at <= began)
    }

    pub(super) fn is_clean_up(&self) -> bool {
        matches!(self.kind, RoundKind::CleanUp)
    }

    /// What came back, by the usage after the round.
    pub(super) fn report(self, used: u64) -> (RoundKind, RoundReport) {
        let acknowledgements = self
            .acknowledged
            .map_or_else(Default::default, |(_, all)| all);
        let report = RoundReport {
            used_before_bytes: self.used_before,
            used_after_bytes: used,
            seconds: self.began.elapsed().as_secs_f64(),
            actors: ActionRecord::all(acknowledgements.received),
            silent: acknowledgements.silent,
        };
        (self.kind, report)
    }
}
