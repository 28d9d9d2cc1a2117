//! When another connection is worth opening.
//!
//! It is when waiting for one of those there takes longer than a good part of opening one: by what
//! the longest wait is already, or by what it will be, which is the number of those who wait times
//! how long connections are used, over the number of connections. A burst of short requests is
//! therefore served by the connections there are.

use std::time::Duration;

use tokio::time::Instant;

use super::messages::Mode;
use super::queue::Waits;
use super::state::{PoolState, Use};

/// The part of the time that a connect takes which is better spent waiting: a half.
const WAIT_PART: u32 = 2;
/// Waits below this are not worth a connection, however fast connects are.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// A check or a clean-up that takes more than this many times a connect is not waited for.
const TENDING_FACTOR: u32 = 2;
/// How often growth is thought over while somebody waits, at most.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(2);

impl<T, W: Waits> PoolState<T, W> {
    /// Opens as many connections as those who wait are worth.
    pub(super) fn grow(&mut self, now: Instant) {
        if self.demand() > self.coming(now) {
            // Those who have gone away are no demand.
            self.queue.purge();
        }
        let missing = self.demand().saturating_sub(self.coming(now));
        if missing == 0 {
            return;
        }
        let wanted = if self.slots.is_empty() {
            let first = self.config.connections_min.max(1) as usize;
            first.saturating_sub(self.opening.len())
        } else {
            self.worth(now)
        };
        self.open(now, wanted.min(missing));
    }

    /// How many more connections would bring the wait down to what is bearable.
    fn worth(&self, now: Instant) -> usize {
        let bearable = self.bearable_wait();
        let work = self.recent_use(now).as_nanos() * self.demand() as u128;
        let enough = work.div_ceil(bearable.as_nanos().max(1));
        let total = (self.slots.len() + self.opening.len()) as u128;
        let by_forecast = usize::try_from(enough.saturating_sub(total)).unwrap_or(usize::MAX);
        let longest = self.queue.oldest();
        let longest = longest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let by_sight = usize::from(longest >= bearable && self.opening.is_empty());
        by_forecast.max(by_sight)
    }

    fn bearable_wait(&self) -> Duration {
        let connect = self.figures.recent_connect.get().unwrap_or_default();
        (connect / WAIT_PART).max(WAIT_MIN)
    }

    /// How long connections are kept: by those that came back, or by those that are out, whichever
    /// is longer.
    fn recent_use(&self, now: Instant) -> Duration {
        let past = self.figures.recent_use.get().unwrap_or_default();
        let out = self.leases.values();
        let out = out.filter(|held| held.mode == Mode::Exclusive && !held.leaked);
        let ages = out.map(|held| now.saturating_duration_since(held.since));
        let (sum, count) = ages.fold((Duration::ZERO, 0), |(sum, count), age| {
            (sum + age, count + 1)
        });
        past.max(sum.checked_div(count).unwrap_or_default())
    }

    /// Connections that would serve all who wait.
    pub(super) fn demand(&self) -> usize {
        let depth = self.config.shared_depth.max(1) as usize;
        let shared = if self.may_share_more() {
            self.queue.shared().div_ceil(depth)
        } else {
            0
        };
        self.queue.exclusive() + shared
    }

    /// Connections that will be there soon.
    pub(super) fn coming(&self, now: Instant) -> usize {
        let in_maintenance = self.maintenance_until().filter(|until| *until > now);
        self.opening.len() + in_maintenance.count()
    }

    /// Until when each connection that is being checked or cleaned is counted on: after twice the
    /// time that opening another one takes, it may as well be lost.
    fn maintenance_until(&self) -> impl Iterator<Item = Instant> {
        let patience = self.figures.recent_connect.get().unwrap_or_default();
        let patience = (patience * TENDING_FACTOR).max(WAIT_MIN);
        self.slots
            .values()
            .filter_map(move |slot| match slot.state {
                Use::UnderMaintenance { since } => Some(since + patience),
                _ => None,
            })
    }

    /// When growth is to be thought over again.
    pub(super) fn next_growth(&self, now: Instant) -> Option<Instant> {
        let total = self.slots.len() + self.opening.len();
        let possible = total < self.config.connections_max as usize;
        if !possible {
            return None;
        }
        if self.demand() <= self.coming(now) {
            let waited_for = self.demand() > self.opening.len();
            let in_maintenance = self
                .maintenance_until()
                .filter(|until| waited_for && *until > now);
            return in_maintenance.min();
        }
        let soon = now + (self.bearable_wait() / 2).max(LOOK_AGAIN_MIN);
        Some(
            self.circuit
                .next_try()
                .map_or(soon, |at| at.max(now + LOOK_AGAIN_MIN)),
        )
    }
}
