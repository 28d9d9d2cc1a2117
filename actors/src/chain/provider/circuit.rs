//! The circuit in front of a provider: it opens when too many of the last calls failed, and a health check closes it.
//!
//! What counts as a failure is decided by whoever records it: errors of callers do not, so that no caller can take a
//! provider from the others.

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

/// The calls that count: at most so many, of at most this age.
const CALLS_MAX: usize = 64;
const AGE_MAX: Duration = Duration::from_secs(30);

/// With fewer calls, the share of failures says little.
const CALLS_MIN: usize = 5;

/// The share of failures that opens it.
const SHARE: f64 = 0.5;

/// How long it stays open, at first and at last. At least half of it passes.
const OPEN_MIN: Duration = Duration::from_secs(1);
const OPEN_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Circuit {
    calls: VecDeque<(Instant, bool)>,
    /// When the next probe is due, while it is open.
    open_until: Option<Instant>,
    /// When it was due before somebody could not wait for it.
    hurried_from: Option<Instant>,
    /// How often it was opened since a probe succeeded.
    openings: u32,
}

impl Circuit {
    /// When the next probe is due, while it is open.
    pub(super) fn open_until(&self) -> Option<Instant> {
        self.open_until
    }

    /// Whether a probe is due. Without one, it stays open.
    pub(super) fn wants_probe(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| until <= now)
    }

    /// Records a call. True if it has opened.
    pub(super) fn record(&mut self, failed: bool, now: Instant) -> bool {
        if self.open_until.is_some() {
            // It was sent before it opened, and says nothing new.
            return false;
        }
        self.calls.push_back((now, failed));
        let is_old = |at: &Instant| now.saturating_duration_since(*at) > AGE_MAX;
        while self.calls.len() > CALLS_MAX || self.calls.front().is_some_and(|(at, _)| is_old(at)) {
            self.calls.pop_front();
        }
        let failures = self.calls.iter().filter(|(_, failed)| *failed).count();
        #[expect(clippy::cast_precision_loss, reason = "few calls")]
        let share = failures as f64 / self.calls.len() as f64;
        let opens = failed && self.calls.len() >= CALLS_MIN && share >= SHARE;
        if opens {
            self.open(now);
        }
        opens
    }

    /// Makes a probe due, if it is open. Returns whether it is.
    pub(super) fn hurry(&mut self, now: Instant) -> bool {
        if let Some(until) = self.open_until.filter(|until| *until > now) {
            self.hurried_from = Some(until);
            self.open_until = Some(now);
        }
        self.open_until.is_some()
    }

    /// Records a probe of an open one.
    pub(super) fn probed(&mut self, failed: bool, now: Instant) {
        let hurried_from = self.hurried_from.take().filter(|until| *until > now);
        match (failed, hurried_from) {
            // It was before its time, and changes nothing.
            (true, Some(until)) => self.open_until = Some(until),
            (true, None) => self.open(now),
            (false, _) => {
                self.openings = 0;
                self.open_until = None;
            }
        }
    }

    /// Opens it, or keeps it open for longer.
    fn open(&mut self, now: Instant) {
        let factor = 2_u32.saturating_pow(self.openings);
        self.openings = self.openings.saturating_add(1);
        let longest = OPEN_MIN.saturating_mul(factor).min(OPEN_MAX);
        let wait = rand::rng().random_range(longest / 2..=longest);
        self.open_until = Some(now + wait);
        self.hurried_from = None;
        self.calls.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Circuit {
        let mut circuit = Circuit::default();
        let opened: Vec<_> = (0..5).map(|_| circuit.record(true, now)).collect();
        assert_eq!(opened, [false, false, false, false, true]);
        circuit
    }

    #[test]
    fn it_opens_when_half_of_the_last_calls_failed_and_not_for_few_of_them() {
        let now = Instant::now();
        let mut circuit = Circuit::default();
        for _ in 0..100 {
            assert!(!circuit.record(false, now));
            assert!(!circuit.record(false, now));
            assert!(!circuit.record(true, now));
        }
        assert_eq!(circuit.calls.len(), CALLS_MAX);
        let opens = (0..40).position(|_| circuit.record(true, now));
        assert!(opens.is_some_and(|calls| calls > 5), "{opens:?}");
        opened(now);
    }

    #[test]
    fn old_failures_are_forgotten() {
        let now = Instant::now();
        let mut circuit = Circuit::default();
        for _ in 0..4 {
            circuit.record(true, now);
        }
        let later = now + AGE_MAX + Duration::from_secs(1);
        assert!(!circuit.record(true, later));
        assert_eq!(circuit.open_until(), None);
    }

    #[test]
    fn a_probe_before_its_time_closes_it_or_changes_nothing() {
        let now = Instant::now();
        let mut circuit = opened(now);
        let until = circuit.open_until();
        let soon = now + OPEN_MIN / 4;
        for _ in 0..10 {
            assert!(!circuit.wants_probe(soon));
            assert!(circuit.hurry(soon) && circuit.hurry(soon));
            assert!(circuit.wants_probe(soon));
            circuit.probed(true, soon);
            assert_eq!(circuit.open_until(), until);
        }
        assert!(circuit.hurry(soon));
        circuit.probed(false, soon);
        assert_eq!(circuit.open_until(), None);
        assert!(!circuit.hurry(soon));
    }

    #[test]
    fn it_stays_open_until_a_probe_succeeds_and_longer_after_each_that_fails() {
        let mut now = Instant::now();
        let mut circuit = opened(now);
        let mut waits = Vec::new();
        for _ in 0..10 {
            let until = circuit.open_until().unwrap();
            assert!(!circuit.wants_probe(now) && circuit.wants_probe(until));
            waits.push(until - now);
            now = until;
            assert!(!circuit.record(true, now), "late failures do not count");
            circuit.probed(true, now);
        }
        assert!(
            waits[0] >= OPEN_MIN / 2 && waits[0] <= OPEN_MIN,
            "{waits:?}"
        );
        assert!(
            waits[9] >= OPEN_MAX / 2 && waits[9] <= OPEN_MAX,
            "{waits:?}"
        );
        circuit.probed(false, now);
        assert_eq!(circuit.open_until(), None);
        for _ in 0..5 {
            circuit.record(true, now);
        }
        assert!(circuit.open_until().unwrap() - now <= OPEN_MIN);
    }
}
