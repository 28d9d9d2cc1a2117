//! GreedyDual-Size-Frequency, with popularity that fades.

use std::time::Duration;

use super::candidate::{Candidate, DecayingCount, Policy, UseRecord};

/// Evictions after which a use counts half for popularity. From 150 to 400 the table in
/// `docs/eviction.md` hardly changes. Fewer forget rarely used resources; more adapt slowly when
/// popularity shifts.
const HALF_LIFE_EVICTIONS: f64 = 200.0;

/// Time after which a use counts half for popularity, because what was popular without any eviction
/// for a long time may no longer be.
const HALF_LIFE_SECONDS: f64 = 6.0 * 3600.0;

/// Uses of all resources after which a use counts half as a recent one.
const RECENT_USES: f64 = 50.0;

/// Time after which a use counts half as a recent one, if there are few other uses.
const RECENT_SECONDS: f64 = 1800.0;

/// The square of the number of standard deviations by which recent uses must differ from what
/// popularity predicts, to count instead of it.
const SURPRISE: f64 = 4.0;

/// Evicts the resource that saves the least reload time per byte first.
///
/// The frequency is a resource's share in all uses. A use counts half after some evictions or hours
/// (LRFU: D. Lee et al., "LRFU: A Spectrum of Policies that Subsumes the Least Recently Used and
/// Least Frequently Used Policies", IEEE Transactions on Computers 50(12), 2001), and still counts
/// after an unload. GreedyDual-Size-Frequency itself forgets at the unload, and adds a rising floor
/// to all that is used. Replays of independent requests show that both cost reload time: an eviction
/// does not change how probable a model's next request is, and the floor blurs lasting differences.
///
/// Users come and go, however, and a model with many recent requests is likely to get more. Where
/// the latest uses differ from popularity by more than chance explains, their share counts instead.
///
/// Popularity ages with evictions, not with uses. So a resource with thousands of uses a second does
/// not make all others look unused.
#[derive(Debug, Default)]
pub(super) struct Gdsf {
    evictions: f64,
    uses: f64,
    /// The uses of all resources.
    popularity: DecayingCount,
    recent: DecayingCount,
}

impl Gdsf {
    /// The probable share of a resource in the uses to come.
    fn frequency(&self, usage: &UseRecord) -> f64 {
        let usual = usage.popularity.share(&self.popularity);
        let recent = usage.recent.share(&self.recent);
        let (expected, observed) = (usual * self.recent.weight, recent * self.recent.weight);
        if (observed - expected).powi(2) > SURPRISE * (expected + 1.0) {
            recent
        } else {
            usual
        }
    }
}

impl Policy for Gdsf {
    fn record_use(&mut self, usage: &mut UseRecord, now: Duration) {
        self.uses += 1.0;
        let seconds = now.as_secs_f64();
        let popularity = self.evictions / HALF_LIFE_EVICTIONS + seconds / HALF_LIFE_SECONDS;
        let recent = self.uses / RECENT_USES + seconds / RECENT_SECONDS;
        self.popularity.add(popularity);
        usage.popularity.add(popularity);
        self.recent.add(recent);
        usage.recent.add(recent);
        usage.last_use = now;
    }

    #[allow(clippy::cast_precision_loss, reason = "an order needs no exact sums")]
    fn keep_value(&self, candidate: &Candidate<'_>) -> f64 {
        let saved = self.frequency(&candidate.usage) * candidate.reload_time.as_secs_f64();
        saved / candidate.bytes.max(1) as f64
    }

    fn record_eviction(&mut self) {
        self.evictions += 1.0;
    }
}
