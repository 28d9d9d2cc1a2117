//! One resource in the loader's hands: where it stands, who waits for it, and what is known of it.

use std::sync::Arc;
use std::time::Duration;

use actix::SpawnHandle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::AcquireError;
use super::lease::{Lease, Uses};
use super::messages::Unloaded;
use super::metrics::{Meter, Reason};
use super::policy::Usage;
use crate::kernel::{LoadError, MemoryFeedback, Reservation, Resource};
use crate::lazy::phase::{Phase, Timed};

/// Somebody who waits for a resource.
pub(super) type Waiter = oneshot::Sender<Result<Lease, AcquireError>>;

/// Where a resource stands, with what it holds there.
pub(super) enum State {
    Cold,
    Loading {
        stage: Stage,
        /// Whether it is to be unloaded as soon as it is loaded and its waiters are served.
        leave: Option<Reason>,
    },
    Ready(LoadedParts),
    Draining {
        held: LoadedParts,
        /// Whether its unload is under way.
        unloading: bool,
    },
    Failed {
        failure: Failure,
        /// What is left of a resource that died, while it is cleaned up.
        remains: Option<LoadedParts>,
    },
}

/// How far a load has come.
pub(super) enum Stage {
    /// Its dependencies are being loaded.
    Dependencies,
    /// It waits for room.
    Room { dependencies: Vec<Lease> },
    /// It runs.
    Running {
        dependencies: Vec<Lease>,
        reservation: Reservation,
        since: Instant,
    },
}

/// What a loaded resource holds. Its memory first: the order of the fields is the order in which
/// they are given back.
pub(super) struct LoadedParts {
    pub(super) reservation: Reservation,
    pub(super) dependencies: Vec<Lease>,
    pub(super) uses: Arc<Uses>,
    /// The watch for its death.
    pub(super) death: SpawnHandle,
}

impl LoadedParts {
    /// Bytes that come free when it goes.
    pub(super) fn bytes(&self) -> u64 {
        let entry = self.reservation.entry();
        entry.reserved().max(entry.measured())
    }
}

/// A remembered failure.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) error: LoadError,
    pub(super) retry_at: Instant,
}

impl Failure {
    pub(super) fn retry_in(&self) -> Duration {
        self.retry_at.saturating_duration_since(Instant::now())
    }

    pub(super) fn answer(&self) -> AcquireError {
        AcquireError::Failed {
            error: self.error.clone(),
            retry_in: self.retry_in(),
        }
    }
}

pub(super) struct Slot {
    pub(super) resource: Resource,
    /// What takes its place at its next load.
    successor: Option<Resource>,
    timed: Timed,
    state: State,
    pub(super) waiters: Vec<Waiter>,
    /// Those who wait until it is unloaded.
    pub(super) departures: Vec<oneshot::Sender<Unloaded>>,
    /// Whether it is out of the catalogue already, and only its unload keeps it here.
    pub(super) removed: bool,
    pub(super) meter: Meter,
    pub(super) usage: Usage,
    /// What was measured at the end of its last load.
    pub(super) loaded: u64,
    /// The highest peak measured so far.
    pub(super) measured: u64,
    /// What those who ran it say that it needs.
    pub(super) learned: MemoryFeedback,
    /// Failures since it last ran for long or left in order.
    pub(super) failures_in_a_row: u32,
    pub(super) last_error: Option<LoadError>,
    pub(super) last_use: Option<Instant>,
}

impl Slot {
    pub(super) fn new(resource: Resource) -> Self {
        Self {
            meter: Meter::new(&resource.name, resource.kind),
            resource,
            successor: None,
            timed: Timed::default(),
            state: State::Cold,
            waiters: Vec::new(),
            departures: Vec::new(),
            removed: false,
            usage: Usage::default(),
            loaded: 0,
            measured: 0,
            learned: MemoryFeedback::default(),
            failures_in_a_row: 0,
            last_error: None,
            last_use: None,
        }
    }

    /// Puts `resource` in the place of the present one, now or when that has come to rest.
    pub(super) fn replace(&mut self, resource: Resource) {
        self.removed = false;
        self.successor = Some(resource);
        if self.is_at_rest() {
            self.succeed();
        }
    }

    /// Lets the successor take over, if there is one. Nothing of what was learned holds for it.
    pub(super) fn succeed(&mut self) {
        let Some(successor) = self.successor.take() else {
            return;
        };
        if let State::Failed { .. } = self.state {
            self.enter(State::Cold);
        }
        self.meter.kind = successor.kind;
        self.resource = successor;
        self.loaded = 0;
        self.measured = 0;
        self.learned = MemoryFeedback::default();
        self.failures_in_a_row = 0;
        self.last_error = None;
    }

    pub(super) fn phase(&self) -> Phase {
        self.timed.phase()
    }

    pub(super) fn in_phase_for(&self) -> Duration {
        self.timed.elapsed()
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// The state, for changes that stay within the phase.
    pub(super) fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// Goes to another phase and returns the state that it leaves.
    pub(super) fn enter(&mut self, state: State) -> State {
        let next = match &state {
            State::Cold => Phase::Cold,
            State::Loading { .. } => Phase::Loading,
            State::Ready(_) => Phase::Ready,
            State::Draining { .. } => Phase::Draining,
            State::Failed { .. } => Phase::Failed,
        };
        let before = self.phase();
        let lasted = self.timed.advance(next);
        tracing::debug!(
            resource = self.resource.name,
            from = before.label(),
            to = next.label(),
            lasted_seconds = lasted.as_secs_f64(),
            "resource changed its phase"
        );
        std::mem::replace(&mut self.state, state)
    }

    /// What it holds while it is loaded.
    pub(super) fn held(&self) -> Option<&LoadedParts> {
        match &self.state {
            State::Ready(held) | State::Draining { held, .. } => Some(held),
            State::Failed { remains, .. } => remains.as_ref(),
            State::Cold | State::Loading { .. } => None,
        }
    }

    /// Its memory, from before the load until after the unload.
    pub(super) fn reservation(&self) -> Option<&Reservation> {
        match &self.state {
            State::Loading {
                stage: Stage::Running { reservation, .. },
                ..
            } => Some(reservation),
            _ => self.held().map(|held| &held.reservation),
        }
    }

    /// The leases that it holds on its dependencies.
    pub(super) fn dependencies(&self) -> &[Lease] {
        match &self.state {
            State::Loading {
                stage: Stage::Room { dependencies } | Stage::Running { dependencies, .. },
                ..
            } => dependencies,
            _ => self.held().map_or(&[], |held| &held.dependencies),
        }
    }

    /// Whether neither it nor its load, nor anything on its behalf, is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(
            self.state,
            State::Cold | State::Failed { remains: None, .. }
        )
    }

    /// Whether the next caller causes a load.
    pub(super) fn may_begin_load(&self) -> bool {
        match &self.state {
            State::Cold => true,
            State::Failed { failure, remains } => remains.is_none() && failure.retry_in().is_zero(),
            State::Loading { .. } | State::Ready(_) | State::Draining { .. } => false,
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
                remains: Some(_),
                ..
            }
        )
    }

    /// Whether it is on its way out.
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining { .. })
    }

    /// Whether it is on its way out and waits for its users.
    pub(super) fn is_draining_used(&self) -> bool {
        matches!(&self.state, State::Draining { held, unloading: false } if held.uses.held() > 0)
    }

    /// Whether it is being unloaded although it has users.
    pub(super) fn is_ended_under_users(&self) -> bool {
        matches!(&self.state, State::Draining { held, unloading: true } if held.uses.held() > 0)
    }

    /// What its next load takes at least: what the last one did. What came later came from its use.
    /// What loads that failed would have taken is a guess that grows with each of them.
    pub(super) fn least(&self) -> u64 {
        match self.loaded {
            0 => self.resource.estimated_bytes,
            loaded => loaded,
        }
    }

    /// What to reserve for its next load.
    pub(super) fn estimate(&self) -> u64 {
        let measured = match self.measured {
            0 => self.resource.estimated_bytes,
            measured => measured,
        };
        measured.max(self.learned.required_bytes())
    }

    /// When its idle time will have lasted too long; `None` while it is in use, or never.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        let State::Ready(held) = &self.state else {
            return None;
        };
        if self.resource.pinned || held.uses.held() > 0 {
            return None;
        }
        held.uses.last().checked_add(self.resource.ttl?)
    }

    /// Adds somebody who waits; forgets those who gave up whenever the list would have to grow.
    pub(super) fn push_waiter(&mut self, waiter: Waiter) {
        if self.waiters.len() == self.waiters.capacity() {
            self.waiters.retain(|waiter| !waiter.is_closed());
        }
        self.waiters.push(waiter);
    }

    /// Waiters that have not given up.
    pub(super) fn waiting(&self) -> usize {
        self.waiters
            .iter()
            .filter(|waiter| !waiter.is_closed())
            .count()
    }

    /// Tells all who wait that they wait in vain.
    pub(super) fn refuse_waiters(&mut self, error: &AcquireError) {
        for waiter in self.waiters.drain(..) {
            // A waiter that gave up needs no answer.
            waiter.send(Err(error.clone())).ok();
        }
    }

    /// Tells all who wait for its end that it is unloaded.
    pub(super) fn announce_departure(&mut self, bytes: u64) {
        for departure in self.departures.drain(..) {
            departure.send(Unloaded { bytes }).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::double::Scripted;
    use super::*;

    #[test]
    fn what_was_learned_raises_the_next_loads_claim_and_goes_with_the_thing_itself() {
        let mut slot = Slot::new(Scripted::new().resource("thing", &[]));
        let at_first = slot.estimate();
        slot.learned.clone().require(at_first + 5);
        slot.learned.require(3);
        assert_eq!(slot.estimate(), at_first + 5);
        slot.measured = at_first + 9;
        assert_eq!(slot.estimate(), at_first + 9);
        slot.replace(Scripted::new().resource("thing", &[]));
        assert_eq!(slot.estimate(), at_first);
    }

    #[test]
    fn callers_that_gave_up_do_not_pile_up() {
        let mut slot = Slot::new(Scripted::new().resource("thing", &[]));
        let (patient, _answer) = oneshot::channel();
        slot.push_waiter(patient);
        for _ in 0..10_000 {
            slot.push_waiter(oneshot::channel().0);
        }
        assert_eq!(slot.waiting(), 1);
        assert!(slot.waiters.capacity() < 100, "{}", slot.waiters.capacity());
    }
}
