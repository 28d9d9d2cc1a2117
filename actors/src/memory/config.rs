//! The settings of the memory module, and the rules that they must keep.

use std::time::Duration;

/// How much memory may be used, how often it is read, and when it counts as short.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryConfig {
    /// The most bytes that the whole process tree may use. A smaller limit of a control group wins.
    pub limit: Option<u64>,
    /// The budget as a share of physical memory, used where neither `limit` nor a control group sets
    /// one.
    pub physical_share: f64,
    /// The levels.
    pub levels: Levels,
    /// Time between two readings at rest.
    pub sample_interval: Duration,
    /// Time between two readings during a load or while memory is short.
    pub sample_interval_fast: Duration,
    /// The age from which the last reading is stale.
    pub stale_after: Duration,
    /// How long an emergency clean-up may take.
    pub emergency_deadline: Duration,
    /// Time between two collections at rest.
    pub gc_interval: Duration,
}

/// The shares of the budget at which the levels begin, and how late they fall.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    /// Share at which the elevated level begins.
    pub elevated: f64,
    /// Share at which the high level begins.
    pub high: f64,
    /// Share at which the critical level begins.
    pub critical: f64,
    /// Share at which the exhausted level begins, where nothing new may be loaded.
    pub exhausted: f64,
    /// Usage must fall this far below a level's threshold to leave it, as a share of the budget.
    pub hysteresis: f64,
    /// A level lasts at least this long before a lower one follows.
    pub dwell: Duration,
}

impl Default for Levels {
    fn default() -> Self {
        Self {
            elevated: 0.70,
            high: 0.80,
            critical: 0.85,
            exhausted: 0.95,
            hysteresis: 0.02,
            dwell: Duration::from_secs(2),
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            limit: None,
            physical_share: 0.8,
            levels: Levels::default(),
            sample_interval: Duration::from_secs(1),
            sample_interval_fast: Duration::from_millis(50),
            stale_after: Duration::from_secs(10),
            emergency_deadline: Duration::from_secs(1),
            gc_interval: Duration::from_secs(60),
        }
    }
}

/// A rule that the settings break. The text names the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryConfigError {
    /// With a limit of 0 nothing could be loaded.
    #[error("memory.limit must be above 0")]
    Limit,
    /// It is not a share.
    #[error("memory.physical_share must be above 0 and at most 1")]
    PhysicalShare,
    /// A level would begin before a lower one, or would never begin.
    #[error(
        "memory.levels must ascend and lie above 0 and at most at 1: \
         elevated < high < critical < exhausted"
    )]
    Levels,
    /// A level would never end.
    #[error("memory.hysteresis must be at least 0 and below memory.levels.elevated")]
    Hysteresis,
    /// Readings would follow without a pause, or pause longer while memory is short.
    #[error("memory.sample_interval_fast must be above 0 and not above memory.sample_interval")]
    Intervals,
}

impl MemoryConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// The first rule that they break.
    pub fn validate(&self) -> Result<(), MemoryConfigError> {
        // NaN is not a share.
        let is_share = |share: f64| share > 0.0 && share <= 1.0;
        let levels = self.levels.thresholds().map(|(_, share)| share);
        if self.limit == Some(0) {
            return Err(MemoryConfigError::Limit);
        }
        if !is_share(self.physical_share) {
            return Err(MemoryConfigError::PhysicalShare);
        }
        if !levels.iter().copied().all(is_share) || !levels.is_sorted_by(|one, next| one < next) {
            return Err(MemoryConfigError::Levels);
        }
        if !(self.levels.hysteresis >= 0.0 && self.levels.hysteresis < self.levels.elevated) {
            return Err(MemoryConfigError::Hysteresis);
        }
        if self.sample_interval_fast.is_zero() || self.sample_interval_fast > self.sample_interval {
            return Err(MemoryConfigError::Intervals);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_keep_every_rule_and_each_broken_rule_is_named() {
        type Breaks = fn(&mut MemoryConfig);
        assert_eq!(MemoryConfig::default().validate(), Ok(()));
        let table: [(MemoryConfigError, Breaks); 8] = [
            (MemoryConfigError::Limit, |c| c.limit = Some(0)),
            (MemoryConfigError::PhysicalShare, |c| {
                c.physical_share = f64::NAN
            }),
            (MemoryConfigError::PhysicalShare, |c| c.physical_share = 1.1),
            (MemoryConfigError::Levels, |c| c.levels.high = 0.7),
            (MemoryConfigError::Levels, |c| c.levels.exhausted = 1.2),
            (MemoryConfigError::Hysteresis, |c| c.levels.hysteresis = 0.7),
            (MemoryConfigError::Hysteresis, |c| {
                c.levels.hysteresis = f64::NAN
            }),
            (MemoryConfigError::Intervals, |c| {
                c.sample_interval_fast = Duration::ZERO
            }),
        ];
        for (rule, break_it) in table {
            let mut config = MemoryConfig::default();
            break_it(&mut config);
            assert_eq!(config.validate(), Err(rule));
        }
    }
}
