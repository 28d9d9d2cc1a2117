//! The level now, and how it got there.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use crate::kernel::pressure::{Acknowledgement, Level};

/// Changes of the level that are remembered.
const EVENTS_MAX: usize = 1000;

/// One change of the level, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When.
    #[serde(serialize_with = "as_text")]
    pub at: SystemTime,
    /// The level before.
    pub from: Level,
    /// The level after.
    pub to: Level,
    /// Bytes used when it changed.
    pub used_bytes: u64,
    /// Bytes that were asked back first.
    pub wanted_bytes: u64,
    /// Bytes that subscribers say they gave back while the level lasted.
    pub acknowledged_bytes: u64,
    /// Who did not answer the last request in time.
    pub silent: Vec<String>,
    /// Bytes really used, read after the last answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_after_bytes: Option<u64>,
}

fn as_text<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

/// The level now, since when, and the changes before it.
#[derive(Debug)]
pub(super) struct History {
    level: Level,
    since: Instant,
    events: VecDeque<Event>,
    /// When the last answers came in, until a reading that began later verifies them.
    unverified: Option<Instant>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            level: Level::Normal,
            since: Instant::now(),
            events: VecDeque::new(),
            unverified: None,
        }
    }
}

impl History {
    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// How long the level has lasted.
    pub(super) fn held(&self) -> Duration {
        self.since.elapsed()
    }

    pub(super) fn change(&mut self, to: Level, used_bytes: u64, wanted_bytes: u64) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            at: SystemTime::now(),
            from: self.level,
            to,
            used_bytes,
            wanted_bytes,
            acknowledged_bytes: 0,
            silent: Vec::new(),
            used_after_bytes: None,
        });
        self.level = to;
        self.since = Instant::now();
        self.unverified = None;
    }

    /// Notes what the subscribers answered to a request at the present level.
    pub(super) fn acknowledge(&mut self, came: &[Acknowledgement], silent: Vec<String>) {
        let Some(event) = self.events.back_mut() else {
            return;
        };
        let bytes = came.iter().map(|answer| answer.bytes);
        event.acknowledged_bytes = bytes.fold(event.acknowledged_bytes, u64::saturating_add);
        event.silent = silent;
        self.unverified = Some(Instant::now());
    }

    /// Notes what a reading that began at `began` found, if that verifies earlier answers.
    pub(super) fn verify(&mut self, began: Instant, used_bytes: u64) {
        if self.unverified.is_some_and(|answered| answered <= began)
            && let Some(event) = self.events.back_mut()
        {
            event.used_after_bytes = Some(used_bytes);
            self.unverified = None;
        }
    }

    /// The latest `count` changes, oldest first.
    pub(super) fn latest(&self, count: usize) -> Vec<Event> {
        let skipped = self.events.len().saturating_sub(count);
        self.events.iter().skip(skipped).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: u64) -> Acknowledgement {
        Acknowledgement {
            name: "loader".into(),
            bytes,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_remembers_what_was_promised_and_what_came() {
        let mut history = History::default();
        history.acknowledge(&[answer(1)], Vec::new());
        let early = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        history.change(Level::High, 90, 20);
        history.acknowledge(&[answer(5), answer(6)], vec!["cache".into()]);
        history.acknowledge(&[answer(u64::MAX)], Vec::new());
        history.verify(early, 99);
        history.verify(Instant::now(), 70);
        history.verify(Instant::now(), 10);
        let event = &history.latest(9)[0];
        assert_eq!((event.from, event.to), (Level::Normal, Level::High));
        assert_eq!(event.acknowledged_bytes, u64::MAX);
        assert_eq!(event.used_after_bytes, Some(70));
        assert_eq!(event.silent, Vec::<String>::new());
        let shown = serde_json::to_value(event).unwrap();
        assert!(shown["at"].as_str().unwrap().ends_with('Z'), "{shown}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_changes_are_forgotten() {
        let mut history = History::default();
        for used in 0..=EVENTS_MAX as u64 {
            history.change(Level::High, used, 0);
        }
        let all = history.latest(usize::MAX);
        assert_eq!((all.len(), all[0].used_bytes), (EVENTS_MAX, 1));
        assert_eq!(history.latest(1)[0].used_bytes, EVENTS_MAX as u64);
    }
}
