//! When a host's process is to give memory back and be looked at, and what its memory says of it.
//! The decisions alone; the host carries them out.

use std::time::Duration;

use tokio::time::Instant;

use super::leak::{Leak, LeakConfig, Point, Trend};

/// Without a call for so long, the host is at rest: what calls left behind goes back to the system.
const REST: Duration = Duration::from_secs(30);

/// Whoever asks for a trim this soon after the last one gets nothing that is worth its time.
const FRESH: Duration = Duration::from_secs(1);

/// Looks that nobody asked for take at most this part of the time: a busy host must not notice.
const COST_MAX: u32 = 200;

/// Between two looks, growth by this part of what counts as a leak brings the next one forward.
const EARLY: u64 = 4;

/// A host misbehaves when it holds more than this many times what it was thought to need ...
const OVERGROWN_TIMES: u64 = 2;

/// ... and at least this many bytes more.
const OVERGROWN_MIN: u64 = 256 * 1024 * 1024;

/// Why a host's process is to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplaceReason {
    /// It leaks: replaced between two requests.
    Leak(Leak),
    /// It holds far more than it was thought to need: replaced when nobody waits for it.
    Overgrown { expected: u64, bytes: u64 },
}

impl ReplaceReason {
    /// A fixed word for metrics and logs.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Leak(_) => "leak",
            Self::Overgrown { .. } => "overgrown",
        }
    }
}

/// What is known of one process.
#[derive(Debug)]
pub(super) struct LeakMonitor {
    config: LeakConfig,
    trend: Trend,
    /// Bytes that it was thought to need.
    expected: u64,
    /// Bytes when it was loaded.
    at_first: u64,
    calls: u64,
    last_call: Instant,
    trimmed: Option<Instant>,
    calls_at_trim: u64,
    last_point: Point,
    /// The first call after the last point.
    used_since: Option<Instant>,
    /// Looks that nobody asked for wait until then.
    not_before: Instant,
    /// A sign of life showed growth since the last point.
    swollen: bool,
}

impl LeakMonitor {
    /// For a process that has just loaded its model and holds `bytes` that belong to no file. It may
    /// be thought to need more, from what processes before it held.
    pub(super) fn new(config: &LeakConfig, bytes: u64, expected: u64, now: Instant) -> Self {
        Self {
            config: *config,
            trend: Trend::new(config),
            expected: bytes.max(expected),
            at_first: bytes,
            calls: 0,
            last_call: now,
            trimmed: None,
            calls_at_trim: 0,
            last_point: Point { calls: 0, bytes },
            used_since: None,
            not_before: now,
            swollen: false,
        }
    }

    /// A call has ended.
    pub(super) fn on_call(&mut self, now: Instant) {
        self.calls += 1;
        self.last_call = now;
        self.used_since.get_or_insert(now);
    }

    /// It holds `bytes`, by a sign of life: what is free in the process and a call's temporaries
    /// included, so this is a reason to look, no more.
    pub(super) fn on_sign_of_life(&mut self, bytes: u64) {
        let grown = bytes.saturating_sub(self.last_point.bytes);
        self.swollen = self.calls > self.last_point.calls && grown > self.config.growth_min / EARLY;
    }

    /// Whether it is time to trim it, for a point or for rest. The host may be busy: then it happens
    /// between two calls.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.not_before && (self.is_point_due(now) || self.is_at_rest(now))
    }

    fn is_point_due(&self, now: Instant) -> bool {
        let calls = self.calls - self.last_point.calls;
        let used = self.used_since.map_or(Duration::ZERO, |since| now - since);
        let lookout = self.config.enabled && calls > 0;
        lookout && (calls >= self.config.every_calls || used >= self.config.every || self.swollen)
    }

    fn is_at_rest(&self, now: Instant) -> bool {
        self.calls > self.calls_at_trim && now - self.last_call >= REST
    }

    /// Whether it was trimmed so recently that another one would bring nothing.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.trimmed.is_some_and(|trimmed| now - trimmed < FRESH)
    }

    /// It was trimmed, which `took` so long, and holds `bytes`. Says what is wrong with it, if
    /// something is.
    pub(super) fn on_trimmed(
        &mut self,
        bytes: u64,
        took: Duration,
        now: Instant,
    ) -> Option<ReplaceReason> {
        let is_point = self.is_point_due(now);
        self.trimmed = Some(now);
        self.calls_at_trim = self.calls;
        self.not_before = now + took * COST_MAX;
        if !self.config.enabled {
            return None;
        }
        let leak = is_point.then(|| self.add_point(bytes)).flatten();
        let overgrown = bytes > self.expected.saturating_mul(OVERGROWN_TIMES)
            && bytes - self.expected > OVERGROWN_MIN;
        match leak {
            Some(leak) => Some(ReplaceReason::Leak(leak)),
            None => overgrown.then_some(ReplaceReason::Overgrown {
                expected: self.expected,
                bytes,
            }),
        }
    }

    fn add_point(&mut self, bytes: u64) -> Option<Leak> {
        let calls = self.calls;
        self.last_point = Point { calls, bytes };
        self.used_since = None;
        self.swollen = false;
        self.trend.add(self.last_point)
    }

    /// Bytes that it holds more than when it was loaded, at the last look.
    pub(super) fn growth(&self) -> u64 {
        self.last_point.bytes.saturating_sub(self.at_first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const TOOK: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn leak_monitor(now: Instant) -> LeakMonitor {
        LeakMonitor::new(&LeakConfig::default(), 60 * MIB, 0, now)
    }

    #[test]
    fn it_is_looked_at_after_so_many_calls_or_so_much_use_whichever_comes_first() {
        let start = Instant::now();
        let mut busy = leak_monitor(start);
        for _ in 0..499 {
            busy.on_call(start);
        }
        assert!(!busy.is_due(start));
        busy.on_call(start);
        assert!(busy.is_due(start));
        busy.on_trimmed(60 * MIB, TOOK, start);
        assert!(!busy.is_due(start));

        let mut slow = leak_monitor(start);
        slow.on_call(start);
        assert!(!slow.is_due(start + 29 * SECOND));
        slow.on_call(start + 29 * SECOND);
        assert!(slow.is_due(start + 30 * SECOND));
    }

    #[test]
    fn looks_that_nobody_asked_for_take_half_a_percent_of_the_time_at_most() {
        let start = Instant::now();
        let mut leak_monitor = leak_monitor(start);
        let mut looks = 0;
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            (0..600).for_each(|_| leak_monitor.on_call(now));
            if leak_monitor.is_due(now) {
                leak_monitor.on_trimmed(60 * MIB, TOOK, now);
                looks += 1;
            }
        }
        assert_eq!(looks, 50);
    }

    #[test]
    fn at_rest_it_is_trimmed_once_and_not_again_before_it_was_used() {
        let start = Instant::now();
        let mut leak_monitor = leak_monitor(start);
        assert!(
            !leak_monitor.is_due(start + 100 * SECOND),
            "it was never used"
        );
        leak_monitor.on_call(start);
        let rests = start + 31 * SECOND;
        assert!(leak_monitor.is_due(rests));
        leak_monitor.on_trimmed(60 * MIB, TOOK, rests);
        assert!(!leak_monitor.is_due(start + 100 * SECOND));
        assert!(leak_monitor.is_fresh(rests + SECOND / 2));
        assert!(!leak_monitor.is_fresh(rests + SECOND));
    }

    #[test]
    fn growth_brings_the_next_look_forward() {
        let start = Instant::now();
        let mut leak_monitor = leak_monitor(start);
        leak_monitor.on_call(start);
        leak_monitor.on_sign_of_life(68 * MIB);
        assert!(!leak_monitor.is_due(start));
        leak_monitor.on_sign_of_life(69 * MIB);
        assert!(leak_monitor.is_due(start));
    }

    #[test]
    fn steady_growth_is_a_leak_and_its_looks_are_not_confused_by_other_trims() {
        let start = Instant::now();
        let mut leak_monitor = leak_monitor(start);
        for round in 0..40 {
            let now = start + round * SECOND;
            (0..250).for_each(|_| leak_monitor.on_call(now));
            let bytes = (60 + u64::from(round) * 4) * MIB;
            if let Some(found) = leak_monitor.on_trimmed(bytes, TOOK, now) {
                assert_eq!(found.label(), "leak");
                // Only every second one of these trims is a point.
                assert_eq!(round, 33);
                return;
            }
        }
        panic!("no leak was found");
    }

    #[test]
    fn far_more_than_it_was_thought_to_need_is_misbehaviour() {
        let start = Instant::now();
        let mut leak_monitor = leak_monitor(start);
        assert_eq!(leak_monitor.on_trimmed(316 * MIB, TOOK, start), None);
        let found = leak_monitor.on_trimmed(317 * MIB, TOOK, start);
        let expected = ReplaceReason::Overgrown {
            expected: 60 * MIB,
            bytes: 317 * MIB,
        };
        assert_eq!(found, Some(expected));
        // The next process is thought to need as much.
        let mut next = LeakMonitor::new(&LeakConfig::default(), 60 * MIB, 317 * MIB, start);
        assert_eq!(next.on_trimmed(600 * MIB, TOOK, start), None);
        assert!(next.on_trimmed(635 * MIB, TOOK, start).is_some());
    }

    #[test]
    fn without_leak_detection_it_is_still_trimmed_at_rest() {
        let start = Instant::now();
        let config = LeakConfig {
            enabled: false,
            ..LeakConfig::default()
        };
        let mut leak_monitor = LeakMonitor::new(&config, 60 * MIB, 0, start);
        (0..1000).for_each(|_| leak_monitor.on_call(start));
        assert!(!leak_monitor.is_due(start));
        assert!(leak_monitor.is_due(start + REST));
        assert_eq!(leak_monitor.on_trimmed(u64::MAX, TOOK, start), None);
    }
}
