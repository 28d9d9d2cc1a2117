//! Which waiter gets which connection.
//!
//! An idle connection goes to the waiter that has waited longest. Waiters for shared use need no
//! connection of their own (`sharing`): they may pass waiters for exclusive use, but never starve them.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::board::{Slot, User};
use super::connect::Connect;
use super::lease::{Lease, Mode};
use super::queue::CheckoutReply;
use super::sharing::Sharing;
use super::state::{ConnectionState, LeaseRecord, Maintenance, PoolState};
use super::status::CloseReason;

impl<C: Connect, R: CheckoutReply<Connection = C::Connection>> PoolState<C, R> {
    /// Serves all waiters that can be served, then opens more connections if that is worth it.
    pub(super) fn serve_waiters(&mut self, now: Instant) {
        if self.draining {
            return;
        }
        while self.queue.len() > 0 {
            if !self.serve_one(now) {
                return self.grow(now);
            }
        }
    }

    /// Serves one waiter, if one can be served.
    fn serve_one(&mut self, now: Instant) -> bool {
        let exclusive = self.queue.first(Mode::Exclusive);
        let shared = self.queue.first(Mode::Shared);
        let sharing = shared.map(|_| self.sharing(now));
        let may_share_idle = sharing
            .as_ref()
            .is_some_and(|it| self.may_share_idle(now, it));
        let needs_more = sharing.as_ref().is_some_and(Sharing::needs_more);
        let joinable = sharing.and_then(|sharing| Some(sharing.joinable?.0.id));
        let for_idle = match shared.filter(|_| may_share_idle) {
            Some(shared) if exclusive.is_none_or(|exclusive| shared < exclusive) => Mode::Shared,
            _ => Mode::Exclusive,
        };
        if self.queue.len_of(for_idle) > 0
            && let Some(id) = self.take_idle(now)
        {
            return self.grant(now, for_idle, id);
        }
        match joinable {
            Some(id) if !self.must_let_exclusive_pass() => {
                let is_served = self.grant(now, Mode::Shared, id);
                if is_served && needs_more && self.may_open_for_sharing() {
                    self.open(now, 1);
                }
                is_served
            }
            _ => false,
        }
    }

    /// Whether waiters for shared use must wait, because an earlier waiter for exclusive use would get
    /// no connection while all of them stay shared.
    fn must_let_exclusive_pass(&mut self) -> bool {
        let is_full = self.connections.len() >= self.connections_limit();
        let are_shared = self.slots().count() + self.kept as usize >= self.connections.len();
        if !is_full || !are_shared {
            return false;
        }
        let exclusive = self.queue.first(Mode::Exclusive);
        let shared = self.queue.first(Mode::Shared);
        let passes = exclusive.is_some_and(|first| shared.is_none_or(|shared| first < shared));
        if passes {
            // If it gives up, the others can be served.
            let waker = Waker::from(Arc::clone(&self.ended_leases));
            self.queue.wake_when_cancelled(Mode::Exclusive, &waker);
        }
        passes
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
                self.lost(now, id);
            } else if pooled.expires_at <= now {
                self.close(id, CloseReason::Lifetime);
            } else if idle_for <= self.config.check_after_idle {
                return Some(id);
            } else if self.expected_soon(now) >= self.demand(now) {
                self.idle.push(id);
                return None;
            } else {
                self.maintain(now, id, Maintenance::Check);
            }
        }
        None
    }

    /// Grants a lease on the connection `id` to the first waiter for `mode`. Returns whether there was
    /// one: the caller may have left in this moment.
    pub(super) fn grant(&mut self, now: Instant, mode: Mode, id: u64) -> bool {
        let Some(pooled) = self.connections.get_mut(&id) else {
            return false;
        };
        if let ConnectionState::Shared(slot) = &pooled.state
            && !slot.join(self.config.shared_depth)
        {
            // Others were quicker, or the last user has left, which is about to be told.
            return false;
        }
        let Some(waiter) = self.queue.pop(mode) else {
            // The last one has just given up. Others may wait for what it would have got.
            self.put_back(now, id);
            return true;
        };
        let connection = Arc::clone(&pooled.connection);
        let slot = match (mode, &pooled.state) {
            (Mode::Exclusive, _) => {
                pooled.state = ConnectionState::Exclusive;
                None
            }
            (Mode::Shared, ConnectionState::Shared(slot)) => Some(Arc::clone(slot)),
            (Mode::Shared, _) => {
                let slot = Arc::new(Slot::new(
                    id,
                    Arc::clone(&connection),
                    pooled.expires_at,
                    now,
                    pooled.pace,
                    Arc::clone(&self.ended_leases),
                ));
                self.board.publish(&slot);
                pooled.state = ConnectionState::Shared(Arc::clone(&slot));
                Some(slot)
            }
        };
        self.figures.checkouts.increment();
        if std::mem::replace(&mut pooled.was_used, true) {
            self.figures.reused.increment();
        }
        let waited = now.saturating_duration_since(waiter.since);
        self.figures.wait.record(waited);
        let number = self.new_id();
        let record = LeaseRecord {
            connection: id,
            mode,
            holder: waiter.holder,
            since: now,
            leaked: false,
            kept: false,
        };
        self.leases.insert(number, record);
        let lease = match slot {
            Some(slot) => {
                let user = User::new(slot, Arc::clone(&self.board), now);
                Lease::shared(user, Some(number))
            }
            None => Lease::exclusive(connection, number, Arc::clone(&self.ended_leases)),
        };
        waiter.reply.send(Ok(lease));
        true
    }

    /// Undoes what was done to the connection `id` for a waiter that has given up.
    fn put_back(&mut self, now: Instant, id: u64) {
        match self.connections.get(&id).map(|pooled| &pooled.state) {
            Some(ConnectionState::Shared(slot)) => {
                if slot.leave(now) {
                    self.slot_ended(now, id);
                }
            }
            _ => self.make_idle(now, id),
        }
    }
}
