//! Which resource is evicted first when memory is short.
//!
//! The policies are pure and deterministic, so the loader and a replay of a trace run the same code.
//!
//! - `lru`: the least recently used resource first.
//! - `gdsf`: the resource whose bytes save the least reload time first, after
//!   GreedyDual-Size-Frequency (L. Cherkasova, "Improving WWW Proxies Performance with
//!   Greedy-Dual-Size-Frequency Caching Policy", HP Labs, 1998). It evicts the smallest frequency ×
//!   cost / size, where the cost is the measured reload time. Popularity ages differently here; see
//!   [`Gdsf`](gdsf::Gdsf). `docs/eviction.md` compares both with an optimum.

mod candidate;
mod choose;
mod gdsf;
mod lru;
#[cfg(test)]
mod tests;

use utoipa::ToSchema;

pub use candidate::{Candidate, Policy, UseRecord};
pub use choose::choose;
pub(super) use choose::{evictable, eviction_order};

/// The policies, as settings name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyKind {
    /// Least recently used.
    Lru,
    /// GreedyDual-Size-Frequency.
    Gdsf,
}

impl PolicyKind {
    /// Makes a policy of this kind, without history.
    pub fn policy(self) -> Box<dyn Policy> {
        match self {
            Self::Lru => Box::new(lru::Lru),
            Self::Gdsf => Box::new(gdsf::Gdsf::default()),
        }
    }
}
