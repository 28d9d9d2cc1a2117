//! Decides whether a host's memory grows without end.
//!
//! Each point is the memory of a host right after a trim, between two calls. It includes neither a
//! call's temporary memory nor free memory of the allocator. A leak must pass four tests over the
//! last points:
//!
//! - the points rise, by the Mann-Kendall test (Mann 1945, Kendall 1975). It compares pairs of points
//!   only by which is larger, so that an outlier changes little;
//! - they rise fast enough, by the Theil-Sen estimator (Theil 1950, Sen 1968), the median of the
//!   slopes of all pairs. Unlike least squares, it gives a single step no slope;
//! - the last half rises nearly as fast as the whole. Growth that levels off is a cache that fills, or
//!   a model that warms up;
//! - the lowest point of the last third is above the highest of the first third. In a sawtooth it is
//!   not.
//!
//! A slow leak takes more time than a fast one to grow by as much, and a host may begin to leak after
//! a week. So the tests run at several scales: each scale takes the lower one of each two points of
//! the scale below, and spans twice the calls.

use std::cmp;
use std::collections::VecDeque;
use std::time::Duration;

/// Scales at most. A point of the last scale represents 65,536 measurements.
const SCALES_MAX: usize = 17;

/// Standard deviations that Mann-Kendall's sum must reach. By chance, it does once in a thousand.
const TREND_MIN: f64 = 3.09;

/// The slope of the last half as a share of the slope of the whole, at least. For growth that
/// levels off exponentially, the ratio is 0.8 when the points cover 0.8 time constants; later it is
/// lower.
const STEADINESS_MIN: f64 = 0.8;

/// The tests must pass for this part of the points in a row, to exclude chance and steps: 1/2.
const CONFIRM_DIVISOR: usize = 2;

/// When a host is measured, and what counts as a leak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeakConfig {
    /// Whether hosts are measured, and replaced when they leak.
    pub enabled: bool,
    /// Calls between two measurements, at most.
    pub every_calls: u64,
    /// Time in use between two measurements, at most.
    pub every: Duration,
    /// Points of a decision.
    pub points: usize,
    /// Growth over these points that counts as a leak: at least this many bytes ...
    pub growth_min: u64,
    /// ... and at least this share of the bytes at the first point.
    pub growth_share: f64,
}

impl Default for LeakConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            every_calls: 500,
            every: Duration::from_secs(30),
            points: 12,
            growth_min: 32 * 1024 * 1024,
            growth_share: 0.25,
        }
    }
}

/// The bytes of a host after a number of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) calls: u64,
    pub(super) bytes: u64,
}

/// A leak: the first and the last point that show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leak {
    pub(super) from_bytes: u64,
    pub(super) to_bytes: u64,
    /// Calls between the two.
    pub(super) calls: u64,
}

/// The points of one host process.
#[derive(Debug)]
pub(super) struct LeakDetector {
    config: LeakConfig,
    scales: Vec<Scale>,
}

#[derive(Debug, Default)]
struct Scale {
    points: VecDeque<Point>,
    /// The first of two points that become one point of the next scale.
    half: Option<Point>,
    /// How many times in a row all tests passed.
    matches_in_a_row: usize,
}

impl LeakDetector {
    pub(super) fn new(config: &LeakConfig) -> Self {
        Self {
            config: *config,
            scales: Vec::new(),
        }
    }

    /// Adds a point. Returns a leak if there is one now.
    pub(super) fn add(&mut self, point: Point) -> Option<Leak> {
        let mut next = Some(point);
        let mut level = 0;
        let mut found = None;
        while let Some(point) = next
            && level < SCALES_MAX
        {
            if level == self.scales.len() {
                self.scales.push(Scale::default());
            }
            next = self.scales[level].add(point, self.config.points);
            let leak = self.leak_in(&self.scales[level]);
            let scale = &mut self.scales[level];
            scale.matches_in_a_row = leak.map_or(0, |_| scale.matches_in_a_row + 1);
            if scale.matches_in_a_row >= self.config.points.div_ceil(CONFIRM_DIVISOR) {
                found = found.or(leak);
            }
            level += 1;
        }
        found
    }

    fn leak_in(&self, scale: &Scale) -> Option<Leak> {
        if scale.points.len() < self.config.points {
            return None;
        }
        let points: Vec<Point> = scale.points.iter().copied().collect();
        let (first, last) = (points[0], points[points.len() - 1]);
        let calls = last.calls.saturating_sub(first.calls);
        let slope = theil_sen(&points);
        let growth = slope * calls as f64;
        let share = first.bytes as f64 * self.config.growth_share;
        let bound = share.max(self.config.growth_min as f64);
        let leaks = growth >= bound
            && has_rising_trend(&points)
            && last_third_is_above_first(&points)
            && theil_sen(&points[points.len() / 2..]) >= slope * STEADINESS_MIN;
        leaks.then_some(Leak {
            from_bytes: first.bytes,
            to_bytes: last.bytes,
            calls,
        })
    }
}

impl Scale {
    /// Adds a point. Every second time, returns the lower one of the last two for the next scale.
    fn add(&mut self, point: Point, points: usize) -> Option<Point> {
        if self.points.len() == points {
            self.points.pop_front();
        }
        self.points.push_back(point);
        match self.half.take() {
            None => {
                self.half = Some(point);
                None
            }
            Some(half) => Some(cmp::min_by_key(point, half, |point| point.bytes)),
        }
    }
}

/// The Mann-Kendall test, one-sided, with its correction for equal values.
fn has_rising_trend(points: &[Point]) -> bool {
    let n = points.len() as f64;
    let mut sum = 0.0;
    for (index, earlier) in points.iter().enumerate() {
        for later in &points[index + 1..] {
            // 1 for greater, 0 for equal, -1 for less.
            sum += f64::from(later.bytes.cmp(&earlier.bytes) as i8);
        }
    }
    let mut bytes: Vec<u64> = points.iter().map(|point| point.bytes).collect();
    bytes.sort_unstable();
    let ties: f64 = bytes
        .chunk_by(|a, b| a == b)
        .map(|equal| weight(equal.len() as f64))
        .sum();
    let variance = (weight(n) - ties) / 18.0;
    variance > 0.0 && (sum - 1.0) / variance.sqrt() >= TREND_MIN
}

/// The weight of `n` values, or of `n` equal values, in the variance of Mann-Kendall's sum.
fn weight(n: f64) -> f64 {
    n * (n - 1.0) * (2.0 * n + 5.0)
}

/// The median slope of all pairs, in bytes per call; 0 without a pair.
fn theil_sen(points: &[Point]) -> f64 {
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (index, earlier) in points.iter().enumerate() {
        for later in &points[index + 1..] {
            let calls = later.calls.saturating_sub(earlier.calls);
            if calls > 0 {
                slopes.push((later.bytes as f64 - earlier.bytes as f64) / calls as f64);
            }
        }
    }
    if slopes.is_empty() {
        return 0.0;
    }
    let middle = slopes.len() / 2;
    *slopes.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// Whether the lowest point of the last third is above the highest of the first third.
fn last_third_is_above_first(points: &[Point]) -> bool {
    let third = points.len() / 3;
    let first = points[..third].iter().map(|point| point.bytes);
    let last = points[points.len() - third..]
        .iter()
        .map(|point| point.bytes);
    last.min() > first.max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: f64 = 1048576.0;

    /// Noise of the measurements of an idle host, in bytes.
    const NOISE: f64 = 2.0 * MIB;

    /// The number of the point at which a leak was found in `bytes`, one value per 500 calls.
    fn found_after(bytes: impl IntoIterator<Item = f64>) -> Option<usize> {
        let mut detector = LeakDetector::new(&LeakConfig::default());
        let mut points = bytes.into_iter().zip(1..).map(|(bytes, number)| Point {
            calls: number * 500,
            bytes: bytes.max(0.0) as u64,
        });
        points.position(|point| detector.add(point).is_some())
    }

    fn noise(count: usize) -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(-NOISE..NOISE, count)
    }

    #[test]
    fn a_leak_has_its_first_and_last_point() {
        let mut detector = LeakDetector::new(&LeakConfig::default());
        let found: Vec<Leak> = (0..17)
            .filter_map(|index| {
                detector.add(Point {
                    calls: 100 + index * 500,
                    bytes: (100 + index * 10) << 20,
                })
            })
            .collect();
        let leak = Leak {
            from_bytes: 150 << 20,
            to_bytes: 260 << 20,
            calls: 5500,
        };
        assert_eq!(found, [leak]);
    }

    #[test]
    fn growth_below_the_share_of_a_large_host_is_no_leak_yet() {
        let grows = |from: f64| (0..17).map(move |index| (from + f64::from(index) * 10.0) * MIB);
        assert_eq!(found_after(grows(100.0)), Some(16));
        assert_eq!(found_after(grows(2000.0)), None);
    }

    #[test]
    fn the_number_of_points_is_bounded() {
        let mut detector = LeakDetector::new(&LeakConfig::default());
        for calls in 0..300_000 {
            detector.add(Point { calls, bytes: 5 });
        }
        assert_eq!(detector.scales.len(), SCALES_MAX);
        assert!(detector.scales.iter().all(|scale| scale.points.len() <= 12));
    }

    proptest! {
        #[test]
        fn level_memory_is_no_leak(level in 50.0..2000.0, noise in noise(300)) {
            let series = noise.iter().map(|noise| level * MIB + noise);
            prop_assert_eq!(found_after(series), None);
        }

        #[test]
        fn random_memory_is_no_leak(values in prop::collection::vec(60.0..500.0, 300)) {
            prop_assert_eq!(found_after(values.into_iter().map(|value| value * MIB)), None);
        }

        #[test]
        fn a_sawtooth_is_no_leak(
            period in 2usize..12, height in 10.0..800.0, noise in noise(300)
        ) {
            let tooth = |index: usize| (index % period) as f64 / period as f64 * height;
            let series = noise.iter().enumerate().map(|(index, noise)| (100.0 + tooth(index)) * MIB + noise);
            prop_assert_eq!(found_after(series), None);
        }

        #[test]
        fn a_step_to_a_plateau_is_no_leak(
            at in 0usize..200, steps in 1usize..3, height in 10.0..1000.0, noise in noise(300)
        ) {
            let level = |index: usize| (0..steps).filter(|step| index >= at + step * 17).count();
            let series = noise.iter().enumerate()
                .map(|(index, noise)| (100.0 + level(index) as f64 * height) * MIB + noise);
            prop_assert_eq!(found_after(series), None);
        }

        #[test]
        fn growth_that_levels_off_is_no_leak(
            height in 10.0..1000.0, constant in 0.5f64..8.0, noise in noise(300)
        ) {
            let grown = |index: usize| height * (1.0 - (-(index as f64) / constant).exp());
            let series = noise.iter().enumerate()
                .map(|(index, noise)| (100.0 + grown(index)) * MIB + noise);
            prop_assert_eq!(found_after(series), None);
        }

        #[test]
        fn steady_growth_is_found_before_it_has_cost_much(
            well in 0usize..100, per_point in 0.2..200.0, noise in noise(3000)
        ) {
            let grown = |index: usize| index.saturating_sub(well) as f64 * per_point;
            let series = noise.iter().enumerate()
                .map(|(index, noise)| (60.0 + grown(index)) * MIB + noise);
            let found = found_after(series).expect("a leak is found");
            let lost = grown(found);
            // Within two windows after the leak began, or with few bytes lost.
            prop_assert!(found <= well + 24 || lost <= 350.0, "{found} points, {lost} MiB");
        }
    }
}
