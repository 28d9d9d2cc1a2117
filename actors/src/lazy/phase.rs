//! The phases of a resource: Cold → Loading → Ready → Draining → Cold, and Failed.

use serde::Serialize;
use utoipa::ToSchema;

/// The phase of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not loaded. It holds no memory.
    Cold,
    /// A load is under way. All callers share it.
    Loading,
    /// Loaded, in use or idle.
    Ready,
    /// No new leases are given. The resource is unloaded after the last lease has ended.
    Draining,
    /// The last load failed, or the loaded resource died. A backoff delays the next load.
    Failed,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 5] = [
        Self::Cold,
        Self::Loading,
        Self::Ready,
        Self::Draining,
        Self::Failed,
    ];

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

    /// Whether `next` may follow this phase.
    pub(super) fn may_become(self, next: Self) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_transitions_are_allowed() {
        use Phase::{Cold, Draining, Failed, Loading, Ready};
        let allowed: Vec<_> = Phase::ALL
            .iter()
            .flat_map(|from| Phase::ALL.iter().map(move |to| (*from, *to)))
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
