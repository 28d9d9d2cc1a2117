//! Least recently used.

use super::candidate::{Candidate, Policy};

/// Evicts the least recently used resource first.
#[derive(Debug, Default)]
pub(super) struct Lru;

impl Policy for Lru {
    fn keep_value(&self, candidate: &Candidate<'_>) -> f64 {
        candidate.usage.last_use.as_secs_f64()
    }
}
