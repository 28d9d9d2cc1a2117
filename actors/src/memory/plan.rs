//! The plan of a clean-up: which stages are asked at each level, and in which order.
//!
//! The order is that of the cost to users: free memory in allocators, caches, idle connections, idle
//! models, and models in use last. Among models, the loader's policy decides.

use std::time::Duration;

use crate::kernel::pressure::{Level, Stage};

/// The rounds of a clean-up at `level`, by the last stage that each asks. After each round memory is
/// read, and the next round follows only if too little came back.
///
/// An emergency skips the rounds that help little, and begins with everything that nobody uses.
pub(super) fn rounds(level: Level) -> &'static [Stage] {
    match level {
        Level::Normal => &[],
        Level::Elevated => &[Stage::Slack, Stage::Connections],
        Level::High => &[Stage::Slack, Stage::Connections, Stage::Idle],
        Level::Critical => &[Stage::Idle, Stage::InUse],
        Level::Exhausted => &[Stage::InUse],
    }
}

/// How long the allocator of this process may keep freed pages at `level`.
pub(super) fn decay(level: Level) -> Duration {
    match level {
        Level::Normal => Duration::from_secs(1),
        Level::Elevated => Duration::from_millis(250),
        Level::High | Level::Critical | Level::Exhausted => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_levels_ask_no_less_and_costly_stages_come_last() {
        for level in Level::ALL {
            let rounds = rounds(level);
            assert!(rounds.is_sorted_by(|one, next| one < next), "{level:?}");
        }
        let last = Level::ALL.map(|level| rounds(level).last().copied());
        assert!(last.is_sorted());
        assert!(Level::ALL.map(decay).is_sorted_by(|one, next| one >= next));
    }

    #[test]
    fn only_an_emergency_asks_for_resources_in_use() {
        for level in [Level::Normal, Level::Elevated, Level::High] {
            assert!(!rounds(level).contains(&Stage::InUse));
        }
        assert!(!rounds(Level::Elevated).contains(&Stage::Idle));
        assert_eq!(rounds(Level::Critical).first(), Some(&Stage::Idle));
    }
}
