//! One resource's slot in the loader: its phase, what it holds, its waiters, and what was measured of it.

use std::sync::Arc;
use std::time::Duration;

use actix::SpawnHandle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::AcquireError;
use super::lease::{Lease, LeaseTracker};
use super::load_times::LoadTimes;
use super::metrics::UnloadReason;
use super::phase::Phase;
use super::policy::UseRecord;
use super::replacing::Replaces;
use super::status::Counts;
use crate::kernel::{Backoff, LoadError, MemoryFeedback, Reservation, Resource};

/// A caller that waits for a lease.
pub(super) type Waiter = oneshot::Sender<Result<Lease, AcquireError>>;

pub(super) struct Slot {
    pub(super) resource: Resource,
    /// Replaces `resource` at its next load, or when it is reloaded.
    replacement: Option<Resource>,
    /// What this slot is to replace when it is loaded.
    pub(super) replaces: Option<Replaces>,
    phase: Phase,
    phase_since: Instant,
    /// Its memory, from before its load until after its unload. A crash of the loader drops the slot
    /// as a whole, and the memory before the dependencies.
    pub(super) reservation: Option<Reservation>,
    /// Leases on its dependencies, from before the reservation until after the unload.
    pub(super) dependencies: Vec<Lease>,
    /// The leases on it, from the end of its load until after its unload.
    pub(super) leases: Option<Arc<LeaseTracker>>,
    /// The future that waits for the death of the loaded resource.
    pub(super) death_watch: Option<SpawnHandle>,
    /// Why to drain the resource as soon as its waiters have their leases.
    pub(super) drain_when_loaded: Option<UnloadReason>,
    /// Why it is draining.
    pub(super) drained_for: Option<UnloadReason>,
    /// Whether its unload is under way. It is draining then, or has failed.
    pub(super) is_unloading: bool,
    pub(super) waiters: Vec<Waiter>,
    /// Whether one of the waiters wants its load even if others must be evicted for it.
    pub(super) may_evict: bool,
    /// Callers that wait for the unload.
    pub(super) unload_waiters: Vec<oneshot::Sender<()>>,
    /// Whether the catalogue no longer has it. The slot is removed after the unload.
    pub(super) deregistered: bool,
    /// The name of its metrics. A slot that replaces another one, or is replaced, has the name of both.
    pub(super) counted_as: String,
    pub(super) counts: Counts,
    pub(super) load_times: LoadTimes,
    pub(super) usage: UseRecord,
    /// What was measured at the end of the last load; 0 before that.
    last_load_bytes: u64,
    /// The highest measured peak; 0 before the first measurement.
    peak_bytes: u64,
    /// What the resource's owner reports.
    pub(super) feedback: MemoryFeedback,
    /// Failures since the last stable run or orderly unload.
    failures_in_a_row: u32,
    /// When a resource that has failed may be loaded again.
    retry_at: Instant,
    pub(super) last_error: Option<LoadError>,
    last_use: Option<Instant>,
}

impl Slot {
    pub(super) fn new(resource: Resource) -> Self {
        let now = Instant::now();
        Self {
            counted_as: resource.name.clone(),
            resource,
            replacement: None,
            replaces: None,
            phase: Phase::Cold,
            phase_since: now,
            reservation: None,
            dependencies: Vec::new(),
            leases: None,
            death_watch: None,
            drain_when_loaded: None,
            drained_for: None,
            is_unloading: false,
            waiters: Vec::new(),
            may_evict: true,
            unload_waiters: Vec::new(),
            deregistered: false,
            counts: Counts::default(),
            load_times: LoadTimes::default(),
            usage: UseRecord::default(),
            last_load_bytes: 0,
            peak_bytes: 0,
            feedback: MemoryFeedback::default(),
            failures_in_a_row: 0,
            retry_at: now,
            last_error: None,
            last_use: None,
        }
    }

    /// Replaces the resource, now or when it becomes inactive.
    pub(super) fn replace(&mut self, resource: Resource) {
        self.deregistered = false;
        self.replacement = Some(resource);
        if !self.is_active() {
            self.apply_replacement();
        }
    }

    /// What is to replace the resource.
    pub(super) fn replacement(&self) -> Option<&Resource> {
        self.replacement.as_ref()
    }

    /// What is registered now: its next load uses that.
    pub(super) fn registered(&self) -> &Resource {
        self.replacement.as_ref().unwrap_or(&self.resource)
    }

    pub(super) fn take_replacement(&mut self) -> Option<Resource> {
        self.replacement.take()
    }

    /// The name that operators know it by.
    pub(super) fn known_name(&self) -> &str {
        let replaces = self.replaces.as_ref();
        replaces.map_or(&self.resource.name, |replaces| &replaces.name)
    }

    /// Replaces the resource if there is a replacement. What was measured of the old one is
    /// forgotten.
    pub(super) fn apply_replacement(&mut self) {
        let Some(replacement) = self.replacement.take() else {
            return;
        };
        self.forget_failures();
        self.resource = replacement;
        self.last_load_bytes = 0;
        self.peak_bytes = 0;
        self.feedback = MemoryFeedback::default();
        self.last_error = None;
    }

    /// Pins or unpins the resource, and the one that is to replace it.
    pub(super) fn set_pinned(&mut self, pinned: bool) {
        self.resource.pinned = pinned;
        if let Some(replacement) = &mut self.replacement {
            replacement.pinned = pinned;
        }
        if let (Some(reservation), Some(leases)) = (&self.reservation, &self.leases) {
            let uses = (!pinned).then(|| leases.counter());
            reservation.entry().count_uses(uses);
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn phase_since(&self) -> Instant {
        self.phase_since
    }

    pub(super) fn time_in_phase(&self) -> Duration {
        self.phase_since.elapsed()
    }

    pub(super) fn enter(&mut self, next: Phase) {
        debug_assert!(
            self.phase.may_become(next),
            "no transition from {:?} to {next:?}",
            self.phase
        );
        tracing::debug!(
            resource = self.resource.name,
            from = self.phase.label(),
            to = next.label(),
            lasted_seconds = self.time_in_phase().as_secs_f64(),
            "resource changed its phase"
        );
        self.phase = next;
        self.phase_since = Instant::now();
    }

    /// Gives back all that it holds: the memory before the dependencies.
    pub(super) fn release(&mut self) {
        self.last_use = self.last_use();
        self.reservation = None;
        self.dependencies.clear();
        self.leases = None;
        if let Some(replaces) = &mut self.replaces {
            replaces.release();
        }
    }

    /// The bytes that its unload frees; 0 while it is not loaded.
    pub(super) fn loaded_bytes(&self) -> u64 {
        let loaded = self.leases.as_ref().and(self.reservation.as_ref());
        loaded.map_or(0, Reservation::bytes)
    }

    /// The leases on it.
    pub(super) fn lease_count(&self) -> usize {
        self.leases.as_ref().map_or(0, |leases| leases.count())
    }

    /// Its last use, or its last load if there was none.
    pub(super) fn last_use(&self) -> Option<Instant> {
        let of_this_load = self.leases.as_ref().map(|leases| leases.last_use());
        of_this_load.or(self.last_use)
    }

    /// Whether a load is under way, or it is loaded, until the end of its unload.
    pub(super) fn is_active(&self) -> bool {
        self.phase == Phase::Loading || self.leases.is_some()
    }

    /// Whether the next caller causes a load.
    pub(super) fn may_start_load(&self) -> bool {
        !self.is_active() && self.remembered_failure().is_none()
    }

    /// Whether it is draining and its unload waits for leases.
    pub(super) fn is_draining_in_use(&self) -> bool {
        self.phase == Phase::Draining && !self.is_unloading && self.lease_count() > 0
    }

    /// What its processes use: by the last reading of memory, or by its load until a reading shows them.
    pub(super) fn measured_bytes(&self) -> u64 {
        let entry = self.reservation.as_ref().map(Reservation::entry);
        match entry.map_or(0, |entry| entry.measured()) {
            0 if self.leases.is_some() => self.last_load_bytes,
            bytes => bytes,
        }
    }

    /// The least to reserve for its next load: the bytes measured at the end of the last one.
    /// Growth after that load, and failed loads, raise only the estimate.
    pub(super) fn minimum_bytes(&self) -> u64 {
        match self.last_load_bytes {
            0 => self.resource.estimated_bytes,
            bytes => bytes,
        }
    }

    /// What to reserve for its next load.
    pub(super) fn estimated_bytes(&self) -> u64 {
        let bytes = match self.peak_bytes {
            0 => self.resource.estimated_bytes,
            peak => peak,
        };
        bytes.max(self.feedback.required_bytes())
    }

    /// Takes note of what was measured at the end of a load; 0 if nothing was.
    pub(super) fn record_measurement(&mut self, bytes: u64) {
        self.record_peak(bytes);
        if bytes > 0 {
            self.last_load_bytes = bytes;
        }
    }

    pub(super) fn record_peak(&mut self, bytes: u64) {
        self.peak_bytes = self.peak_bytes.max(bytes);
    }

    /// Takes note of a failed load or a death, and remembers it for the backoff. Returns the error for
    /// callers.
    pub(super) fn fail(&mut self, error: LoadError, backoff: &Backoff) -> AcquireError {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let retry_in = backoff.ceiling(self.failures_in_a_row);
        self.retry_at = Instant::now() + retry_in;
        self.last_error = Some(error.clone());
        self.enter(Phase::Failed);
        AcquireError::Failed { error, retry_in }
    }

    /// When the next caller can cause a load. `None` unless it has failed.
    pub(super) fn retry_in(&self) -> Option<Duration> {
        let retry_in = self.retry_at.saturating_duration_since(Instant::now());
        (self.phase == Phase::Failed).then_some(retry_in)
    }

    /// The error for callers within the backoff after a failure.
    pub(super) fn remembered_failure(&self) -> Option<AcquireError> {
        let retry_in = self.retry_in().filter(|retry_in| !retry_in.is_zero())?;
        let error = self.last_error.clone()?;
        Some(AcquireError::Failed { error, retry_in })
    }

    /// Starts the backoff afresh. A resource that has failed becomes cold.
    pub(super) fn forget_failures(&mut self) {
        self.failures_in_a_row = 0;
        if self.phase == Phase::Failed && !self.is_active() {
            self.enter(Phase::Cold);
        }
    }

    /// When it will have been idle for its TTL. `None` while it is in use, and without a TTL.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        let is_idle = self.phase == Phase::Ready && self.lease_count() == 0;
        if self.resource.pinned || !is_idle {
            return None;
        }
        self.last_use()?.checked_add(self.resource.ttl?)
    }

    /// Adds a waiter. Removes waiters that gave up whenever the list is full, so it does not grow
    /// without bound.
    pub(super) fn push_waiter(&mut self, waiter: Waiter) {
        if self.waiters.len() == self.waiters.capacity() {
            self.waiters.retain(|waiter| !waiter.is_closed());
        }
        self.waiters.push(waiter);
    }

    /// The number of waiters that have not given up.
    pub(super) fn waiting(&self) -> usize {
        let waiting = self.waiters.iter().filter(|waiter| !waiter.is_closed());
        waiting.count()
    }

    /// Gives `error` to all waiters.
    pub(super) fn refuse_waiters(&mut self, error: &AcquireError) {
        for waiter in self.waiters.drain(..) {
            // It fails only if the waiter has given up.
            waiter.send(Err(error.clone())).ok();
        }
    }

    /// Tells all unload waiters that the unload has ended.
    pub(super) fn report_unloaded(&mut self) {
        for waiter in self.unload_waiters.drain(..) {
            waiter.send(()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scripted::Scripted;
    use super::*;

    #[test]
    fn required_bytes_raise_the_estimate_until_the_resource_is_replaced() {
        let mut slot = Slot::new(Scripted::new().resource("thing", &[]));
        let at_first = slot.estimated_bytes();
        slot.feedback.clone().require(at_first + 5);
        slot.feedback.require(3);
        assert_eq!(slot.estimated_bytes(), at_first + 5);
        slot.record_peak(at_first + 9);
        assert_eq!(slot.estimated_bytes(), at_first + 9);
        slot.replace(Scripted::new().resource("thing", &[]));
        assert_eq!(slot.estimated_bytes(), at_first);
    }

    #[test]
    fn waiters_that_gave_up_do_not_pile_up() {
        let mut slot = Slot::new(Scripted::new().resource("thing", &[]));
        let (waiter, _lease) = oneshot::channel();
        slot.push_waiter(waiter);
        for _ in 0..10_000 {
            slot.push_waiter(oneshot::channel().0);
        }
        assert_eq!(slot.waiting(), 1);
        assert!(slot.waiters.capacity() < 100, "{}", slot.waiters.capacity());
    }
}
