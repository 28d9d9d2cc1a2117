//! The usage of the last 15 minutes, for a chart: slots that hold what readings showed. They
//! outlive the actor, and a slot without a reading is missing.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::kernel::pressure::Level;
use crate::kernel::{Clock, Merge, Rolling, Timestamp};

/// The time that one slot covers.
const SLOT: Duration = Duration::from_secs(5);

/// The time that all slots cover.
const WINDOW: Duration = Duration::from_secs(15 * 60);

/// What the readings within one slot of the timeline showed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct TimelineSlot {
    /// The number of the slot. It grows by one with each slot since the server started.
    pub number: u64,
    /// When the slot began.
    pub at: Timestamp,
    /// The usage by the last reading.
    pub used_bytes: u64,
    /// The highest usage.
    pub used_max_bytes: u64,
    /// The highest usage that there would have been with every reservation used in full.
    pub projected_max_bytes: u64,
    /// The budget at the last reading.
    pub budget_bytes: u64,
    /// The highest level.
    pub level: Level,
}

/// The latest slots in which memory was read.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = UsageTimeline)]
pub struct Timeline {
    /// The time that one slot covers.
    pub slot_seconds: u64,
    /// The time that all slots cover.
    pub window_seconds: u64,
    /// The slots, oldest first. One without a reading is missing.
    pub slots: Vec<TimelineSlot>,
}

/// What one reading showed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    pub(super) used: u64,
    pub(super) projected: u64,
    pub(super) budget: u64,
    pub(super) level: Level,
}

/// The slots that readings fill.
#[derive(Debug)]
pub(super) struct Usage(Rolling<Slot>);

/// The last sample of a slot, with the highest projection and level.
#[derive(Debug, Default)]
struct Slot {
    used_max: u64,
    sample: Sample,
}

impl Merge for Slot {
    fn merge(&mut self, later: &Self) {
        self.used_max = self.used_max.max(later.used_max);
        self.sample = Sample {
            projected: self.sample.projected.max(later.sample.projected),
            level: self.sample.level.max(later.sample.level),
            ..later.sample
        };
    }
}

impl Default for Usage {
    fn default() -> Self {
        Self(Rolling::new(SLOT, WINDOW))
    }
}

impl Usage {
    /// Adds what a reading has shown now.
    pub(super) fn add(&mut self, sample: Sample) {
        let used_max = sample.used;
        self.0.add(&Slot { used_max, sample });
    }

    /// The slots of the last 15 minutes.
    pub(super) fn timeline(&self) -> Timeline {
        let clock = Clock::now();
        let slots = self.0.slots().map(|(number, began, slot)| TimelineSlot {
            number,
            at: clock.time_of(began),
            used_bytes: slot.sample.used,
            used_max_bytes: slot.used_max,
            projected_max_bytes: slot.sample.projected,
            budget_bytes: slot.sample.budget,
            level: slot.sample.level,
        });
        Timeline {
            slot_seconds: SLOT.as_secs(),
            window_seconds: WINDOW.as_secs(),
            slots: slots.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn sample(used: u64, level: Level) -> Sample {
        Sample {
            used,
            projected: used + 10,
            budget: 1000,
            level,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_keeps_the_last_usage_and_the_highest_of_everything() {
        let mut usage = Usage::default();
        usage.add(sample(300, Level::Normal));
        usage.add(sample(800, Level::High));
        usage.add(sample(400, Level::Normal));
        advance(SLOT * 3).await;
        usage.add(sample(100, Level::Normal));
        let timeline = usage.timeline();
        let seen = timeline.slots.iter().map(|slot| {
            let level = slot.level;
            (slot.number, slot.used_bytes, slot.used_max_bytes, level)
        });
        assert_eq!(
            seen.collect::<Vec<_>>(),
            [(0, 400, 800, Level::High), (3, 100, 100, Level::Normal)]
        );
        assert_eq!(timeline.slots[0].projected_max_bytes, 810);
    }

    #[tokio::test(start_paused = true)]
    async fn the_slots_are_bounded_and_the_timeline_forgets_what_is_old() {
        let mut usage = Usage::default();
        for used in 0..400 {
            usage.add(sample(used, Level::Normal));
            advance(SLOT).await;
        }
        // Slot 400 has just begun, and has no reading.
        let numbers = usage.timeline().slots.into_iter().map(|slot| slot.number);
        assert_eq!(numbers.collect::<Vec<_>>(), (220..400).collect::<Vec<_>>());
        advance(WINDOW - SLOT).await;
        assert_eq!(usage.timeline().slots.len(), 1);
        advance(SLOT).await;
        assert_eq!(usage.timeline().slots, []);
    }
}
