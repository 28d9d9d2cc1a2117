//! What a policy knows of a resource, and what it does.

use std::time::Duration;

/// A count of uses in which each use loses half of its weight in each half-life.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct DecayingCount {
    /// The total weight at `updated_at`.
    pub(super) weight: f64,
    /// When the last use was added, in half-lives.
    pub(super) updated_at: f64,
}

impl DecayingCount {
    pub(super) fn add(&mut self, now: f64) {
        *self = Self {
            weight: self.weight_at(now) + 1.0,
            updated_at: now,
        };
    }

    fn weight_at(&self, now: f64) -> f64 {
        self.weight * (self.updated_at - now).exp2()
    }

    /// The share of this count in `all`, which was updated last.
    pub(super) fn share(&self, all: &Self) -> f64 {
        self.weight_at(all.updated_at) / all.weight.max(1.0)
    }
}

/// How a resource was used, as far as policies need it. It outlives unloads, so a popular resource is
/// popular when it is loaded again.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct UseRecord {
    /// All of its uses. Only [`Gdsf`](super::gdsf::Gdsf) counts them.
    pub(super) popularity: DecayingCount,
    /// Its latest uses. Only [`Gdsf`](super::gdsf::Gdsf) counts them.
    pub(super) recent: DecayingCount,
    /// When it was last used, relative to a fixed moment.
    pub last_use: Duration,
}

/// One loaded resource, as a policy sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate<'a> {
    /// Its name. It decides between equals, so that choices are reproducible.
    pub name: &'a str,
    /// Bytes that its unload frees.
    pub bytes: u64,
    /// Whether it must not be evicted.
    pub pinned: bool,
    /// Whether it leaks or is overgrown. It is then evicted before all others, because it holds more
    /// than it needs.
    pub suspect: bool,
    /// Leases on it: those of callers, and one of each loaded dependent.
    pub leases: usize,
    /// The positions of its dependencies among the candidates. It holds a lease on each.
    pub depends_on: Vec<usize>,
    /// Its use so far.
    pub usage: UseRecord,
    /// How long its loads took on average.
    pub reload_time: Duration,
}

/// Orders loaded resources for eviction.
pub trait Policy: Send {
    /// Takes note of a use at `now`.
    fn record_use(&mut self, usage: &mut UseRecord, now: Duration) {
        usage.last_use = now;
    }

    /// The value of keeping a resource loaded; never negative. The lowest is evicted first.
    fn keep_value(&self, candidate: &Candidate<'_>) -> f64;

    /// Takes note of an eviction.
    fn record_eviction(&mut self) {}
}
