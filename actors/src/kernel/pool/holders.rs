//! Who holds connections, which leases last too long, and the pool's status.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

use super::connect::Connect;
use super::error::TimeoutCause;
use super::lease::Mode;
use super::queue::CheckoutReply;
use super::state::{LeaseRecord, PoolState, count};
use super::status::{Holder, PoolStatus};

/// The most holders that an error names.
const NAMED_MAX: usize = 3;

impl<C: Connect, R: CheckoutReply<Connection = C::Connection>> PoolState<C, R> {
    /// Records that a lease is meant to last.
    pub(super) fn keep(&mut self, lease: u64) {
        if let Some(lease) = self.leases.get_mut(&lease)
            && !std::mem::replace(&mut lease.kept, true)
        {
            self.kept += 1;
        }
    }

    /// Logs and counts the leases that have lasted too long since the last call.
    pub(super) fn find_leaks(&mut self, now: Instant) {
        let leases = self.leases.values_mut();
        for lease in leases.filter(|lease| !lease.leaked && !lease.kept) {
            let held_for = now.saturating_duration_since(lease.since);
            if held_for < self.config.leak_after {
                continue;
            }
            lease.leaked = true;
            self.figures.leaks.increment();
            tracing::warn!(
                pool = self.figures.name,
                holder = %lease.holder,
                held_ms = held_for.as_millis(),
                "a connection is held for too long"
            );
        }
    }

    /// When the next lease has lasted too long.
    pub(super) fn next_leak(&self) -> Option<Instant> {
        // Leases are in the order of their begin.
        let mut leases = self.leases.values();
        let next = leases.find(|lease| !lease.leaked && !lease.kept)?;
        Some(next.since + self.config.leak_after)
    }

    /// What a caller waited for whose deadline passes now.
    pub(super) fn timeout_cause(&self, now: Instant) -> TimeoutCause {
        if self.circuit.is_failing()
            && let Some(error) = &self.circuit.last_error
        {
            return TimeoutCause::Unreachable(error.clone());
        }
        let oldest = self.opening.values().min();
        if let Some(began) = oldest.filter(|_| self.connections.is_empty()) {
            let so_far = now.saturating_duration_since(*began);
            return TimeoutCause::SlowConnect { so_far };
        }
        let mut holders = holders(self.leases.values(), now);
        holders.extend(self.joined(now));
        holders.sort_by_key(|holder| Reverse(holder.leases));
        holders.truncate(NAMED_MAX);
        TimeoutCause::Busy { holders }
    }

    /// The users of shared connections that joined without asking. Each of them ends soon, by its
    /// deadline, so the pool does not know their places.
    fn joined(&self, now: Instant) -> Option<Holder> {
        let users: u32 = self.slots().map(|slot| slot.users()).sum();
        let leases = self.leases.values();
        let granted = leases.filter(|lease| lease.mode == Mode::Shared).count();
        let joined = users.saturating_sub(count(granted));
        let oldest = self.slots().map(|slot| slot.progress_at()).min()?;
        let oldest = now.saturating_duration_since(oldest);
        (joined > 0).then(|| Holder {
            place: "users of shared connections".to_owned(),
            leases: joined,
            since_seconds: oldest.as_secs_f64(),
        })
    }

    /// The pool at this moment.
    pub(super) fn status(&self, now: Instant) -> PoolStatus {
        let figures = &self.figures;
        let (checkouts, reused) = (figures.checkouts.get(), figures.reused.get());
        PoolStatus {
            name: figures.name.clone(),
            size: count(self.connections.len()),
            idle: count(self.idle.len()),
            in_use: count(self.connections.len() - self.idle.len()),
            shared: count(self.slots().count()),
            shared_in_flight: self.slots().map(|slot| slot.users()).sum(),
            waiting: count(self.queue.active_len()),
            opening: count(self.opening.len()),
            retiring: count(self.retiring.len()),
            opened: figures.opened.get(),
            closed: figures.closed(),
            checkouts,
            reused,
            reuse_rate: rate(reused, checkouts),
            wait: figures.wait.quantiles(),
            usage: figures.usage.quantiles(),
            connect: figures.connect.quantiles(),
            refused: figures.refused.get(),
            timed_out: figures.timed_out.get(),
            failed: figures.failed.get(),
            retries: figures.retries,
            leaks: figures.leaks.get(),
            leaked: holders(self.leases.values().filter(|lease| lease.leaked), now),
            circuit: self.circuit.status(now),
            last_error: self.circuit.last_error.as_ref().map(ToString::to_string),
        }
    }
}

/// The leases by the place that holds them.
fn holders<'a>(leases: impl Iterator<Item = &'a LeaseRecord>, now: Instant) -> Vec<Holder> {
    let mut places: BTreeMap<&Location<'_>, (u32, Duration)> = BTreeMap::new();
    for lease in leases {
        let age = now.saturating_duration_since(lease.since);
        let (leases, oldest) = places.entry(lease.holder).or_default();
        *leases += 1;
        *oldest = age.max(*oldest);
    }
    let holders = places.into_iter().map(|(place, (leases, oldest))| Holder {
        place: format!("{}:{}", place.file(), place.line()),
        leases,
        since_seconds: oldest.as_secs_f64(),
    });
    holders.collect()
}

fn rate(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}
