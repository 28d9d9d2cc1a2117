//! Which waiter gets which connection.
//!
//! An idle connection goes to the waiter that has waited longest. Waiters for shared use need no
//! connection of their own: they may pass waiters for exclusive use, but never starve them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::connect::Connect;
use super::lease::{Lease, Mode};
use super::queue::{CheckoutReply, Waiter};
use super::state::{ConnectionState, LeaseRecord, Maintenance, PoolState};
use super::status::CloseReason;

impl<C: Connect, R: CheckoutReply<Connection = C::Connection>> PoolState<C, R> {
    /// Serves all waiters that can be served, then opens more connections if that is worth it.
    pub(super) fn serve_waiters(&mut self, now: Instant) {
        if self.draining || self.queue.len() == 0 {
            return;
        }
        loop {
            self.serve_shared(now, false);
            let Some(mode) = self.next_mode_for_idle() else {
                break;
            };
            let Some(id) = self.take_idle(now) else {
                break;
            };
            let Some(waiter) = self.queue.pop(mode) else {
                self.make_idle(now, id);
                break;
            };
            self.grant(now, mode, id, waiter);
        }
        self.serve_shared(now, true);
        self.grow(now);
    }

    /// Gives waiters for shared use a lease on a connection that is shared already. Unless
    /// `to_full_depth`, a connection is filled to half of its depth only, as long as an idle
    /// connection can be shared too.
    fn serve_shared(&mut self, now: Instant, to_full_depth: bool) {
        while let Some(number) = self.queue.first(Mode::Shared) {
            if self.must_let_exclusive_pass(number) {
                return;
            }
            let depth = self.config.shared_depth;
            let least_loaded = self.least_loaded(now);
            let Some((id, load)) = least_loaded.filter(|(_, load)| *load < depth) else {
                return;
            };
            let spread = load.saturating_mul(2) >= depth && self.may_share_more();
            if spread && !to_full_depth && !self.idle.is_empty() {
                return;
            }
            let Some(waiter) = self.queue.pop(Mode::Shared) else {
                return;
            };
            self.grant(now, Mode::Shared, id, waiter);
            if spread && self.idle.is_empty() && self.opening.is_empty() {
                self.open(now, 1);
            }
        }
    }

    /// Whether the waiter `number` for shared use must wait, because an earlier waiter for exclusive
    /// use would get no connection while all of them stay shared.
    fn must_let_exclusive_pass(&mut self, number: u64) -> bool {
        let full = self.total() >= self.config.connections_max as usize;
        let all_shared = || {
            let mut states = self.connections.values().map(|pooled| pooled.state);
            states.all(|state| matches!(state, ConnectionState::Shared { .. }))
        };
        if !full || !all_shared() {
            return false;
        }
        let first = self.queue.first(Mode::Exclusive);
        first.is_some_and(|first| first < number)
    }

    /// The shared connection with the fewest users, and their number, of those that take new users.
    /// Marks the ones that must not take new users any more.
    fn least_loaded(&mut self, now: Instant) -> Option<(u64, u32)> {
        let mut least = None;
        for (id, pooled) in &mut self.connections {
            let ConnectionState::Shared { in_flight, closing } = &mut pooled.state else {
                continue;
            };
            if closing.is_none() && self.connect.is_closed(&pooled.connection) {
                *closing = Some(CloseReason::Broken);
            } else if closing.is_none() && pooled.expires_at <= now {
                *closing = Some(CloseReason::Lifetime);
            }
            let is_less = least.is_none_or(|(_, load)| *in_flight < load);
            if closing.is_none() && is_less && !self.connect.is_blocked(&pooled.connection) {
                least = Some((*id, *in_flight));
            }
        }
        least
    }

    /// Whether another connection may be shared. One connection is left for exclusive use, if the
    /// maximum is above one. Connections that take no new users, since they are closing or blocked,
    /// do not count towards the limit of shared ones. If every shared connection is such a one, the
    /// last connection may be shared too.
    pub(super) fn may_share_more(&self) -> bool {
        let (mut shared, mut active) = (0, 0);
        for pooled in self.connections.values() {
            let ConnectionState::Shared { closing, .. } = pooled.state else {
                continue;
            };
            shared += 1;
            if closing.is_none() && !self.connect.is_blocked(&pooled.connection) {
                active += 1;
            }
        }
        let max = self.config.connections_max.saturating_sub(1).max(1);
        let leaves_one = shared < max || active == 0;
        active < self.config.shared_max && leaves_one
    }

    /// The mode of the waiter that gets the next idle connection.
    fn next_mode_for_idle(&mut self) -> Option<Mode> {
        let exclusive = self.queue.first(Mode::Exclusive);
        let shared = self.queue.first(Mode::Shared);
        match (exclusive, shared.filter(|_| self.may_share_more())) {
            (Some(exclusive), Some(shared)) if shared < exclusive => Some(Mode::Shared),
            (Some(_), _) => Some(Mode::Exclusive),
            (None, Some(_)) => Some(Mode::Shared),
            (None, None) => None,
        }
    }

    /// Takes the idle connection that was used last. Closes unusable ones, and checks those that
    /// were idle for long, as many at once as there is demand for.
    fn take_idle(&mut self, now: Instant) -> Option<u64> {
        while let Some(id) = self.idle.pop() {
            let Some(pooled) = self.connections.get(&id) else {
                continue;
            };
            let idle_for = match pooled.state {
                ConnectionState::Idle { since } => now.saturating_duration_since(since),
                _ => Duration::ZERO,
            };
            if self.connect.is_closed(&pooled.connection) {
                self.close(id, CloseReason::Broken);
            } else if pooled.expires_at <= now {
                self.close(id, CloseReason::Lifetime);
            } else if idle_for <= self.config.check_after_idle {
                return Some(id);
            } else if self.expected_soon(now) >= self.demand() {
                self.idle.push(id);
                return None;
            } else {
                self.maintain(now, id, Maintenance::Check);
            }
        }
        None
    }

    fn grant(&mut self, now: Instant, mode: Mode, id: u64, waiter: Waiter<R>) {
        let Some(pooled) = self.connections.get_mut(&id) else {
            return;
        };
        match (mode, &mut pooled.state) {
            (Mode::Shared, ConnectionState::Shared { in_flight, .. }) => *in_flight += 1,
            (Mode::Shared, state) => {
                *state = ConnectionState::Shared {
                    in_flight: 1,
                    closing: None,
                }
            }
            (Mode::Exclusive, state) => *state = ConnectionState::Exclusive,
        }
        self.figures.checkouts.increment();
        if std::mem::replace(&mut pooled.was_used, true) {
            self.figures.reused.increment();
        }
        let waited = now.saturating_duration_since(waiter.since);
        self.figures.wait.record(waited);
        let connection = Arc::clone(&pooled.connection);
        let lease = self.new_id();
        let record = LeaseRecord {
            connection: id,
            mode,
            holder: waiter.holder,
            since: now,
            leaked: false,
        };
        self.leases.insert(lease, record);
        let ended = Arc::clone(&self.ended_leases);
        waiter.reply.send(Ok(Lease::new(connection, lease, ended)));
    }
}
