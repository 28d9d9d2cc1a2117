//! The history of the memory budget: the current level, and the latest events with the usage before
//! and after each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::broadcast;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::probe::SourceStatus;
use crate::kernel::pressure::{Acknowledgement, Action, Level, Stage};
use crate::kernel::{Changes, Notice, Timestamp};

/// Events that are kept.
const EVENTS_MAX: usize = 1000;

/// Events that a subscriber can lag behind. It then misses the oldest and learns how many.
const LAG_MAX: usize = 256;

/// One event of the memory budget. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MemoryEvent)]
pub struct Event {
    /// The number of the event, from 1 since the server started.
    pub number: u64,
    /// The time of the event.
    pub at: Timestamp,
    /// Usage before.
    pub used_before_bytes: u64,
    /// Usage afterwards.
    pub used_after_bytes: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MemoryEventKind)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The level changed.
    Level {
        /// The level before.
        from: Level,
        /// The level now.
        to: Level,
        /// Bytes that must be given back.
        wanted_bytes: u64,
    },
    /// One round of a clean-up is over.
    CleanUp {
        /// The level that is cleaned up.
        level: Level,
        /// The last stage that was asked.
        #[serde(rename = "through")]
        max_stage: Stage,
        /// Bytes that were asked for.
        wanted_bytes: u64,
        /// The actions of subscribers.
        actions: Vec<ActionRecord>,
        /// The subscribers that did not acknowledge in time.
        silent: Vec<String>,
    },
    /// The health of a source changed.
    Source(SourceStatus),
    /// Another module published a notice.
    Notice(Notice),
    /// A collection is over.
    Gc {
        /// The reason.
        reason: CollectionReason,
        /// The last stage that was asked.
        #[serde(rename = "through")]
        max_stage: Stage,
        /// The actions of subscribers.
        actions: Vec<ActionRecord>,
        /// The subscribers that did not acknowledge in time.
        silent: Vec<String>,
    },
}

/// One action, and the subscriber that took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ActionRecord {
    /// The subscriber.
    pub by: String,
    /// The stage at which it is asked first.
    pub stage: Stage,
    /// The action.
    #[serde(flatten)]
    pub action: Action,
    /// Bytes that the action gave back.
    pub gained_bytes: u64,
}

impl ActionRecord {
    /// All actions of all acknowledgements.
    pub(super) fn all(acknowledgements: Vec<Acknowledgement>) -> Vec<Self> {
        let records = acknowledgements.into_iter().flat_map(|acknowledgement| {
            let (by, stage) = (acknowledgement.name, acknowledgement.stage);
            let actions = acknowledgement.actions.into_iter();
            actions.map(move |action| Self {
                by: by.clone(),
                stage,
                gained_bytes: action.gained_bytes(),
                action,
            })
        });
        records.collect()
    }
}

/// Bytes that all actions together gave back.
pub(super) fn gained_bytes(records: &[ActionRecord]) -> u64 {
    let gained = records.iter().map(|record| record.gained_bytes);
    gained.fold(0, u64::saturating_add)
}

/// Why slack was collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CollectionReason {
    /// An operator asked for it.
    Request,
    /// It was due by the schedule at rest.
    Schedule,
    /// Many buffers were released.
    Release,
    /// Tasks stalled for memory.
    Stall,
}

/// How often something happened since the server started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MemoryCounts)]
pub struct Counts {
    /// Changes of the level.
    pub level_changes_total: u64,
    /// Rounds of clean-ups that ended.
    pub clean_up_rounds_total: u64,
    /// Collections that ended.
    pub collections_total: u64,
}

/// The current level, the latest events and how many there were.
#[derive(Debug)]
pub(super) struct History {
    pub(super) level: Level,
    pub(super) counts: Counts,
    since: Instant,
    events: VecDeque<Arc<Event>>,
    last: u64,
    subscribers: broadcast::Sender<Arc<Event>>,
    /// Told about each event.
    pub(super) changes: Changes,
}

impl Default for History {
    fn default() -> Self {
        Self {
            level: Level::Normal,
            counts: Counts::default(),
            since: Instant::now(),
            events: VecDeque::new(),
            last: 0,
            subscribers: broadcast::Sender::new(LAG_MAX),
            changes: Changes::default(),
        }
    }
}

impl History {
    /// How long the level has lasted.
    pub(super) fn level_age(&self) -> Duration {
        self.since.elapsed()
    }

    pub(super) fn set_level(&mut self, to: Level, before: u64, after: u64, wanted_bytes: u64) {
        let from = std::mem::replace(&mut self.level, to);
        self.counts.level_changes_total += 1;
        self.since = Instant::now();
        let kind = EventKind::Level {
            from,
            to,
            wanted_bytes,
        };
        self.record(before, after, kind);
    }

    /// Counts a round that has ended: one of a clean-up, or a collection.
    pub(super) fn count_round(&mut self, is_clean_up: bool) {
        let counts = &mut self.counts;
        match is_clean_up {
            true => counts.clean_up_rounds_total += 1,
            false => counts.collections_total += 1,
        }
    }

    /// Keeps an event, and sends it to subscribers.
    pub(super) fn record(&mut self, before: u64, after: u64, kind: EventKind) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.last += 1;
        let event = Arc::new(Event {
            number: self.last,
            at: Timestamp::now(),
            used_before_bytes: before,
            used_after_bytes: after,
            kind,
        });
        self.events.push_back(Arc::clone(&event));
        // It fails only without a subscriber.
        self.subscribers.send(event).ok();
        self.changes.publish();
    }

    /// Every event from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.subscribers.subscribe()
    }

    /// The latest `count` events, oldest first.
    pub(super) fn latest(&self, count: usize) -> Vec<Event> {
        let latest = self.latest_shared(count);
        latest.map(|event| Event::clone(event)).collect()
    }

    /// The latest `count` events, oldest first, without copies.
    pub(super) fn latest_shared(&self, count: usize) -> impl Iterator<Item = &Arc<Event>> {
        let skipped = self.events.len().saturating_sub(count);
        self.events.iter().skip(skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn events_reach_readers_and_subscribers_in_order() {
        let mut history = History::default();
        history.record(
            0,
            0,
            EventKind::Level {
                from: Level::Normal,
                to: Level::Normal,
                wanted_bytes: 0,
            },
        );
        let mut subscriber = history.subscribe();
        history.set_level(Level::High, 10, 90, 20);
        let records = ActionRecord::all(vec![Acknowledgement {
            name: "loader".into(),
            stage: Stage::Idle,
            actions: vec![Action {
                what: "model".into(),
                promised_bytes: 30,
                before_bytes: 25,
                after_bytes: 5,
            }],
        }]);
        let done = EventKind::CleanUp {
            level: Level::High,
            max_stage: Stage::Idle,
            wanted_bytes: 20,
            actions: records,
            silent: Vec::new(),
        };
        history.record(90, 70, done);
        assert_eq!(history.level, Level::High);
        assert_eq!(history.counts.level_changes_total, 1);
        let latest = history.latest(2);
        for event in &latest {
            assert_eq!(*event, *subscriber.recv().await.unwrap());
        }
        assert_eq!(latest[1].number, latest[0].number + 1);
        let shown = serde_json::to_value(&latest[1]).unwrap();
        assert_eq!(
            (&shown["event"], &shown["through"]),
            (&"clean_up".into(), &"idle".into())
        );
        assert_eq!(shown["actions"][0]["by"], "loader");
        assert_eq!(shown["actions"][0]["gained_bytes"], 20);
        assert!(shown["at"].as_str().unwrap().ends_with('Z'), "{shown}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_events_are_dropped() {
        let mut history = History::default();
        for used in 0..=EVENTS_MAX as u64 {
            history.set_level(Level::High, used, used, 0);
        }
        let all = history.latest(usize::MAX);
        assert_eq!((all.len(), all[0].used_after_bytes), (EVENTS_MAX, 1));
        assert_eq!(history.latest(1)[0].number, EVENTS_MAX as u64 + 1);
    }
}
