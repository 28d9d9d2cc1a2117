//! The room's settings, and the rules that they must keep.

use std::time::Duration;

/// How much memory there is, how often it is read, and when it counts as short.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryConfig {
    /// Most bytes that the whole process tree may use. A cgroup's limit that is smaller wins.
    pub limit: Option<u64>,
    /// The budget as a share of physical memory, where there is neither a limit nor a cgroup's.
    pub physical_share: f64,
    /// Where the levels begin and how they are left.
    pub levels: Levels,
    /// Time between two readings at rest.
    pub sample_interval: Duration,
    /// Time between two readings while something is being loaded or memory is short.
    pub sample_interval_fast: Duration,
    /// Age of the last reading from which on it is stale.
    pub stale_after: Duration,
    /// How long an emergency clean-up may take.
    pub emergency_deadline: Duration,
    /// Time between two purges of the allocator at rest.
    pub gc_interval: Duration,
}

/// Shares of the budget at which the levels begin, and what keeps them from flapping.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    /// Share at which memory counts as elevated.
    pub elevated: f64,
    /// Share at which it counts as high.
    pub high: f64,
    /// Share at which it counts as critical.
    pub critical: f64,
    /// Share at which it counts as exhausted: nothing new may be loaded.
    pub exhausted: f64,
    /// How far below its threshold, as a share of the budget, usage must fall to leave a level.
    pub hysteresis: f64,
    /// How long a level is kept at least before a lower one follows.
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
    /// Nothing could ever be loaded.
    #[error("memory.limit must be above 0")]
    Limit,
    /// No share.
    #[error("memory.physical_share must be above 0 and at most 1")]
    PhysicalShare,
    /// A level would begin before a lower one, or never.
    #[error(
        "memory.levels must ascend and lie above 0 and at most at 1: \
         elevated < high < critical < exhausted"
    )]
    Levels,
    /// A level could never be left.
    #[error("memory.hysteresis must be at least 0 and below memory.levels.elevated")]
    Hysteresis,
    /// Reading would never pause, or pause longer when memory is short.
    #[error("memory.sample_interval_fast must be above 0 and not above memory.sample_interval")]
    Intervals,
}

impl MemoryConfig {
    /// Whether the settings make sense together.
    ///
    /// # Errors
    /// The first rule that they break.
    pub fn validate(&self) -> Result<(), MemoryConfigError> {
        // Written so that a NaN breaks the rule.
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
    fn the_defaults_keep_every_rule_and_each_rule_can_be_broken() {
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
