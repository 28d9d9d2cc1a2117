//! When memory counts as short. Pure: nothing here reads a clock or a file.

use std::time::Duration;

use super::config::Levels;
use crate::kernel::pressure::Level;

impl Levels {
    /// Every level above normal with the share at which it begins, lowest first.
    pub(super) fn thresholds(&self) -> [(Level, f64); 4] {
        [
            (Level::Elevated, self.elevated),
            (Level::High, self.high),
            (Level::Critical, self.critical),
            (Level::Exhausted, self.exhausted),
        ]
    }

    /// The level that `share` of the budget in use reaches by itself.
    pub(super) fn reached(&self, share: f64) -> Level {
        self.reached_within(share, 0.0)
    }

    /// The highest level whose threshold, lowered by `slack`, is reached.
    fn reached_within(&self, share: f64, slack: f64) -> Level {
        let mut reached = Level::Normal;
        for (level, threshold) in self.thresholds() {
            if share >= threshold - slack {
                reached = level;
            }
        }
        reached
    }
}

/// The level that follows `previous`, which has been held for `held`, when `share` of the budget
/// is in use.
///
/// It rises at once, over several levels if need be. It falls only once it has been held for the
/// dwell, and only as far as usage is the hysteresis below the thresholds of the levels left.
pub fn next_level(previous: Level, share: f64, held: Duration, levels: &Levels) -> Level {
    let risen = levels.reached(share);
    if risen >= previous {
        return risen;
    }
    if held < levels.dwell {
        return previous;
    }
    // Lowered thresholds may be reached that are higher than what we hold; that is no rise.
    levels
        .reached_within(share, levels.hysteresis)
        .min(previous)
}

/// The bytes to give back at `level` when `used` of `budget` bytes are in use.
///
/// Elevated and high ask for just enough to leave the level: what is idle but fits stays warm.
/// Critical and exhausted ask for everything above the elevated threshold, because an emergency
/// that ends right below its own threshold would be the next load's emergency.
pub fn wanted_bytes(level: Level, used: u64, budget: u64, levels: &Levels) -> u64 {
    let target = match level {
        Level::Normal => return 0,
        Level::Elevated => levels.elevated - levels.hysteresis,
        Level::High => levels.high - levels.hysteresis,
        Level::Critical | Level::Exhausted => levels.elevated,
    };
    used.saturating_sub(most_below(budget, target))
}

/// The most bytes that are less than `share` of `bytes`: at its very threshold a level still holds.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub fn most_below(bytes: u64, share: f64) -> u64 {
    ((bytes as f64 * share).ceil() as u64).saturating_sub(1)
}

/// `share` of `bytes`, rounded down.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub(super) fn share_of(bytes: u64, share: f64) -> u64 {
    (bytes as f64 * share) as u64
}

/// How much of `budget` is `used`; without a budget everything is.
#[allow(clippy::cast_precision_loss)]
pub(super) fn used_share(used: u64, budget: u64) -> f64 {
    if budget == 0 {
        return 1.0;
    }
    used as f64 / budget as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use Level::{Critical, Elevated, Exhausted, High, Normal};
    use proptest::prelude::*;

    const SHORT: Duration = Duration::from_millis(1999);
    const LONG: Duration = Duration::from_secs(2);

    #[test]
    fn the_level_rises_at_once_and_falls_late() {
        let table = [
            // Rising: the dwell does not matter, and levels may be skipped.
            (Normal, 0.699, LONG, Normal),
            (Normal, 0.70, Duration::ZERO, Elevated),
            (Elevated, 0.80, Duration::ZERO, High),
            (High, 0.85, Duration::ZERO, Critical),
            (Normal, 0.95, Duration::ZERO, Exhausted),
            (Normal, 7.0, Duration::ZERO, Exhausted),
            // Staying: between the threshold and the hysteresis below it.
            (Critical, 0.84, LONG, Critical),
            (Elevated, 0.681, LONG, Elevated),
            // Falling: not before the dwell is over.
            (Critical, 0.10, SHORT, Critical),
            (Critical, 0.10, LONG, Normal),
            (Exhausted, 0.90, LONG, Critical),
            (Critical, 0.82, LONG, High),
            (Critical, 0.79, LONG, High),
            (Critical, 0.77, LONG, Elevated),
            (Elevated, 0.67, LONG, Normal),
            // Not a number: nothing is known to be short.
            (Normal, f64::NAN, LONG, Normal),
        ];
        for (previous, share, held, expected) in table {
            let next = next_level(previous, share, held, &Levels::default());
            assert_eq!(next, expected, "{previous:?} at {share} after {held:?}");
        }
    }

    #[test]
    fn an_emergency_asks_for_more_than_to_leave_its_level() {
        // Shares that binary fractions hit exactly.
        let levels = Levels {
            elevated: 0.5,
            high: 0.625,
            critical: 0.75,
            exhausted: 0.875,
            hysteresis: 0.125,
            ..Levels::default()
        };
        let wanted = |level, used| wanted_bytes(level, used, 1000, &levels);
        assert_eq!(wanted(Normal, 990), 0);
        assert_eq!(wanted(Elevated, 550), 176);
        assert_eq!(wanted(High, 630), 131);
        assert_eq!(wanted(Critical, 760), 261);
        assert_eq!(wanted(Exhausted, 960), 461);
        assert_eq!(wanted(Critical, 100), 0);
    }

    proptest! {
        #[test]
        fn a_level_never_lies_far_from_its_share(
            previous in prop::sample::select(Level::ALL.to_vec()),
            share in 0.0..1.5f64,
            held in 0u64..5000,
        ) {
            let levels = Levels::default();
            let held = Duration::from_millis(held);
            let next = next_level(previous, share, held, &levels);
            let fresh = next_level(Normal, share, held, &levels);
            // Never below what the share alone asks for, never above what was and what it asks.
            prop_assert!(next >= fresh);
            prop_assert!(next <= fresh.max(previous));
            if held < levels.dwell {
                prop_assert!(next >= previous);
            } else if next > fresh {
                // Kept only by the hysteresis of its own threshold.
                let mut thresholds = levels.thresholds().into_iter();
                let kept = thresholds.find(|(level, _)| *level == next);
                prop_assert!(kept.is_some_and(|(_, threshold)| share >= threshold - levels.hysteresis));
            }
            // A second look with the same share changes nothing.
            prop_assert_eq!(next_level(next, share, Duration::ZERO, &levels), next);
        }

        #[test]
        fn what_is_wanted_brings_usage_below_the_level(
            used in 0u64..2_000_000_000_000, budget in 1u64..1_000_000_000_000,
        ) {
            let levels = Levels::default();
            let level = next_level(Normal, used_share(used, budget), Duration::ZERO, &levels);
            let rest = used - wanted_bytes(level, used, budget, &levels);
            let after = next_level(level, used_share(rest, budget), levels.dwell, &levels);
            prop_assert!(level == Normal || after < level);
        }
    }
}
