//! Decides when a host process is trimmed and measured, and whether it leaks or is overgrown: uses
//! far more memory than expected. The host actor carries the decisions out.

use std::time::Duration;

use tokio::time::Instant;

use super::leak::{Leak, LeakConfig, LeakDetector, Point};
use crate::kernel::NoticeKind;

/// After this time without a call the host is trimmed, to free what calls have left behind.
const IDLE_AFTER: Duration = Duration::from_secs(30);

/// A second trim within this time would free next to nothing.
const TRIM_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The monitor's own trims take at most this part of a host's time: 1/200.
const TRIM_COST_DIVISOR: u32 = 200;

/// The next measurement is due early when memory has grown by a quarter of the least growth that counts as a leak.
const EARLY_GROWTH_DIVISOR: u64 = 4;

/// A process is overgrown when it uses more than this many times what was expected ...
const OVERGROWN_FACTOR: u64 = 2;

/// ... and at least this many bytes more.
const OVERGROWN_MIN: u64 = 256 * 1024 * 1024;

/// Why a host process must be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplaceReason {
    /// It leaks: replaced between two requests.
    Leak(Leak),
    /// It uses far more than expected: replaced when no request waits.
    Overgrown { expected: u64, bytes: u64 },
}

impl ReplaceReason {
    /// The label in metrics and logs.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Leak(_) => "leak",
            Self::Overgrown { .. } => "overgrown",
        }
    }
}

impl From<ReplaceReason> for NoticeKind {
    fn from(reason: ReplaceReason) -> Self {
        match reason {
            ReplaceReason::Leak(leak) => Self::Leaking {
                from_bytes: leak.from_bytes,
                to_bytes: leak.to_bytes,
                calls: leak.calls,
            },
            ReplaceReason::Overgrown { expected, bytes } => Self::Overgrown {
                estimated_bytes: expected,
                measured_bytes: bytes,
            },
        }
    }
}

/// The measurements of one process.
#[derive(Debug)]
pub(super) struct MemoryMonitor {
    config: LeakConfig,
    detector: LeakDetector,
    /// Bytes that it is expected to use.
    expected: u64,
    bytes_at_load: u64,
    calls: u64,
    last_call: Instant,
    last_trim: Option<Instant>,
    calls_at_trim: u64,
    last_point: Point,
    /// The first call after the last point.
    first_call_since_point: Option<Instant>,
    /// The monitor's own trims wait until then.
    next_trim: Instant,
    /// Whether a pong showed growth since the last point.
    has_grown: bool,
}

impl MemoryMonitor {
    /// Monitors a process that has just loaded its model. `bytes` is its memory that belongs to no
    /// file. It may be expected to use the larger of `bytes` and `expected`.
    pub(super) fn new(config: &LeakConfig, bytes: u64, expected: u64, now: Instant) -> Self {
        Self {
            config: *config,
            detector: LeakDetector::new(config),
            expected: bytes.max(expected),
            bytes_at_load: bytes,
            calls: 0,
            last_call: now,
            last_trim: None,
            calls_at_trim: 0,
            last_point: Point { calls: 0, bytes },
            first_call_since_point: None,
            next_trim: now,
            has_grown: false,
        }
    }

    /// A call has ended.
    pub(super) fn on_call(&mut self, now: Instant) {
        self.calls += 1;
        self.last_call = now;
        self.first_call_since_point.get_or_insert(now);
    }

    /// It uses `bytes` according to a pong. These include free memory and a call's temporary memory,
    /// so that growth only makes the next point due.
    pub(super) fn on_pong(&mut self, bytes: u64) {
        let grown = bytes.saturating_sub(self.last_point.bytes);
        self.has_grown = self.calls > self.last_point.calls
            && grown > self.config.growth_min / EARLY_GROWTH_DIVISOR;
    }

    /// Whether to trim it now, for a point or because it is idle. A busy host is trimmed between two
    /// calls.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next_trim && (self.is_point_due(now) || self.is_idle(now))
    }

    fn is_point_due(&self, now: Instant) -> bool {
        let calls = self.calls - self.last_point.calls;
        let used = self
            .first_call_since_point
            .map_or(Duration::ZERO, |since| now - since);
        self.config.enabled
            && calls > 0
            && (calls >= self.config.every_calls || used >= self.config.every || self.has_grown)
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.calls > self.calls_at_trim && now - self.last_call >= IDLE_AFTER
    }

    /// Whether another trim would free next to nothing.
    pub(super) fn was_just_trimmed(&self, now: Instant) -> bool {
        self.last_trim
            .is_some_and(|at| now - at < TRIM_INTERVAL_MIN)
    }

    /// A trim took `took` and left `bytes`. Returns why the process must be replaced, if it must.
    pub(super) fn on_trimmed(
        &mut self,
        bytes: u64,
        took: Duration,
        now: Instant,
    ) -> Option<ReplaceReason> {
        let is_point = self.is_point_due(now);
        self.last_trim = Some(now);
        self.calls_at_trim = self.calls;
        self.next_trim = now + took * TRIM_COST_DIVISOR;
        if !self.config.enabled {
            return None;
        }
        let leak = is_point.then(|| self.add_point(bytes)).flatten();
        let overgrown = bytes > self.expected.saturating_mul(OVERGROWN_FACTOR)
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
        self.first_call_since_point = None;
        self.has_grown = false;
        self.detector.add(self.last_point)
    }

    /// Growth since the load in bytes, at the last point.
    pub(super) fn growth(&self) -> u64 {
        self.last_point.bytes.saturating_sub(self.bytes_at_load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const TOOK: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn monitor(now: Instant) -> MemoryMonitor {
        MemoryMonitor::new(&LeakConfig::default(), 60 * MIB, 0, now)
    }

    #[test]
    fn a_point_is_due_after_a_number_of_calls_or_a_time_of_use() {
        let start = Instant::now();
        let mut busy = monitor(start);
        for _ in 0..499 {
            busy.on_call(start);
        }
        assert!(!busy.is_due(start));
        busy.on_call(start);
        assert!(busy.is_due(start));
        busy.on_trimmed(60 * MIB, TOOK, start);
        assert!(!busy.is_due(start));

        let mut slow = monitor(start);
        slow.on_call(start);
        assert!(!slow.is_due(start + 29 * SECOND));
        slow.on_call(start + 29 * SECOND);
        assert!(slow.is_due(start + 30 * SECOND));
    }

    #[test]
    fn own_trims_take_half_a_percent_of_the_time_at_most() {
        let start = Instant::now();
        let mut monitor = monitor(start);
        let mut trims = 0;
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            (0..600).for_each(|_| monitor.on_call(now));
            if monitor.is_due(now) {
                monitor.on_trimmed(60 * MIB, TOOK, now);
                trims += 1;
            }
        }
        assert_eq!(trims, 50);
    }

    #[test]
    fn an_idle_process_is_trimmed_once_until_the_next_call() {
        let start = Instant::now();
        let mut monitor = monitor(start);
        assert!(!monitor.is_due(start + 100 * SECOND), "it had no call");
        monitor.on_call(start);
        let idle = start + 31 * SECOND;
        assert!(monitor.is_due(idle));
        monitor.on_trimmed(60 * MIB, TOOK, idle);
        assert!(!monitor.is_due(start + 100 * SECOND));
        assert!(monitor.was_just_trimmed(idle + SECOND / 2));
        assert!(!monitor.was_just_trimmed(idle + SECOND));
    }

    #[test]
    fn growth_makes_the_next_point_due() {
        let start = Instant::now();
        let mut monitor = monitor(start);
        monitor.on_call(start);
        monitor.on_pong(68 * MIB);
        assert!(!monitor.is_due(start));
        monitor.on_pong(69 * MIB);
        assert!(monitor.is_due(start));
    }

    #[test]
    fn steady_growth_is_a_leak_and_other_trims_are_not_points() {
        let start = Instant::now();
        let mut monitor = monitor(start);
        for round in 0..40 {
            let now = start + round * SECOND;
            (0..250).for_each(|_| monitor.on_call(now));
            let bytes = (60 + u64::from(round) * 4) * MIB;
            if let Some(found) = monitor.on_trimmed(bytes, TOOK, now) {
                assert_eq!(found.label(), "leak");
                // Every second trim is a point.
                assert_eq!(round, 33);
                return;
            }
        }
        panic!("no leak was found");
    }

    #[test]
    fn a_process_far_past_its_expected_size_is_overgrown() {
        let start = Instant::now();
        let mut monitor = monitor(start);
        assert_eq!(monitor.on_trimmed(316 * MIB, TOOK, start), None);
        let found = monitor.on_trimmed(317 * MIB, TOOK, start);
        let expected = ReplaceReason::Overgrown {
            expected: 60 * MIB,
            bytes: 317 * MIB,
        };
        assert_eq!(found, Some(expected));
        // The next process is expected to use as much.
        let mut next = MemoryMonitor::new(&LeakConfig::default(), 60 * MIB, 317 * MIB, start);
        assert_eq!(next.on_trimmed(600 * MIB, TOOK, start), None);
        assert!(next.on_trimmed(635 * MIB, TOOK, start).is_some());
    }

    #[test]
    fn without_leak_detection_an_idle_process_is_still_trimmed() {
        let start = Instant::now();
        let config = LeakConfig {
            enabled: false,
            ..LeakConfig::default()
        };
        let mut monitor = MemoryMonitor::new(&config, 60 * MIB, 0, start);
        (0..1000).for_each(|_| monitor.on_call(start));
        assert!(!monitor.is_due(start));
        assert!(monitor.is_due(start + IDLE_AFTER));
        assert_eq!(monitor.on_trimmed(u64::MAX, TOOK, start), None);
    }
}
