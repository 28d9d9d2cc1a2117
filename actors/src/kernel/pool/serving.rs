//! Who gets which connection.
//!
//! Idle connections go to whoever has waited longest. Those who share do not need one of their own,
//! so they may pass those who do, but never keep them from it for good.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::messages::Mode;
use super::queue::{Waiter, Waits};
use super::state::{Effect, LeaseRecord, PoolState, Use};
use super::status::CloseReason;

impl<T, W: Waits> PoolState<T, W> {
    /// Serves whoever can be, then sees whether more connections are worth their while.
    pub(super) fn serve_waiters(&mut self, now: Instant) {
        if self.draining || self.queue.is_empty() {
            return;
        }
        loop {
            self.serve_shared(now, false);
            let Some(mode) = self.next_for_idle() else {
                break;
            };
            let Some(id) = self.take_idle(now) else {
                break;
            };
            let Some(waiter) = self.queue.head(mode).and_then(|at| self.queue.remove(at)) else {
                self.rest(now, id);
                break;
            };
            self.grant(now, mode, id, waiter);
        }
        self.serve_shared(now, true);
        self.grow(now);
    }

    /// Puts those who share onto connections in shared use: up to half of their depth as long as
    /// another connection could be shared, or `full`.
    fn serve_shared(&mut self, now: Instant, full: bool) {
        while let Some(place) = self.queue.head(Mode::Shared) {
            if self.is_held_back(place) {
                return;
            }
            let depth = self.config.shared_depth;
            let Some((id, load)) = self.least_loaded(now).filter(|(_, load)| *load < depth) else {
                return;
            };
            let spread = load.saturating_mul(2) >= depth && self.may_share_more();
            if spread && !full && !self.idle.is_empty() {
                return;
            }
            let Some(waiter) = self.queue.remove(place) else {
                return;
            };
            self.grant(now, Mode::Shared, id, waiter);
            if spread && self.idle.is_empty() && self.opening.is_empty() {
                self.open(now, 1);
            }
        }
    }

    /// Whether one who would share has to let an earlier one pass who wants a connection of its own
    /// and would never get it while all are shared.
    fn is_held_back(&mut self, place: u64) -> bool {
        let full = self.slots.len() + self.opening.len() >= self.config.connections_max as usize;
        let all_shared = || {
            let mut slots = self.slots.values();
            slots.all(|slot| matches!(slot.state, Use::Shared { .. }))
        };
        if !full || !all_shared() {
            return false;
        }
        let first = self.queue.head(Mode::Exclusive);
        first.is_some_and(|first| first < place)
    }

    /// The connection in shared use with the fewest users, of those that are not held up. Those that
    /// may not be given out any more are marked on the way.
    fn least_loaded(&mut self, now: Instant) -> Option<(u64, u32)> {
        let mut least = None;
        for (id, slot) in &mut self.slots {
            let expired = slot.expires <= now;
            let Use::Shared {
                in_flight,
                retiring,
            } = &mut slot.state
            else {
                continue;
            };
            if retiring.is_none() && (self.is_closed)(&slot.connection) {
                *retiring = Some(CloseReason::Broken);
            } else if retiring.is_none() && expired {
                *retiring = Some(CloseReason::Lifetime);
            }
            let is_less = least.is_none_or(|(_, load)| *in_flight < load);
            if retiring.is_none() && is_less && !(self.is_blocked)(&slot.connection) {
                least = Some((*id, *in_flight));
            }
        }
        least
    }

    /// Whether another connection may be put to shared use. One is left for those who want it alone,
    /// where there is more than one. Connections that take nobody, since they retire or are held up,
    /// do not count towards the most that share, and where all others are such, the last one that is
    /// left is shared.
    pub(super) fn may_share_more(&self) -> bool {
        let (mut shared, mut active) = (0, 0);
        for slot in self.slots.values() {
            let Use::Shared { retiring, .. } = slot.state else {
                continue;
            };
            shared += 1;
            if retiring.is_none() && !(self.is_blocked)(&slot.connection) {
                active += 1;
            }
        }
        let most = self.config.connections_max.saturating_sub(1).max(1);
        let leaves_one = shared < most || active == 0;
        active < self.config.shared_max && leaves_one
    }

    /// Whose turn it is to have an idle connection.
    fn next_for_idle(&mut self) -> Option<Mode> {
        let exclusive = self.queue.head(Mode::Exclusive);
        let shared = self.queue.head(Mode::Shared);
        match (exclusive, shared.filter(|_| self.may_share_more())) {
            (Some(exclusive), Some(shared)) if shared < exclusive => Some(Mode::Shared),
            (Some(_), _) => Some(Mode::Exclusive),
            (None, Some(_)) => Some(Mode::Shared),
            (None, None) => None,
        }
    }

    /// Takes the best idle connection. What turns out to be of no use is closed, and what was idle
    /// for long is asked first, as many at once as there is demand for.
    fn take_idle(&mut self, now: Instant) -> Option<u64> {
        while let Some(id) = self.idle.pop() {
            let Some(slot) = self.slots.get_mut(&id) else {
                continue;
            };
            let rested = match slot.state {
                Use::Idle { since } => now.saturating_duration_since(since),
                _ => Duration::ZERO,
            };
            if (self.is_closed)(&slot.connection) {
                self.close(id, CloseReason::Broken);
            } else if slot.expires <= now {
                self.close(id, CloseReason::Lifetime);
            } else if rested <= self.config.check_after_idle {
                return Some(id);
            } else if self.coming(now) >= self.demand() {
                self.idle.push(id);
                return None;
            } else if let Some(slot) = self.slots.get_mut(&id) {
                slot.state = Use::UnderMaintenance { since: now };
                let connection = Arc::clone(&slot.connection);
                self.effects.push(Effect::Check { id, connection });
            }
        }
        None
    }

    fn grant(&mut self, now: Instant, mode: Mode, id: u64, waiter: Waiter<W>) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.state = match (mode, slot.state) {
            (Mode::Exclusive, _) => Use::Exclusive,
            (
                Mode::Shared,
                Use::Shared {
                    in_flight,
                    retiring,
                },
            ) => Use::Shared {
                in_flight: in_flight + 1,
                retiring,
            },
            (Mode::Shared, _) => Use::Shared {
                in_flight: 1,
                retiring: None,
            },
        };
        let reused = std::mem::replace(&mut slot.used, true);
        let connection = Arc::clone(&slot.connection);
        let waited = now.saturating_duration_since(waiter.since);
        self.figures.granted(waited, reused);
        let lease = self.new_id();
        let held = LeaseRecord {
            slot: id,
            mode,
            holder: waiter.holder,
            since: now,
            leaked: false,
        };
        self.leases.insert(lease, held);
        self.effects.push(Effect::Grant {
            ticket: waiter.ticket,
            lease,
            connection,
        });
    }
}
