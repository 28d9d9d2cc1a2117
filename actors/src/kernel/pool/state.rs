//! Who waits, who holds what, and what is being opened: the state of a pool, and its rules.
//!
//! Nothing here knows of actors, tasks or the network. Each method takes the time and leaves
//! [`Effect`]s to be carried out; what they lead to comes back as another method call. After every
//! call, whoever can be served is.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::Arc;

use rand::Rng;
use tokio::time::Instant;

use super::circuit::Circuit;
use super::config::PoolConfig;
use super::connect::ConnectError;
use super::error::CheckoutError;
use super::figures::{Figures, Reading};
use super::lease::Condition;
use super::messages::Mode;
use super::queue::{Queue, Waits};
use super::status::CloseReason;

/// The part of a lifetime that jitter may take away: a tenth.
const JITTER_PART: u32 = 10;

/// Something to be done for the state.
pub(super) enum Effect<T, W> {
    /// Give the connection to the one who waited.
    Grant {
        ticket: W,
        lease: u64,
        connection: Arc<T>,
    },
    /// Tell the one who waited.
    Refuse { ticket: W, error: CheckoutError },
    /// Open a connection; then [`PoolState::opened`].
    Open { id: u64 },
    /// Ask whether it is well; then [`PoolState::checked`].
    Check { id: u64, connection: Arc<T> },
    /// Make it fit for the next one; then [`PoolState::cleaned`].
    Clean { id: u64, connection: Arc<T> },
    /// Let go of it.
    Close { connection: Arc<T> },
}

/// One open connection.
pub(super) struct Slot<T> {
    pub(super) connection: Arc<T>,
    pub(super) expires: Instant,
    pub(super) used: bool,
    pub(super) state: Use,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Idle {
        since: Instant,
    },
    /// It is being checked or cleaned.
    UnderMaintenance {
        since: Instant,
    },
    Exclusive,
    Shared {
        in_flight: u32,
        /// Set when nobody new may have it, and why.
        retiring: Option<CloseReason>,
    },
}

/// One lease.
pub(super) struct LeaseRecord {
    pub(super) slot: u64,
    pub(super) mode: Mode,
    pub(super) holder: &'static Location<'static>,
    pub(super) since: Instant,
    pub(super) leaked: bool,
}

/// Says something of a connection, without asking anybody.
type Judge<T> = Box<dyn Fn(&T) -> bool + Send>;

/// The state of a pool of `T`s; `W` is where an answer goes.
pub(super) struct PoolState<T, W> {
    pub(super) config: PoolConfig,
    pub(super) is_closed: Judge<T>,
    pub(super) is_blocked: Judge<T>,
    pub(super) slots: BTreeMap<u64, Slot<T>>,
    /// Idle ones, the one used last on top, so that those not needed age at the bottom.
    pub(super) idle: Vec<u64>,
    /// Those being opened, and since when.
    pub(super) opening: BTreeMap<u64, Instant>,
    pub(super) leases: BTreeMap<u64, LeaseRecord>,
    pub(super) queue: Queue<W>,
    pub(super) circuit: Circuit,
    pub(super) figures: Figures,
    pub(super) draining: bool,
    next_id: u64,
    pub(super) effects: Vec<Effect<T, W>>,
}

impl<T, W: Waits> PoolState<T, W> {
    pub(super) fn new(
        name: &str,
        config: PoolConfig,
        is_closed: impl Fn(&T) -> bool + Send + 'static,
        is_blocked: impl Fn(&T) -> bool + Send + 'static,
    ) -> Self {
        Self {
            circuit: Circuit::new(config.circuit_failures, config.circuit_backoff),
            config,
            is_closed: Box::new(is_closed),
            is_blocked: Box::new(is_blocked),
            slots: BTreeMap::new(),
            idle: Vec::new(),
            opening: BTreeMap::new(),
            leases: BTreeMap::new(),
            queue: Queue::new(),
            figures: Figures::new(name),
            draining: false,
            next_id: 0,
            effects: Vec::new(),
        }
    }

    /// What is to be done since the last call.
    pub(super) fn take_effects(&mut self) -> Vec<Effect<T, W>> {
        self.figures.read(&Reading {
            size: self.slots.len(),
            idle: self.idle.len(),
            waiting: self.queue.len(),
            opening: self.opening.len(),
            circuit_open: self.circuit.is_open(),
        });
        std::mem::take(&mut self.effects)
    }

    /// Somebody wants a connection.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        mode: Mode,
        holder: &'static Location<'static>,
        deadline: Instant,
        ticket: W,
    ) {
        if self.draining {
            return self.refuse(ticket, CheckoutError::Draining);
        }
        if let Some((retry_in, last)) = self.circuit.refusal(now)
            && self.slots.is_empty()
        {
            return self.refuse(ticket, CheckoutError::CircuitOpen { retry_in, last });
        }
        if self.queue.len() >= self.config.waiting_max as usize {
            self.queue.purge();
        }
        let waiting = self.queue.len();
        if waiting >= self.config.waiting_max as usize {
            let waiting = count(waiting);
            return self.refuse(ticket, CheckoutError::Full { waiting });
        }
        self.queue.push(mode, holder, now, deadline, ticket);
        self.serve_waiters(now);
    }

    /// A lease has ended.
    pub(super) fn returned(&mut self, now: Instant, lease: u64, condition: Condition) {
        let Some(held) = self.leases.remove(&lease) else {
            return;
        };
        let lasted = now.saturating_duration_since(held.since);
        self.figures.returned(lasted, held.mode == Mode::Exclusive);
        if held.leaked {
            tracing::info!(
                pool = self.figures.name(),
                holder = %held.holder,
                held_ms = lasted.as_millis(),
                "a connection that was held for too long is back"
            );
        }
        let Some(slot) = self.slots.get_mut(&held.slot) else {
            return;
        };
        let broken = condition == Condition::Broken || (self.is_closed)(&slot.connection);
        match &mut slot.state {
            Use::Shared {
                in_flight,
                retiring,
            } => {
                *in_flight = in_flight.saturating_sub(1);
                if broken {
                    retiring.get_or_insert(CloseReason::Broken);
                }
                let (left, retiring) = (*in_flight, *retiring);
                match retiring {
                    Some(reason) if left == 0 => self.close(held.slot, reason),
                    None if left == 0 => self.rest(now, held.slot),
                    _ => {}
                }
            }
            _ if broken => self.close(held.slot, CloseReason::Broken),
            state if condition == Condition::Dirty => {
                *state = Use::UnderMaintenance { since: now };
                let connection = Arc::clone(&slot.connection);
                let id = held.slot;
                self.effects.push(Effect::Clean { id, connection });
            }
            _ => self.rest(now, held.slot),
        }
        self.serve_waiters(now);
    }

    /// A connect has ended.
    pub(super) fn opened(&mut self, now: Instant, id: u64, result: Result<T, ConnectError>) {
        let began = self.opening.remove(&id).unwrap_or(now);
        match result {
            Ok(connection) => {
                self.circuit.succeeded();
                self.figures.opened(now.saturating_duration_since(began));
                let jitter = rand::rng().random_range(0.0..=1.0) / f64::from(JITTER_PART);
                let lifetime = self.config.lifetime.mul_f64(1.0 - jitter);
                let slot = Slot {
                    connection: Arc::new(connection),
                    expires: now + lifetime,
                    used: false,
                    state: Use::Idle { since: now },
                };
                self.slots.insert(id, slot);
                self.rest(now, id);
            }
            Err(error) => {
                self.figures.failed();
                self.circuit.failed(began, now, error.clone());
                self.fail_waiters(now, &error);
            }
        }
        self.serve_waiters(now);
    }

    /// After a failed connect: without any connection, there is no use in waiting while none is
    /// tried.
    fn fail_waiters(&mut self, now: Instant, error: &ConnectError) {
        let Some((retry_in, last)) = self.circuit.refusal(now) else {
            return;
        };
        if !self.slots.is_empty() {
            return;
        }
        for waiter in self.queue.take_all() {
            let answer = if error.kind.is_transient() {
                let last = last.clone();
                CheckoutError::CircuitOpen { retry_in, last }
            } else {
                CheckoutError::Connect(error.clone())
            };
            self.refuse(waiter.ticket, answer);
        }
    }

    /// A check has ended.
    pub(super) fn checked(&mut self, now: Instant, id: u64, well: bool) {
        self.maintenance_done(now, id, well, CloseReason::Check);
    }

    /// A clean-up has ended.
    pub(super) fn cleaned(&mut self, now: Instant, id: u64, well: bool) {
        self.maintenance_done(now, id, well, CloseReason::Broken);
    }

    fn maintenance_done(&mut self, now: Instant, id: u64, well: bool, otherwise: CloseReason) {
        if well {
            self.rest(now, id);
        } else {
            self.close(id, otherwise);
        }
        self.serve_waiters(now);
    }

    /// No more leases; idle connections go now, the others when they come back.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        for waiter in self.queue.take_all() {
            self.refuse(waiter.ticket, CheckoutError::Draining);
        }
        for id in std::mem::take(&mut self.idle) {
            self.close(id, CloseReason::Shutdown);
        }
    }

    /// Leases, and connections being in_maintenance: what a stop waits for.
    pub(super) fn busy(&self) -> usize {
        let slots = self.slots.values();
        let in_maintenance =
            slots.filter(|slot| matches!(slot.state, Use::UnderMaintenance { .. }));
        self.leases.len() + in_maintenance.count()
    }

    /// Has up to `wanted` connections opened, as many as the circuit allows.
    pub(super) fn open(&mut self, now: Instant, wanted: usize) {
        let total = self.slots.len() + self.opening.len();
        let free = (self.config.connections_max as usize).saturating_sub(total);
        let allowed = self.circuit.allows(now, self.opening.len());
        for _ in 0..wanted.min(free).min(allowed.unwrap_or(usize::MAX)) {
            if self.circuit.is_failing() {
                self.figures.retries += 1;
            }
            let id = self.new_id();
            self.opening.insert(id, now);
            self.effects.push(Effect::Open { id });
        }
    }

    /// The connection is free: for the next one, if it may be.
    pub(super) fn rest(&mut self, now: Instant, id: u64) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if self.draining {
            self.close(id, CloseReason::Shutdown);
        } else if (self.is_closed)(&slot.connection) {
            self.close(id, CloseReason::Broken);
        } else if slot.expires <= now {
            self.close(id, CloseReason::Lifetime);
        } else {
            slot.state = Use::Idle { since: now };
            self.idle.push(id);
        }
    }

    pub(super) fn close(&mut self, id: u64, reason: CloseReason) {
        if let Some(slot) = self.slots.remove(&id) {
            self.figures.closed(reason);
            let connection = slot.connection;
            self.effects.push(Effect::Close { connection });
        }
    }

    fn refuse(&mut self, ticket: W, error: CheckoutError) {
        self.figures.refused();
        self.effects.push(Effect::Refuse { ticket, error });
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
