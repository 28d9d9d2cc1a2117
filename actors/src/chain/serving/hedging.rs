//! When a call is sent a second time because the first takes long, and how often.
//!
//! As in "The Tail at Scale" (Dean and Barroso, 2013): a second request after the time in which most are answered, and for a
//! bounded share of calls, so that slow providers do not get twice the load.

use std::cell::Cell;
use std::time::Duration;

use crate::chain::provider::Standing;

/// Calls that may be hedged at once after a quiet time.
const BURST: f64 = 10.0;
/// Until the usual time of a provider is known.
const DELAY_UNKNOWN: Duration = Duration::from_secs(1);

/// How many calls may be sent a second time.
#[derive(Debug)]
pub(super) struct HedgeBudget {
    share: f64,
    left: Cell<f64>,
}

impl HedgeBudget {
    /// A budget of this share of all calls.
    pub(super) fn new(share: f64) -> Self {
        Self {
            share,
            left: Cell::new(if share > 0.0 { 1.0 } else { 0.0 }),
        }
    }

    /// Counts a call.
    pub(super) fn earn(&self) {
        self.left.set((self.left.get() + self.share).min(BURST));
    }

    /// Whether one more call may be sent a second time. If so, it counts.
    pub(super) fn spend(&self) -> bool {
        let is_allowed = self.left.get() >= 1.0;
        if is_allowed {
            self.left.set(self.left.get() - 1.0);
        }
        is_allowed
    }
}

/// How long a call waits for an answer before it is sent a second time.
pub(super) fn delay(standing: &Standing, min: Duration) -> Duration {
    standing.p95.unwrap_or(DELAY_UNKNOWN).max(min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_the_share_of_calls_is_sent_twice() {
        let budget = HedgeBudget::new(0.05);
        let mut sent_twice = 0;
        for _ in 0..10_000 {
            budget.earn();
            sent_twice += u32::from(budget.spend());
        }
        assert_eq!(sent_twice, 501);
        let none = HedgeBudget::new(0.0);
        for _ in 0..1000 {
            none.earn();
        }
        assert!(!none.spend());
    }

    #[test]
    fn a_quiet_time_saves_for_a_few_only() {
        let budget = HedgeBudget::new(0.05);
        for _ in 0..100_000 {
            budget.earn();
        }
        let sent_twice = (0..100).filter(|_| budget.spend()).count();
        assert_eq!(sent_twice, 10);
    }
}
