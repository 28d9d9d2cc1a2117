//! Who holds connections, who does so for too long, and what a caller waited for in vain.

use std::collections::BTreeMap;
use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

use super::error::TimeoutCause;
use super::messages::Mode;
use super::queue::Waits;
use super::state::{LeaseRecord, PoolState, Use, count};
use super::status::{Holder, PoolStatus};

/// How many holders an error names.
const NAMED_MAX: usize = 3;

impl<T, W: Waits> PoolState<T, W> {
    /// Logs leases that have just become too old.
    pub(super) fn find_leaks(&mut self, now: Instant) {
        let leak_after = self.config.leak_after;
        let is_new = |held: &&mut LeaseRecord| {
            !held.leaked && now.saturating_duration_since(held.since) >= leak_after
        };
        let mut found = 0;
        for held in self.leases.values_mut().filter(is_new) {
            held.leaked = true;
            found += 1;
            tracing::warn!(
                pool = self.figures.name(),
                holder = %held.holder,
                held_ms = now.saturating_duration_since(held.since).as_millis(),
                "a connection is held for too long"
            );
        }
        for _ in 0..found {
            self.figures.leaked();
        }
    }

    /// When the next lease becomes too old.
    pub(super) fn next_leak(&self) -> Option<Instant> {
        // Leases are in the order of their coming.
        let next = self.leases.values().find(|held| !held.leaked)?;
        Some(next.since + self.config.leak_after)
    }

    /// What kept a caller waiting until its deadline.
    pub(super) fn cause(&self, now: Instant) -> TimeoutCause {
        if self.circuit.is_failing()
            && let Some(last) = self.circuit.last()
        {
            return TimeoutCause::Unreachable(last.clone());
        }
        let oldest = self.opening.values().min();
        if let Some(began) = oldest.filter(|_| self.slots.is_empty()) {
            let so_far = now.saturating_duration_since(*began);
            return TimeoutCause::SlowConnect { so_far };
        }
        let mut holders = holders(self.leases.values(), now);
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.leases));
        holders.truncate(NAMED_MAX);
        TimeoutCause::Busy { holders }
    }

    pub(super) fn status(&self, now: Instant) -> PoolStatus {
        let figures = &self.figures;
        let shared_leases = self.leases.values();
        let shared_leases = shared_leases.filter(|held| held.mode == Mode::Shared);
        let shared = self.slots.values();
        let shared = shared.filter(|slot| matches!(slot.state, Use::Shared { .. }));
        PoolStatus {
            name: figures.name().to_owned(),
            size: count(self.slots.len()),
            idle: count(self.idle.len()),
            in_use: count(self.slots.len() - self.idle.len()),
            shared: count(shared.count()),
            shared_in_flight: count(shared_leases.count()),
            waiting: count(self.queue.present()),
            opening: count(self.opening.len()),
            opened: figures.opened,
            closed: figures.closed.clone(),
            checkouts: figures.checkouts,
            reused: figures.reused,
            reuse_rate: rate(figures.reused, figures.checkouts),
            wait: figures.wait.quantiles(),
            usage: figures.usage.quantiles(),
            connect: figures.connect.quantiles(),
            refused: figures.refused,
            timed_out: figures.timed_out,
            failed: figures.failed,
            retries: figures.retries,
            leaks: figures.leaks,
            leaked: holders(self.leases.values().filter(|held| held.leaked), now),
            circuit: self.circuit.status(now),
            last_error: self.circuit.last().map(ToString::to_string),
        }
    }
}

/// The leases by the place that holds them.
fn holders<'a>(leases: impl Iterator<Item = &'a LeaseRecord>, now: Instant) -> Vec<Holder> {
    let mut places: BTreeMap<&Location<'_>, (u32, Duration)> = BTreeMap::new();
    for held in leases {
        let age = now.saturating_duration_since(held.since);
        let (leases, oldest) = places.entry(held.holder).or_default();
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

#[allow(clippy::cast_precision_loss)]
fn rate(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}
