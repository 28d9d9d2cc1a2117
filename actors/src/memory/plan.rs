//! What is asked for at each level, in which order. Pure.
//!
//! The order is that of what users lose: memory that is free already, caches, idle connections, idle
//! models, and only then what they are using. Within the models the policy of the loader decides.

use std::time::Duration;

use crate::kernel::pressure::{Level, Stage};

/// The rounds of a clean-up at `level`: the last stage that each of them asks. After each memory is
/// read again, and the next follows only if too little came back.
///
/// An emergency skips what only helps a little: it begins with everything that nobody uses.
pub(super) fn rounds(level: Level) -> &'static [Stage] {
    match level {
        Level::Normal => &[],
        Level::Elevated => &[Stage::Slack, Stage::Connections],
        Level::High => &[Stage::Slack, Stage::Connections, Stage::Idle],
        Level::Critical => &[Stage::Idle, Stage::InUse],
        Level::Exhausted => &[Stage::InUse],
    }
}

/// How long freed memory may stay with the allocator of this process at `level`.
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
    fn a_higher_level_asks_for_no_less_and_the_dearer_comes_later() {
        for level in Level::ALL {
            let rounds = rounds(level);
            assert!(rounds.is_sorted_by(|one, next| one < next), "{level:?}");
        }
        let furthest = Level::ALL.map(|level| rounds(level).last().copied());
        assert!(furthest.is_sorted());
        assert!(Level::ALL.map(decay).is_sorted_by(|one, next| one >= next));
    }

    #[test]
    fn only_an_emergency_touches_what_is_in_use() {
        for level in [Level::Normal, Level::Elevated, Level::High] {
            assert!(!rounds(level).contains(&Stage::InUse));
        }
        assert!(!rounds(Level::Elevated).contains(&Stage::Idle));
        assert_eq!(rounds(Level::Critical).first(), Some(&Stage::Idle));
    }
}
