//! When the pool opens another connection.
//!
//! It does so when waiting for an existing connection takes longer than half of a connect. Two
//! figures decide: the longest wait so far, and the expected wait, which is the number of waiters
//! times the time that a lease lasts, divided by the number of connections. So the existing
//! connections serve a burst of short requests.
//!
//! Waiters for shared use need few connections if their requests are quick. So the pool first sees how
//! a new connection answers, and opens none for those who wait for quick pipelines (`sharing`).

use std::time::Duration;

use tokio::time::Instant;

use super::connect::Connect;
use super::lease::Mode;
use super::queue::CheckoutReply;
use super::sharing::Sharing;
use super::state::{ConnectionState, LeaseRecord, PoolState};

/// A waiter may wait for this part of the time of a connect: a half.
const WAIT_PART: u32 = 2;
/// The number of waiters for shared use that justify a connection: it serves one of them, or all of
/// them if their requests turn out to be quick.
const SHARED_EACH: usize = 4;
/// Any waiter may wait for this long, however fast connects are.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// A check or a reset is expected to end within this many times the time of a connect.
const MAINTENANCE_FACTOR: u32 = 2;
/// The shortest time between two decisions about growth while a caller waits.
const DECISION_INTERVAL_MIN: Duration = Duration::from_millis(2);

impl<C: Connect, R: CheckoutReply<Connection = C::Connection>> PoolState<C, R> {
    /// Opens as many connections as the waiters justify.
    pub(super) fn grow(&mut self, now: Instant) {
        let has_place = self.total() < self.config.connections_max as usize;
        if !has_place || self.missing(now) == 0 {
            return;
        }
        // Cancelled waiters need no connection. To look at all waiters is slow, so not each time where
        // nothing can be opened.
        self.queue.remove_cancelled();
        let missing = self.missing(now);
        let wanted = if self.connections.is_empty() {
            let first = self.config.connections_min.max(1) as usize;
            first.saturating_sub(self.opening.len())
        } else {
            self.connections_to_add(now)
        };
        self.open(now, wanted.min(missing));
    }

    /// How many more connections would bring the wait down to the acceptable one.
    fn connections_to_add(&self, now: Instant) -> usize {
        let acceptable = self.acceptable_wait();
        let work = self.use_time(now).as_nanos() * self.demand(now) as u128;
        let enough = work.div_ceil(acceptable.as_nanos().max(1));
        let by_forecast = enough.saturating_sub(self.total() as u128);
        let by_forecast = usize::try_from(by_forecast).unwrap_or(usize::MAX);
        let longest = self.queue.oldest();
        let longest = longest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let by_longest_wait = usize::from(longest >= acceptable && self.opening.is_empty());
        by_forecast.max(by_longest_wait)
    }

    fn acceptable_wait(&self) -> Duration {
        (self.figures.average_connect.get() / WAIT_PART).max(WAIT_MIN)
    }

    /// How long connections stay in use: the average of the exclusive leases that ended, or that of
    /// the exclusive leases and of the slow requests on shared connections now, the longer of the two.
    fn use_time(&self, now: Instant) -> Duration {
        let leases = self.leases.values();
        let counts = |lease: &&LeaseRecord| !lease.leaked && !lease.kept;
        let current = leases.filter(|lease| lease.mode == Mode::Exclusive && counts(lease));
        let ages = current.map(|lease| now.saturating_duration_since(lease.since));
        let ages = ages.chain(self.slow_heads(now));
        let (sum, count) = ages.fold((Duration::ZERO, 0), |(sum, count), age| {
            (sum + age, count + 1)
        });
        let current = sum.checked_div(count).unwrap_or_default();
        self.figures.average_use.get().max(current)
    }

    /// The number of connections that would serve all waiters.
    pub(super) fn demand(&self, now: Instant) -> usize {
        self.queue.len_of(Mode::Exclusive) + self.shared_demand(now, |_| true)
    }

    /// The number of connections that would serve the waiters for shared use; 0 while `counts` is false.
    fn shared_demand(
        &self,
        now: Instant,
        counts: impl Fn(&Sharing<'_, C::Connection>) -> bool,
    ) -> usize {
        let waiting = self.queue.len_of(Mode::Shared);
        if waiting == 0 {
            return 0;
        }
        let sharing = self.sharing_after_connect(now);
        if !counts(&sharing) || !self.may_share_idle(now, &sharing) {
            return 0;
        }
        waiting.div_ceil(SHARED_EACH)
    }

    /// The number of connections that would serve all waiters for whom none is expected.
    fn missing(&self, now: Instant) -> usize {
        // A new connection that turns out to be quick serves all waiters for shared use.
        let shared = self.shared_demand(now, |sharing| !sharing.has_untested);
        let demand = self.queue.len_of(Mode::Exclusive) + shared;
        demand.saturating_sub(self.expected_soon(now))
    }

    /// The number of connections that are expected to be free soon.
    pub(super) fn expected_soon(&self, now: Instant) -> usize {
        let maintenance = self.maintenance_deadlines().filter(|at| *at > now);
        self.opening.len() + maintenance.count()
    }

    /// For each connection under maintenance, the time after which it is not expected back.
    fn maintenance_deadlines(&self) -> impl Iterator<Item = Instant> {
        let limit = self.figures.average_connect.get() * MAINTENANCE_FACTOR;
        let limit = limit.max(WAIT_MIN);
        let states = self.connections.values().map(|pooled| &pooled.state);
        states.filter_map(move |state| match state {
            ConnectionState::UnderMaintenance { since } => Some(*since + limit),
            _ => None,
        })
    }

    /// When the pool has to decide about growth again.
    pub(super) fn next_growth(&self, now: Instant) -> Option<Instant> {
        if self.total() >= self.config.connections_max as usize {
            return None;
        }
        if self.missing(now) == 0 {
            if self.demand(now) <= self.opening.len() {
                return None;
            }
            return self.maintenance_deadlines().filter(|at| *at > now).min();
        }
        let soon = now + (self.acceptable_wait() / 2).max(DECISION_INTERVAL_MIN);
        let next_try = self.circuit.next_try.filter(|at| *at > now);
        Some(next_try.map_or(soon, |at| at.max(now + DECISION_INTERVAL_MIN)))
    }
}
