//! The callers that wait for a connection, in the order of their arrival, each with a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::Location;
use std::task::Waker;

use tokio::time::Instant;

use super::error::CheckoutError;
use super::lease::{Lease, Mode};

/// The reply to a caller.
pub(super) trait CheckoutReply {
    type Connection;

    /// Whether the caller does not wait any more.
    fn is_cancelled(&self) -> bool;

    /// Has `waker`, and no earlier one, called when the caller gives up.
    fn wake_when_cancelled(&mut self, waker: &Waker);

    /// Answers. If the caller has left, the lease is dropped, and so it ends.
    fn send(self, answer: Result<Lease<Self::Connection>, CheckoutError>);
}

/// One caller that waits; `R` is its reply.
pub(super) struct Waiter<R> {
    pub(super) reply: R,
    pub(super) holder: &'static Location<'static>,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
}

/// One queue per mode. Entries are numbered across both, so that their order is known.
pub(super) struct Queue<R> {
    by_mode: [BTreeMap<u64, Waiter<R>>; 2],
    deadlines: BTreeSet<(Instant, u64)>,
    next: u64,
}

impl<R: CheckoutReply> Queue<R> {
    pub(super) fn new() -> Self {
        Self {
            by_mode: [BTreeMap::new(), BTreeMap::new()],
            deadlines: BTreeSet::new(),
            next: 0,
        }
    }

    /// The number of waiters, cancelled ones included.
    pub(super) fn len(&self) -> usize {
        self.by_mode.iter().map(BTreeMap::len).sum()
    }

    /// The number of waiters for `mode`, cancelled ones included.
    pub(super) fn len_of(&self, mode: Mode) -> usize {
        self.by_mode[mode as usize].len()
    }

    /// The number of waiters, without cancelled ones.
    pub(super) fn active_len(&self) -> usize {
        let all = self.by_mode.iter().flat_map(BTreeMap::values);
        all.filter(|waiter| !waiter.reply.is_cancelled()).count()
    }

    pub(super) fn push(&mut self, mode: Mode, waiter: Waiter<R>) {
        let number = self.next;
        self.next += 1;
        self.deadlines.insert((waiter.deadline, number));
        self.by_mode[mode as usize].insert(number, waiter);
    }

    /// The number of the first waiter for `mode`. Drops the cancelled ones before it.
    pub(super) fn first(&mut self, mode: Mode) -> Option<u64> {
        loop {
            let (number, waiter) = self.by_mode[mode as usize].first_key_value()?;
            let number = *number;
            if !waiter.reply.is_cancelled() {
                return Some(number);
            }
            drop(self.remove(number));
        }
    }

    /// Removes the first waiter for `mode`.
    pub(super) fn pop(&mut self, mode: Mode) -> Option<Waiter<R>> {
        let number = self.first(mode)?;
        self.remove(number)
    }

    fn remove(&mut self, number: u64) -> Option<Waiter<R>> {
        let mut queues = self.by_mode.iter_mut();
        let waiter = queues.find_map(|queue| queue.remove(&number))?;
        self.deadlines.remove(&(waiter.deadline, number));
        Some(waiter)
    }

    /// Removes a waiter whose deadline has passed.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Waiter<R>> {
        let (deadline, number) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.remove(number)
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// When the oldest waiter arrived.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let modes = [Mode::Exclusive, Mode::Shared];
        modes
            .into_iter()
            .filter_map(|mode| self.oldest_of(mode))
            .min()
    }

    /// When the oldest waiter for `mode` arrived.
    pub(super) fn oldest_of(&self, mode: Mode) -> Option<Instant> {
        let (_, waiter) = self.by_mode[mode as usize].first_key_value()?;
        Some(waiter.since)
    }

    /// The number of the first waiter for `mode` that has not given up, and when it arrived.
    #[cfg(test)]
    pub(super) fn first_waiting(&self, mode: Mode) -> Option<(u64, Instant)> {
        let mut waiters = self.by_mode[mode as usize].iter();
        let (number, waiter) = waiters.find(|(_, waiter)| !waiter.reply.is_cancelled())?;
        Some((*number, waiter.since))
    }

    /// Has `waker` called when the first waiter for `mode` gives up.
    pub(super) fn wake_when_cancelled(&mut self, mode: Mode, waker: &Waker) {
        if let Some(mut first) = self.by_mode[mode as usize].first_entry() {
            first.get_mut().reply.wake_when_cancelled(waker);
        }
    }

    /// Drops cancelled waiters.
    pub(super) fn remove_cancelled(&mut self) {
        let deadlines = &mut self.deadlines;
        let mut keep = |number: &u64, waiter: &mut Waiter<R>| {
            let cancelled = waiter.reply.is_cancelled();
            if cancelled {
                deadlines.remove(&(waiter.deadline, *number));
            }
            !cancelled
        };
        for queue in &mut self.by_mode {
            queue.retain(&mut keep);
        }
    }

    /// Removes all waiters, in the order of their arrival.
    pub(super) fn take_all(&mut self) -> Vec<Waiter<R>> {
        self.deadlines.clear();
        let [mut all, mut shared] = std::mem::take(&mut self.by_mode);
        all.append(&mut shared);
        all.into_values().collect()
    }
}
