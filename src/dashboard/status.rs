//! `GET /api/status`: the form of the status, which the page at `/` and `headroom status` show.

use std::cmp::Reverse;

use headroom_actors::kernel::Timestamp;
use headroom_actors::memory::{BudgetOverview, Timeline as UsageTimeline};
use serde::Serialize;
use utoipa::ToSchema;

use super::alerts::{Alert, Verdict};
use super::events::{EventSource, TimelineEvent};
use super::jobs::Jobs;
use super::pools::PoolState;
use super::resources::Resources;
use super::supervision::Supervision;
use super::uploads::Uploads;
use crate::chains::Report;
use crate::last_known::Answer;

/// The status of the whole server at one moment.
///
/// A part that is asked has `"state": "answered"`. If it does not answer within 40 ms, it has `"state":
/// "no_answer"`, `waited_ms` and `reason`, and shows its last answer, if there was one, with its age in
/// `age_seconds`.
#[derive(Serialize, ToSchema)]
pub struct Status {
    /// When it was asked for.
    pub at: Timestamp,
    /// How long the parts took to answer.
    pub took_ms: f64,
    /// Whether each list has only its first 10 entries, and the budget only its 10 largest reservations,
    /// because there is no memory for the text of all. Only events of `GET /api/status/events` are.
    pub shortened: bool,
    /// The server itself.
    pub server: ServerInfo,
    /// Whether it is well: the worst that the alerts say.
    pub verdict: Verdict,
    /// What needs attention, the most severe first; at most 50.
    pub alerts: Vec<Alert>,
    /// How many alerts there are, those that are not listed included.
    pub alerts_total: usize,
    /// The memory budget, and who holds it.
    pub budget: Answer<BudgetOverview>,
    /// Usage, levels and events of the last 15 minutes.
    pub timeline: Timeline,
    /// The supervision tree.
    pub supervision: Answer<Supervision>,
    /// What the loader has loaded and can load.
    pub resources: Answer<Resources>,
    /// The connection pools.
    pub pools: Vec<PoolState>,
    /// The jobs that run, and those that ended of late.
    pub jobs: Answer<Jobs>,
    /// The uploads in progress, and what is stored.
    pub uploads: Answer<Uploads>,
    /// The chains that are served, by name.
    pub chains: Vec<Report>,
}

impl Status {
    /// With at most the first `count` entries of each list.
    pub(super) fn shortened(mut self, count: usize) -> Self {
        self.alerts.truncate(count);
        Self {
            shortened: true,
            budget: self.budget.map(|budget| largest(budget, count)),
            supervision: self.supervision.map(|tree| tree.clone().first(count)),
            resources: self.resources.map(|known| known.clone().first(count)),
            jobs: self.jobs.map(|jobs| jobs.clone().first(count)),
            uploads: self.uploads.map(|uploads| uploads.clone().first(count)),
            ..self
        }
    }
}

/// The budget with its `count` largest reservations.
fn largest(budget: &BudgetOverview, count: usize) -> BudgetOverview {
    let mut budget = budget.clone();
    let entries = &mut budget.entries;
    entries.sort_by_key(|entry| Reverse(entry.measured_bytes.max(entry.reserved_bytes)));
    entries.truncate(count);
    budget
}

/// The server itself.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ServerInfo {
    /// Its version.
    pub version: &'static str,
    /// Its process id.
    pub pid: u32,
    /// When it was started. It tells one run of the server from another.
    pub started_at: Timestamp,
    /// How long it has run.
    pub uptime_seconds: f64,
}

/// Usage, levels and events of the last 15 minutes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Timeline {
    /// Whether it has all slots and events of that time. In `GET /api/status/events`, only the first event
    /// of a connection has; later ones have the latest slots and events, those that the client lacks
    /// included. If memory is short, an event has only the latest, and a later one has all.
    pub complete: bool,
    /// The usage and the levels.
    #[serde(flatten)]
    pub usage: UsageTimeline,
    /// The events of the memory budget and of resources, oldest first; at most 200 of each.
    pub events: Vec<TimelineEvent>,
}

impl Timeline {
    /// The number of the latest slot; 0 without one.
    pub(super) fn last_slot(&self) -> u64 {
        self.usage.slots.last().map_or(0, |slot| slot.number)
    }

    /// The number of the latest event of `source`; 0 without one.
    pub(super) fn last_event(&self, source: EventSource) -> u64 {
        let mut latest = self.events.iter().rev();
        let latest = latest.find(|event| event.source == source);
        latest.map_or(0, |event| event.number)
    }

    /// Only the latest `count` slots, and events of each source.
    pub(super) fn latest(&self, count: u64) -> Self {
        let last_slot = self.last_slot();
        let slots = self.usage.slots.iter();
        let events = self.events.iter().filter(|event| {
            let last = self.last_event(event.source);
            event.number + count > last
        });
        Self {
            complete: false,
            usage: UsageTimeline {
                slots: slots
                    .filter(|slot| slot.number + count > last_slot)
                    .copied()
                    .collect(),
                ..self.usage
            },
            events: events.cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use headroom_actors::kernel::pressure::Level;
    use headroom_actors::memory::TimelineSlot;

    use super::*;

    #[test]
    fn the_recent_timeline_has_the_latest_slots_and_events_of_each_source() {
        let at = Timestamp::now();
        let slot = |number| TimelineSlot {
            number,
            at,
            used_bytes: 0,
            used_max_bytes: 0,
            projected_max_bytes: 0,
            budget_bytes: 0,
            level: Level::Normal,
        };
        let event = |source, number| TimelineEvent {
            source,
            number,
            at,
            event: "level",
            text: String::new(),
        };
        let of_memory = (1..=30).map(|number| event(EventSource::Memory, number));
        let of_loader = (1..=3).map(|number| event(EventSource::LazyLoader, number));
        let timeline = Timeline {
            complete: true,
            usage: UsageTimeline {
                slot_seconds: 5,
                window_seconds: 900,
                // Slots without a reading are missing.
                slots: [1, 2, 3, 97, 99, 100].map(slot).into(),
            },
            events: of_loader.chain(of_memory).collect(),
        };
        let recent = timeline.latest(6);
        assert!(!recent.complete);
        let slots = recent.usage.slots.iter().map(|slot| slot.number);
        assert_eq!(slots.collect::<Vec<_>>(), [97, 99, 100]);
        let numbers = |source| -> Vec<_> {
            let events = recent.events.iter().filter(|event| event.source == source);
            events.map(|event| event.number).collect()
        };
        assert_eq!(numbers(EventSource::Memory), [25, 26, 27, 28, 29, 30]);
        assert_eq!(numbers(EventSource::LazyLoader), [1, 2, 3]);
    }
}
