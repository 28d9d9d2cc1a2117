//! What time does to a pool: who has waited for too long, what has lived or rested for long enough,
//! and what goes when memory is short.

use tokio::time::Instant;

use super::error::CheckoutError;
use super::queue::Waits;
use super::state::{Effect, PoolState, Use};
use super::status::CloseReason;

impl<T, W: Waits> PoolState<T, W> {
    /// Time has passed: [`PoolState::next_wake`] says when that matters.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some(waiter) = self.queue.expired(now) {
            if waiter.ticket.is_gone() {
                continue;
            }
            self.figures.timed_out();
            let cause = self.cause(now);
            self.effects.push(Effect::Refuse {
                ticket: waiter.ticket,
                error: CheckoutError::TimedOut { cause },
            });
        }
        self.find_leaks(now);
        self.reap(now);
        self.serve_waiters(now);
    }

    /// Closes idle connections that have lived for long enough, and those above the minimum that
    /// nobody has used for long.
    fn reap(&mut self, now: Instant) {
        let slots = &self.slots;
        let is_old = |id: &u64| slots.get(id).is_some_and(|slot| slot.expires <= now);
        let (old, kept) = self.idle.iter().partition(|id| is_old(id));
        self.idle = kept;
        let old: Vec<u64> = old;
        for id in old {
            self.close(id, CloseReason::Lifetime);
        }
        while self.slots.len() > self.config.connections_min as usize
            && self
                .idle_expires_at()
                .is_some_and(|idle_expires_at| idle_expires_at <= now)
        {
            let id = self.idle.remove(0);
            self.close(id, CloseReason::Idle);
        }
    }

    /// When the idle connection that was used longest ago has been idle for too long.
    fn idle_expires_at(&self) -> Option<Instant> {
        let oldest = self.slots.get(self.idle.first()?)?;
        match oldest.state {
            Use::Idle { since } => Some(since + self.config.idle_timeout),
            _ => None,
        }
    }

    /// When [`PoolState::tick`] is to be called next.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let expires = |id: &u64| self.slots.get(id).map(|slot| slot.expires);
        let above = self.slots.len() > self.config.connections_min as usize;
        let due = [
            self.queue.first_deadline(),
            self.next_leak(),
            self.idle_expires_at().filter(|_| above),
            self.idle.iter().filter_map(expires).min(),
            self.next_growth(now),
        ];
        due.into_iter().flatten().min()
    }

    /// Closes idle connections until `bytes` are given back, at `each` bytes per connection, also
    /// below the minimum. Says how many went.
    pub(super) fn shed_idle(&mut self, bytes: u64, each: u64) -> u64 {
        let wanted = bytes.div_ceil(each.max(1));
        let going = usize::try_from(wanted).unwrap_or(usize::MAX);
        let going = going.min(self.idle.len());
        let oldest: Vec<u64> = self.idle.drain(..going).collect();
        for id in oldest {
            self.close(id, CloseReason::Pressure);
        }
        going as u64
    }
}
