//! What a pool does by time: it answers waiters whose deadline has passed, closes connections that
//! are too old or idle for too long, and looks for what may end a denial. It also closes idle connections
//! when memory is short.

use std::time::Duration;

use tokio::time::Instant;

use super::connect::Connect;
use super::error::CheckoutError;
use super::queue::CheckoutReply;
use super::state::{ConnectionState, Effect, PoolState};
use super::status::CloseReason;

/// How often the uses of shared connections are added to the figures.
const COUNT_EVERY: Duration = Duration::from_secs(1);

impl<C: Connect, R: CheckoutReply<Connection = C::Connection>> PoolState<C, R> {
    /// Does what is due at `now`. [`PoolState::next_tick`] says when to call it.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some(waiter) = self.queue.pop_expired(now) {
            if waiter.reply.is_cancelled() {
                continue;
            }
            self.figures.timed_out.increment();
            let cause = self.timeout_cause(now);
            waiter.reply.send(Err(CheckoutError::TimedOut { cause }));
        }
        self.find_leaks(now);
        self.count_uses(now);
        self.close_expired(now);
        if self.circuit.must_look(now) {
            self.effects.push(Effect::Look);
        }
        self.serve_waiters(now);
    }

    /// Closes idle connections at the end of their lifetime, and those above the minimum that were
    /// idle for too long.
    fn close_expired(&mut self, now: Instant) {
        let connections = &self.connections;
        let is_old = |id: &mut u64| {
            let pooled = connections.get(id);
            pooled.is_some_and(|pooled| pooled.expires_at <= now)
        };
        let old: Vec<u64> = self.idle.extract_if(.., is_old).collect();
        for id in old {
            self.close(id, CloseReason::Lifetime);
        }
        while self.idle_expires_at().is_some_and(|at| at <= now) {
            let id = self.idle.remove(0);
            self.close(id, CloseReason::Idle);
        }
    }

    /// When the next idle connection above the minimum has been idle for too long.
    fn idle_expires_at(&self) -> Option<Instant> {
        if self.connections.len() <= self.config.connections_min as usize {
            return None;
        }
        match self.connections.get(self.idle.first()?)?.state {
            ConnectionState::Idle { since } => Some(since + self.config.idle_timeout),
            _ => None,
        }
    }

    /// When [`PoolState::tick`] is due.
    pub(super) fn next_tick(&self, now: Instant) -> Option<Instant> {
        let expires_at = |id: &u64| self.connections.get(id).map(|pooled| pooled.expires_at);
        let due = [
            self.queue.next_deadline(),
            self.next_leak(),
            self.idle_expires_at(),
            self.idle.iter().filter_map(expires_at).min(),
            self.next_growth(now),
            self.circuit.next_look(),
            self.slots().next().map(|_| self.counted_at + COUNT_EVERY),
            self.next_sharing(now),
        ];
        due.into_iter().flatten().min()
    }

    /// Closes idle connections, also below the minimum, until `bytes` are given back. Returns the
    /// number of closed connections.
    pub(super) fn shed_idle(&mut self, bytes: u64) -> u64 {
        let wanted = bytes.div_ceil(self.connect.bytes_per_connection().max(1));
        let closed = usize::try_from(wanted).unwrap_or(usize::MAX);
        let closed = closed.min(self.idle.len());
        let longest_idle: Vec<u64> = self.idle.drain(..closed).collect();
        for id in longest_idle {
            self.close(id, CloseReason::Pressure);
        }
        closed as u64
    }
}
