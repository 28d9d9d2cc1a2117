//! When memory counts as short. Nothing here reads a clock or a file.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "shares of bytes need no more than the precision of f64"
)]

use std::time::Duration;

use super::config::Levels;
use crate::kernel::pressure::Level;

impl Levels {
    /// Every level above normal and its threshold, lowest first.
    pub(super) fn thresholds(&self) -> [(Level, f64); 4] {
        [
            (Level::Elevated, self.elevated),
            (Level::High, self.high),
            (Level::Critical, self.critical),
            (Level::Exhausted, self.exhausted),
        ]
    }

    /// The level that `share` of the budget reaches.
    pub(super) fn reached(&self, share: f64) -> Level {
        self.reached_within(share, 0.0)
    }

    /// The highest level whose threshold, lowered by `margin`, is reached.
    fn reached_within(&self, share: f64, margin: f64) -> Level {
        let thresholds = self.thresholds().into_iter().rev();
        let mut reached = thresholds.filter(|(_, threshold)| share >= threshold - margin);
        reached.next().map_or(Level::Normal, |(level, _)| level)
    }
}

/// The level that follows `previous`, which has lasted for `held`, when `share` of the budget is in
/// use.
///
/// A level rises at once, over several levels if necessary. It falls after it has lasted for the
/// dwell, and to the lowest level whose hysteresis allows it.
pub(super) fn next_level(previous: Level, share: f64, held: Duration, levels: &Levels) -> Level {
    let risen = levels.reached(share);
    if risen >= previous {
        return risen;
    }
    if held < levels.dwell {
        return previous;
    }
    // The lowered thresholds can reach a level above the previous one, but a level must not rise here.
    levels
        .reached_within(share, levels.hysteresis)
        .min(previous)
}

/// The bytes to give back at `level` when `used` of `budget` bytes are in use.
///
/// Elevated and high want just enough to leave the level, so that idle resources that fit stay loaded.
/// Critical and exhausted want everything above the elevated threshold: right below the critical one,
/// the next load would cause the next emergency.
pub(super) fn wanted_bytes(level: Level, used: u64, budget: u64, levels: &Levels) -> u64 {
    let target = match level {
        Level::Normal => return 0,
        Level::Elevated => levels.elevated - levels.hysteresis,
        Level::High => levels.high - levels.hysteresis,
        Level::Critical | Level::Exhausted => levels.elevated,
    };
    used.saturating_sub(most_below(budget, target))
}

/// The most bytes that are below `share` of `bytes`. At its threshold a level begins.
pub fn most_below(bytes: u64, share: f64) -> u64 {
    ((bytes as f64 * share).ceil() as u64).saturating_sub(1)
}

/// `share` of `bytes`, rounded down.
pub(super) fn share_of(bytes: u64, share: f64) -> u64 {
    (bytes as f64 * share) as u64
}

/// The share of `budget` that is used; 1 without a budget.
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
            // It rises without a dwell and can skip levels.
            (Normal, 0.699, LONG, Normal),
            (Normal, 0.70, Duration::ZERO, Elevated),
            (Elevated, 0.80, Duration::ZERO, High),
            (High, 0.85, Duration::ZERO, Critical),
            (Normal, 0.95, Duration::ZERO, Exhausted),
            (Normal, 7.0, Duration::ZERO, Exhausted),
            // It stays between the threshold and the hysteresis below it.
            (Critical, 0.84, LONG, Critical),
            (Elevated, 0.681, LONG, Elevated),
            // It falls after the dwell.
            (Critical, 0.10, SHORT, Critical),
            (Critical, 0.10, LONG, Normal),
            (Exhausted, 0.90, LONG, Critical),
            (Critical, 0.82, LONG, High),
            (Critical, 0.79, LONG, High),
            (Critical, 0.77, LONG, Elevated),
            (Elevated, 0.67, LONG, Normal),
            // A share that is not a number reaches no level.
            (Normal, f64::NAN, LONG, Normal),
        ];
        for (previous, share, held, expected) in table {
            let next = next_level(previous, share, held, &Levels::default());
            assert_eq!(next, expected, "{previous:?} at {share} after {held:?}");
        }
    }

    #[test]
    fn an_emergency_wants_more_than_to_leave_its_level() {
        // Shares that are exact binary fractions.
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
        fn a_level_stays_close_to_its_share(
            previous in prop::sample::select(Level::ALL.to_vec()),
            share in 0.0..1.5f64,
            held in 0u64..5000,
        ) {
            let levels = Levels::default();
            let held = Duration::from_millis(held);
            let next = next_level(previous, share, held, &levels);
            let fresh = next_level(Normal, share, held, &levels);
            // At least what the share alone reaches, and at most that or the previous level.
            prop_assert!(next >= fresh);
            prop_assert!(next <= fresh.max(previous));
            if held < levels.dwell {
                prop_assert!(next >= previous);
            } else if next > fresh {
                // It is kept only by the hysteresis of its own threshold.
                let mut thresholds = levels.thresholds().into_iter();
                let kept = thresholds.find(|(level, _)| *level == next);
                prop_assert!(kept.is_some_and(|(_, threshold)| share >= threshold - levels.hysteresis));
            }
            // The same share again changes nothing.
            prop_assert_eq!(next_level(next, share, Duration::ZERO, &levels), next);
        }

        #[test]
        fn giving_back_the_wanted_bytes_leaves_the_level(
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
