//! Those who wait for a connection: in the order of their coming, each with a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::Location;

use tokio::time::Instant;

use super::messages::Mode;

/// Somebody who waits for an answer.
pub(super) trait Waits {
    /// Whether nobody waits any more.
    fn is_gone(&self) -> bool;
}

pub(super) struct Waiter<W> {
    pub(super) ticket: W,
    pub(super) holder: &'static Location<'static>,
    pub(super) since: Instant,
    deadline: Instant,
}

/// One queue for each mode, with places counted over both.
pub(super) struct Queue<W> {
    exclusive: BTreeMap<u64, Waiter<W>>,
    shared: BTreeMap<u64, Waiter<W>>,
    deadlines: BTreeSet<(Instant, u64)>,
    next: u64,
}

impl<W: Waits> Queue<W> {
    pub(super) fn new() -> Self {
        Self {
            exclusive: BTreeMap::new(),
            shared: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.exclusive.len() + self.shared.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exclusive.is_empty() && self.shared.is_empty()
    }

    /// How many wait for a connection of their own, those who have gone included.
    pub(super) fn exclusive(&self) -> usize {
        self.exclusive.len()
    }

    /// How many wait for a place on a shared one, those who have gone included.
    pub(super) fn shared(&self) -> usize {
        self.shared.len()
    }

    /// How many still wait.
    pub(super) fn present(&self) -> usize {
        let all = self.exclusive.values().chain(self.shared.values());
        all.filter(|waiter| !waiter.ticket.is_gone()).count()
    }

    pub(super) fn push(
        &mut self,
        mode: Mode,
        holder: &'static Location<'static>,
        now: Instant,
        deadline: Instant,
        ticket: W,
    ) {
        let place = self.next;
        self.next += 1;
        self.deadlines.insert((deadline, place));
        let waiter = Waiter {
            ticket,
            holder,
            since: now,
            deadline,
        };
        self.of(mode).insert(place, waiter);
    }

    /// The place of the first of `mode` that still waits; those before it that do not are dropped.
    pub(super) fn head(&mut self, mode: Mode) -> Option<u64> {
        loop {
            let (place, waiter) = self.of(mode).first_key_value()?;
            let place = *place;
            if !waiter.ticket.is_gone() {
                return Some(place);
            }
            drop(self.remove(place));
        }
    }

    /// Takes the one at `place` out.
    pub(super) fn remove(&mut self, place: u64) -> Option<Waiter<W>> {
        let exclusive = self.exclusive.remove(&place);
        let waiter = exclusive.or_else(|| self.shared.remove(&place))?;
        self.deadlines.remove(&(waiter.deadline, place));
        Some(waiter)
    }

    /// Takes out one whose deadline has passed.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Waiter<W>> {
        let (deadline, place) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.remove(place)
    }

    /// The next deadline.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Since when the one waits who has waited longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let heads = [
            self.exclusive.first_key_value(),
            self.shared.first_key_value(),
        ];
        let since = heads.into_iter().flatten().map(|(_, waiter)| waiter.since);
        since.min()
    }

    /// Drops those who do not wait any more.
    pub(super) fn purge(&mut self) {
        let deadlines = &mut self.deadlines;
        let mut keep = |place: &u64, waiter: &mut Waiter<W>| {
            let gone = waiter.ticket.is_gone();
            if gone {
                deadlines.remove(&(waiter.deadline, *place));
            }
            !gone
        };
        self.exclusive.retain(&mut keep);
        self.shared.retain(&mut keep);
    }

    /// Takes everybody out, first come first.
    pub(super) fn take_all(&mut self) -> Vec<Waiter<W>> {
        self.deadlines.clear();
        let mut all = std::mem::take(&mut self.exclusive);
        all.append(&mut self.shared);
        all.into_values().collect()
    }

    fn of(&mut self, mode: Mode) -> &mut BTreeMap<u64, Waiter<W>> {
        match mode {
            Mode::Exclusive => &mut self.exclusive,
            Mode::Shared => &mut self.shared,
        }
    }
}
