//! One resource's slot in the loader: its state, its waiters, and what was measured of it.

use std::sync::Arc;
use std::time::Duration;

use actix::SpawnHandle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::AcquireError;
use super::lease::{Lease, LeaseTracker};
use super::metrics::{ResourceMetrics, UnloadReason};
use super::phase::Phase;
use super::policy::UseRecord;
use crate::kernel::{Backoff, LoadError, MemoryFeedback, Reservation, Resource};

/// A caller that waits for a lease.
pub(super) type Waiter = oneshot::Sender<Result<Lease, AcquireError>>;

/// The state of a resource, with what it holds there.
pub(super) enum State {
    Cold,
    Loading {
        step: LoadStep,
        /// Why to drain the resource as soon as its waiters have their leases.
        drain_when_loaded: Option<UnloadReason>,
    },
    Ready(LoadedParts),
    Draining {
        parts: LoadedParts,
        /// Whether the unload is under way.
        unloading: bool,
    },
    Failed {
        failure: Failure,
        /// What a resource that died still holds, until its unload has ended.
        cleaning_up: Option<LoadedParts>,
    },
}

/// How far a load has come.
pub(super) enum LoadStep {
    /// Its dependencies are being loaded.
    Dependencies,
    /// It waits for its reservation.
    Reservation { dependencies: Vec<Lease> },
    /// It runs.
    Running {
        dependencies: Vec<Lease>,
        reservation: Reservation,
        since: Instant,
    },
}

/// What a loaded resource holds. The order of the fields is the order of their release: the memory
/// before the dependencies.
pub(super) struct LoadedParts {
    pub(super) reservation: Reservation,
    pub(super) dependencies: Vec<Lease>,
    pub(super) leases: Arc<LeaseTracker>,
    /// The future that waits for the resource's death.
    pub(super) death_watch: SpawnHandle,
}

/// A remembered failure.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) error: LoadError,
    retry_at: Instant,
}

impl Failure {
    pub(super) fn retry_in(&self) -> Duration {
        self.retry_at.saturating_duration_since(Instant::now())
    }

    pub(super) fn to_error(&self) -> AcquireError {
        AcquireError::Failed {
            error: self.error.clone(),
            retry_in: self.retry_in(),
        }
    }
}

pub(super) struct Slot {
    pub(super) resource: Resource,
    /// Replaces `resource` at its next load.
    replacement: Option<Resource>,
    state: State,
    phase: Phase,
    phase_since: Instant,
    pub(super) waiters: Vec<Waiter>,
    /// Callers that wait for the unload. They get the bytes that it freed.
    pub(super) unload_waiters: Vec<oneshot::Sender<u64>>,
    /// Whether the catalogue no longer has it. The slot is removed after the unload.
    pub(super) deregistered: bool,
    pub(super) metrics: ResourceMetrics,
    pub(super) usage: UseRecord,
    /// What was measured at the end of the last load; 0 before that.
    last_load_bytes: u64,
    /// The highest measured peak; 0 before the first measurement.
    peak_bytes: u64,
    /// What the resource's owner reports.
    pub(super) feedback: MemoryFeedback,
    /// Failures since the last stable run or orderly unload.
    failures_in_a_row: u32,
    pub(super) last_error: Option<LoadError>,
    pub(super) last_use: Option<Instant>,
}

impl Slot {
    pub(super) fn new(resource: Resource) -> Self {
        Self {
            metrics: ResourceMetrics::new(&resource.name, resource.kind),
            resource,
            replacement: None,
            state: State::Cold,
            phase: Phase::Cold,
            phase_since: Instant::now(),
            waiters: Vec::new(),
            unload_waiters: Vec::new(),
            deregistered: false,
            usage: UseRecord::default(),
            last_load_bytes: 0,
            peak_bytes: 0,
            feedback: MemoryFeedback::default(),
            failures_in_a_row: 0,
            last_error: None,
            last_use: None,
        }
    }

    pub(super) fn into_parts(self) -> (Resource, State) {
        (self.resource, self.state)
    }

    /// Replaces the resource, now or when it becomes inactive.
    pub(super) fn replace(&mut self, resource: Resource) {
        self.deregistered = false;
        self.replacement = Some(resource);
        if !self.is_active() {
            self.apply_replacement();
        }
    }

    /// Replaces the resource if there is a replacement. What was measured of the old one is
    /// forgotten.
    pub(super) fn apply_replacement(&mut self) {
        let Some(replacement) = self.replacement.take() else {
            return;
        };
        self.forget_failures();
        self.metrics.kind = replacement.kind;
        self.resource = replacement;
        self.last_load_bytes = 0;
        self.peak_bytes = 0;
        self.feedback = MemoryFeedback::default();
        self.last_error = None;
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn time_in_phase(&self) -> Duration {
        self.phase_since.elapsed()
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// The state, for changes within the phase.
    pub(super) fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// Enters another phase and returns the state that it leaves.
    pub(super) fn enter(&mut self, state: State) -> State {
        let next = match &state {
            State::Cold => Phase::Cold,
            State::Loading { .. } => Phase::Loading,
            State::Ready(_) => Phase::Ready,
            State::Draining { .. } => Phase::Draining,
            State::Failed { .. } => Phase::Failed,
        };
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
        std::mem::replace(&mut self.state, state)
    }

    /// What it holds while it is loaded.
    pub(super) fn loaded_parts(&self) -> Option<&LoadedParts> {
        match &self.state {
            State::Ready(parts) | State::Draining { parts, .. } => Some(parts),
            State::Failed { cleaning_up, .. } => cleaning_up.as_ref(),
            State::Cold | State::Loading { .. } => None,
        }
    }

    /// Its reservation, from before the load until after the unload.
    pub(super) fn reservation(&self) -> Option<&Reservation> {
        match &self.state {
            State::Loading {
                step: LoadStep::Running { reservation, .. },
                ..
            } => Some(reservation),
            _ => self.loaded_parts().map(|parts| &parts.reservation),
        }
    }

    /// The leases that it holds on its dependencies.
    pub(super) fn dependencies(&self) -> &[Lease] {
        match &self.state {
            State::Loading {
                step:
                    LoadStep::Reservation { dependencies } | LoadStep::Running { dependencies, .. },
                ..
            } => dependencies,
            _ => self.loaded_parts().map_or(&[], |parts| &parts.dependencies),
        }
    }

    /// Whether it is loaded, or a load, an unload or a cleanup is under way.
    pub(super) fn is_active(&self) -> bool {
        !matches!(
            self.state,
            State::Cold
                | State::Failed {
                    cleaning_up: None,
                    ..
                }
        )
    }

    /// Whether the next caller causes a load.
    pub(super) fn may_start_load(&self) -> bool {
        match &self.state {
            State::Failed { failure, .. } => !self.is_active() && failure.retry_in().is_zero(),
            state => matches!(state, State::Cold),
        }
    }

    /// Whether its unload is under way.
    pub(super) fn is_unloading(&self) -> bool {
        matches!(
            self.state,
            State::Draining {
                unloading: true,
                ..
            } | State::Failed {
                cleaning_up: Some(_),
                ..
            }
        )
    }

    pub(super) fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining { .. })
    }

    /// Whether it is draining and its unload waits for leases.
    pub(super) fn is_draining_in_use(&self) -> bool {
        matches!(&self.state, State::Draining { parts, unloading: false } if parts.leases.count() > 0)
    }

    /// Whether its unload is under way although there are leases.
    pub(super) fn is_unloading_in_use(&self) -> bool {
        matches!(&self.state, State::Draining { parts, unloading: true } if parts.leases.count() > 0)
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

    /// Takes note of a failed load or a death. The failure that it returns lasts for the backoff.
    pub(super) fn record_failure(&mut self, error: LoadError, backoff: &Backoff) -> Failure {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.last_error = Some(error.clone());
        Failure {
            error,
            retry_at: Instant::now() + backoff.ceiling(self.failures_in_a_row),
        }
    }

    /// Starts the backoff afresh. A resource that has failed becomes cold.
    pub(super) fn forget_failures(&mut self) {
        self.failures_in_a_row = 0;
        if let State::Failed {
            cleaning_up: None, ..
        } = self.state
        {
            self.enter(State::Cold);
        }
    }

    /// When it will have been idle for its TTL. `None` while it is in use, and without a TTL.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        let State::Ready(parts) = &self.state else {
            return None;
        };
        if self.resource.pinned || parts.leases.count() > 0 {
            return None;
        }
        parts.leases.last_use().checked_add(self.resource.ttl?)
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

    /// Sends `bytes`, which the unload has freed, to all unload waiters.
    pub(super) fn report_unloaded(&mut self, bytes: u64) {
        for waiter in self.unload_waiters.drain(..) {
            waiter.send(bytes).ok();
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
        let (waiter, _answer) = oneshot::channel();
        slot.push_waiter(waiter);
        for _ in 0..10_000 {
            slot.push_waiter(oneshot::channel().0);
        }
        assert_eq!(slot.waiting(), 1);
        assert!(slot.waiters.capacity() < 100, "{}", slot.waiters.capacity());
    }
}
