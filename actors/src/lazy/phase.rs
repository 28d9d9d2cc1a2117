//! The life of everything that is loaded: Cold → Loading → Ready → Draining → Cold, and Failed
//! with a cause and a next try. Phases are observable and timed, and a wrong step is a bug that a
//! test catches.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// Where a loadable thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not loaded; holds no memory.
    Cold,
    /// Being loaded, once, for however many callers.
    Loading,
    /// Loaded and in use or waiting for use.
    Ready,
    /// No longer given out; ends when its last user is done.
    Draining,
    /// The last load failed; not tried again before its backoff is over.
    Failed,
}

impl Phase {
    /// A fixed word for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }

    /// Whether the life of a loadable thing allows this step.
    pub fn may_become(self, next: Self) -> bool {
        use Phase::{Cold, Draining, Failed, Loading, Ready};
        matches!(
            (self, next),
            (Cold | Failed, Loading)
                | (Loading, Ready | Failed | Cold)
                | (Ready, Draining | Failed)
                | (Draining, Cold)
                | (Failed, Cold)
        )
    }
}

/// A phase and the moment it began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timed {
    phase: Phase,
    since: Instant,
}

impl Default for Timed {
    fn default() -> Self {
        Self {
            phase: Phase::Cold,
            since: Instant::now(),
        }
    }
}

impl Timed {
    /// The phase now.
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// How long it has lasted.
    pub(super) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Goes to `next` and says how long the phase before lasted.
    ///
    /// # Panics
    /// In debug builds, on a step that [`Phase::may_become`] does not allow.
    pub(super) fn advance(&mut self, next: Phase) -> Duration {
        debug_assert!(
            self.phase.may_become(next),
            "no step from {:?} to {next:?}",
            self.phase
        );
        let lasted = self.since.elapsed();
        *self = Self {
            phase: next,
            since: Instant::now(),
        };
        lasted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_steps_of_the_life_are_allowed() {
        use Phase::{Cold, Draining, Failed, Loading, Ready};
        let all = [Cold, Loading, Ready, Draining, Failed];
        let allowed: Vec<_> = all
            .iter()
            .flat_map(|from| all.iter().map(move |to| (*from, *to)))
            .filter(|(from, to)| from.may_become(*to))
            .collect();
        assert_eq!(
            allowed,
            [
                (Cold, Loading),
                (Loading, Cold),
                (Loading, Ready),
                (Loading, Failed),
                (Ready, Draining),
                (Ready, Failed),
                (Draining, Cold),
                (Failed, Cold),
                (Failed, Loading),
            ]
        );
    }
}
