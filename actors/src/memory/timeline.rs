//! The usage of the last 15 minutes, for a chart: a ring of slots that holds what readings showed. It
//! outlives the actor, and a slot without a reading is missing.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::kernel::pressure::Level;
use crate::kernel::{Clock, Timestamp};

/// The time that one slot covers.
const SLOT: Duration = Duration::from_secs(5);

/// The time that all slots cover.
const WINDOW: Duration = Duration::from_secs(15 * 60);

/// The present slot is not full, so there is one more.
const SLOTS_MAX: u64 = WINDOW.as_secs() / SLOT.as_secs() + 1;

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
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) used: u64,
    pub(super) projected: u64,
    pub(super) budget: u64,
    pub(super) level: Level,
}

/// The ring of slots.
#[derive(Debug)]
pub(super) struct Ring {
    began: Instant,
    slots: VecDeque<Slot>,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    used_max: u64,
    /// The last sample, with the highest projection and level.
    sample: Sample,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            slots: VecDeque::new(),
        }
    }
}

impl Ring {
    /// Adds what a reading has shown now.
    pub(super) fn add(&mut self, sample: Sample) {
        let number = self.began.elapsed().as_secs() / SLOT.as_secs();
        self.forget(number);
        match self.slots.back_mut() {
            Some(slot) if slot.number == number => {
                slot.used_max = slot.used_max.max(sample.used);
                slot.sample = Sample {
                    projected: sample.projected.max(slot.sample.projected),
                    level: sample.level.max(slot.sample.level),
                    ..sample
                };
            }
            _ => self.slots.push_back(Slot {
                number,
                used_max: sample.used,
                sample,
            }),
        }
    }

    /// Drops the slots that are too old when slot `number` is the present one.
    fn forget(&mut self, number: u64) {
        let is_old = |slot: &mut Slot| slot.number + SLOTS_MAX <= number;
        while self.slots.pop_front_if(is_old).is_some() {}
    }

    /// The slots of the last 15 minutes.
    pub(super) fn timeline(&mut self) -> Timeline {
        self.forget(self.began.elapsed().as_secs() / SLOT.as_secs());
        let clock = Clock::now();
        let slots = self.slots.iter().map(|slot| TimelineSlot {
            number: slot.number,
            at: clock.time_of(self.began + Duration::from_secs(slot.number * SLOT.as_secs())),
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
        let mut ring = Ring::default();
        ring.add(sample(300, Level::Normal));
        ring.add(sample(800, Level::High));
        ring.add(sample(400, Level::Normal));
        advance(SLOT * 3).await;
        ring.add(sample(100, Level::Normal));
        let timeline = ring.timeline();
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
    async fn the_ring_is_bounded_and_forgets_what_is_old() {
        let mut ring = Ring::default();
        for used in 0..400 {
            ring.add(sample(used, Level::Normal));
            advance(SLOT).await;
        }
        // Slot 400 has just begun, and has no reading.
        let numbers = ring.timeline().slots.into_iter().map(|slot| slot.number);
        assert_eq!(numbers.collect::<Vec<_>>(), (220..400).collect::<Vec<_>>());
        advance(WINDOW - SLOT).await;
        assert_eq!(ring.timeline().slots.len(), 1);
        advance(SLOT).await;
        assert_eq!(ring.timeline().slots, []);
    }
}
