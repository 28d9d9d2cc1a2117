//! The state of a pool and its rules: who waits, who holds which connection, what is being opened.
//!
//! Nothing here knows actors or tasks, or waits. Each method takes the time, answers callers, and adds
//! [`Effect`]s for the actor to carry out; their results come back as method calls. Each call serves
//! all waiters that can be served.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::board::{Board, Slot};
use super::circuit::Circuit;
use super::config::PoolConfig;
use super::connect::{Connect, ConnectError};
use super::error::CheckoutError;
use super::figures::Figures;
use super::lease::{Condition, Ended, EndedLeases, Mode};
use super::queue::{CheckoutReply, Queue, Waiter};
use super::status::CloseReason;

/// The part of a lifetime that jitter may take away.
const LIFETIME_JITTER: f64 = 0.1;

/// How long the last use of a connection proves that it works, when another one does not.
const PROVEN_FOR: Duration = Duration::from_millis(500);

/// What the actor has to do for the state.
pub(super) enum Effect<T> {
    /// Open a connection, then call [`PoolState::opened`].
    Open { id: u64 },
    /// Check or reset the connection, then call [`PoolState::maintained`].
    Maintain {
        id: u64,
        connection: Arc<T>,
        task: Maintenance,
    },
    /// Look whether the next connect would use something else, then call [`PoolState::looked`].
    Look,
    /// End the connection, then call [`PoolState::retired`].
    Retire { id: u64, connection: Arc<T> },
}

/// What is done to a connection between two leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maintenance {
    Check,
    Clean,
}

/// One open connection.
pub(super) struct PooledConnection<T> {
    pub(super) connection: Arc<T>,
    pub(super) expires_at: Instant,
    /// Whether it has been leased before.
    pub(super) was_used: bool,
    /// The pace of its last slot (`sharing`).
    pub(super) pace: Option<Duration>,
    pub(super) state: ConnectionState<T>,
}

/// The state of an open connection.
pub(super) enum ConnectionState<T> {
    Idle {
        since: Instant,
    },
    /// It is being checked or reset.
    UnderMaintenance {
        since: Instant,
    },
    /// One exclusive lease is on it.
    Exclusive,
    /// The users of the slot share it.
    Shared(Arc<Slot<T>>),
}

/// One lease.
pub(super) struct LeaseRecord {
    /// The connection's id.
    pub(super) connection: u64,
    pub(super) mode: Mode,
    pub(super) holder: &'static Location<'static>,
    pub(super) since: Instant,
    /// Whether it has lasted for too long and was logged.
    pub(super) leaked: bool,
    /// Whether it is meant to last.
    pub(super) kept: bool,
}

/// The state of a pool with the driver `C` and replies `R`.
pub(super) struct PoolState<C: Connect, R> {
    pub(super) config: PoolConfig,
    /// The connector. Only methods that return at once are called here.
    pub(super) connect: Arc<C>,
    /// The open connections by id.
    pub(super) connections: BTreeMap<u64, PooledConnection<C::Connection>>,
    /// The ids of idle connections, the last used one at the end: it is leased first, so that
    /// superfluous ones stay idle at the front.
    pub(super) idle: Vec<u64>,
    /// The connections that are being opened, by id, and since when.
    pub(super) opening: BTreeMap<u64, Instant>,
    /// The connections that are being ended, by id. The server may still have them, and so they
    /// count against the maximum.
    pub(super) retiring: BTreeSet<u64>,
    pub(super) leases: BTreeMap<u64, LeaseRecord>,
    /// The number of leases that are meant to last, each alone on its connection.
    pub(super) kept: u32,
    /// Where leases report their ends.
    pub(super) ended_leases: Arc<EndedLeases>,
    pub(super) queue: Queue<R>,
    pub(super) circuit: Circuit,
    /// Where callers join shared connections without asking.
    pub(super) board: Arc<Board<C::Connection>>,
    /// When the board's uses were added to the figures.
    pub(super) counted_at: Instant,
    pub(super) figures: Figures,
    pub(super) draining: bool,
    next_id: u64,
    pub(super) effects: Vec<Effect<C::Connection>>,
}

impl<C: Connect, R: CheckoutReply<Connection = C::Connection>> PoolState<C, R> {
    /// The state of an incarnation that has no connection yet. Its callers look at `board`.
    pub(super) fn new(
        name: &str,
        config: PoolConfig,
        connect: Arc<C>,
        board: Arc<Board<C::Connection>>,
    ) -> Self {
        Self {
            circuit: Circuit::new(config.circuit_failures, config.circuit_backoff),
            config,
            connect,
            connections: BTreeMap::new(),
            idle: Vec::new(),
            opening: BTreeMap::new(),
            retiring: BTreeSet::new(),
            leases: BTreeMap::new(),
            kept: 0,
            ended_leases: Arc::default(),
            queue: Queue::new(),
            board,
            counted_at: Instant::now(),
            figures: Figures::new(name),
            draining: false,
            next_id: 0,
            effects: Vec::new(),
        }
    }

    /// Takes the effects since the last call, and updates the figures and the board.
    pub(super) fn take_effects(&mut self) -> Vec<Effect<C::Connection>> {
        let is_open = self.queue.len() == 0 && !self.draining;
        let has_idle = !self.idle.is_empty();
        let (may_grow, limits) = (self.may_open_for_sharing(), self.sharing_limits());
        self.board.update(is_open, has_idle, may_grow, limits);
        let figures = &self.figures;
        figures.size.set(count(self.connections.len()));
        figures.idle.set(count(self.idle.len()));
        figures.waiting.set(count(self.queue.len()));
        figures.opening.set(count(self.opening.len()));
        figures.retiring.set(count(self.retiring.len()));
        figures.circuit_open.set(u8::from(self.circuit.open));
        std::mem::take(&mut self.effects)
    }

    /// A caller asks for a connection now, at `waiter.since`.
    pub(super) fn check_out(&mut self, mode: Mode, waiter: Waiter<R>) {
        let now = waiter.since;
        if let Some(error) = self.refusal(now) {
            return self.refuse(waiter.reply, error);
        }
        self.queue.push(mode, waiter);
        self.board.shut();
        self.serve_waiters(now);
    }

    /// Something has ended on a connection.
    pub(super) fn ended(&mut self, now: Instant, event: Ended) {
        match event {
            Ended::Lease { lease, condition } => self.lease_ended(now, lease, condition),
            Ended::Kept { lease } => self.keep(lease),
            Ended::Slot { connection } => {
                self.slot_ended(now, connection);
                self.serve_waiters(now);
            }
        }
    }

    /// Why no more caller may wait now.
    fn refusal(&mut self, now: Instant) -> Option<CheckoutError> {
        if self.draining {
            return Some(CheckoutError::Draining);
        }
        if let Some((retry_in, last)) = self.circuit.refusal(now)
            && self.connections.is_empty()
        {
            return Some(CheckoutError::CircuitOpen { retry_in, last });
        }
        if self.queue.len() >= self.config.waiting_max as usize {
            self.queue.remove_cancelled();
        }
        let waiting = count(self.queue.len());
        (waiting >= self.config.waiting_max).then_some(CheckoutError::Full { waiting })
    }

    /// A lease has ended.
    pub(super) fn lease_ended(&mut self, now: Instant, lease: u64, condition: Condition) {
        let Some(ended) = self.leases.remove(&lease) else {
            return;
        };
        self.kept -= u32::from(ended.kept);
        let used_for = now.saturating_duration_since(ended.since);
        if !ended.kept {
            self.figures.usage.record(used_for);
            if ended.mode == Mode::Exclusive {
                self.figures.average_use.record(used_for);
            }
        }
        if ended.leaked {
            tracing::info!(
                pool = self.figures.name,
                holder = %ended.holder,
                held_ms = used_for.as_millis(),
                "a connection that was held for too long is back"
            );
        }
        // What shared leases leave behind, their slot tells.
        if ended.mode == Mode::Exclusive {
            let id = ended.connection;
            match condition {
                Condition::Broken => self.lost(now, id),
                Condition::Dirty if !self.is_closed(id) => {
                    self.maintain(now, id, Maintenance::Clean);
                }
                Condition::Dirty | Condition::Clean => self.make_idle(now, id),
            }
        }
        self.serve_waiters(now);
    }

    fn is_closed(&self, id: u64) -> bool {
        let pooled = self.connections.get(&id);
        pooled.is_some_and(|pooled| self.connect.is_closed(&pooled.connection))
    }

    /// The last user of a shared connection has left.
    pub(super) fn slot_ended(&mut self, now: Instant, id: u64) {
        let Some(pooled) = self.connections.get_mut(&id) else {
            return;
        };
        let ConnectionState::Shared(slot) = &pooled.state else {
            return;
        };
        if slot.users() > 0 {
            return;
        }
        pooled.pace = slot.pace();
        self.board.withdraw(slot);
        let is_broken = slot.is_broken();
        self.count_uses(now);
        if is_broken {
            self.lost(now, id);
        } else {
            self.make_idle(now, id);
        }
    }

    /// Adds what the board has counted to the figures.
    pub(super) fn count_uses(&mut self, now: Instant) {
        self.counted_at = now;
        let Some(uses) = self.board.take_uses() else {
            return;
        };
        let number = uses.count();
        self.figures.checkouts.add(number);
        self.figures.reused.add(number);
        self.figures.wait.record_many(Duration::ZERO, number);
        self.figures.usage.add(&uses);
    }

    /// A connect has ended.
    pub(super) fn opened(
        &mut self,
        now: Instant,
        id: u64,
        result: Result<C::Connection, ConnectError>,
    ) {
        let began = self.opening.remove(&id).unwrap_or(now);
        match result {
            Ok(connection) => {
                self.circuit.succeeded();
                let took = now.saturating_duration_since(began);
                self.figures.opened.increment();
                self.figures.connect.record(took);
                self.figures.average_connect.record(took);
                let jitter = rand::rng().random_range(0.0..=LIFETIME_JITTER);
                let pooled = PooledConnection {
                    connection: Arc::new(connection),
                    expires_at: now + self.config.lifetime.mul_f64(1.0 - jitter),
                    was_used: false,
                    pace: None,
                    state: ConnectionState::Idle { since: now },
                };
                self.connections.insert(id, pooled);
                self.make_idle(now, id);
            }
            Err(error) => {
                self.figures.failed.increment();
                self.circuit.failed(began, now, error.clone());
                self.fail_waiters(now, &error);
            }
        }
        self.serve_waiters(now);
    }

    /// Somebody has looked whether the next connect would use something else.
    pub(super) fn looked(&mut self, now: Instant, has_changed: bool) {
        self.circuit.looked(now, has_changed);
        self.serve_waiters(now);
    }

    /// Refuses all waiters after a failed connect, if there is no connection and none will be opened
    /// soon.
    fn fail_waiters(&mut self, now: Instant, error: &ConnectError) {
        let Some((retry_in, last)) = self.circuit.refusal(now) else {
            return;
        };
        if !self.connections.is_empty() {
            return;
        }
        for waiter in self.queue.take_all() {
            let answer = if error.kind.is_transient() {
                let last = last.clone();
                CheckoutError::CircuitOpen { retry_in, last }
            } else {
                CheckoutError::Connect(error.clone())
            };
            self.refuse(waiter.reply, answer);
        }
    }

    /// Has an unused connection checked or reset.
    pub(super) fn maintain(&mut self, now: Instant, id: u64, task: Maintenance) {
        let Some(pooled) = self.connections.get_mut(&id) else {
            return;
        };
        pooled.state = ConnectionState::UnderMaintenance { since: now };
        let connection = Arc::clone(&pooled.connection);
        self.effects.push(Effect::Maintain {
            id,
            connection,
            task,
        });
    }

    /// A check or a reset has ended.
    pub(super) fn maintained(&mut self, now: Instant, id: u64, task: Maintenance, succeeded: bool) {
        match task {
            _ if succeeded => self.make_idle(now, id),
            Maintenance::Check => self.close(id, CloseReason::Check),
            Maintenance::Clean => self.lost(now, id),
        }
        self.serve_waiters(now);
    }

    /// Grants no more leases. Closes idle connections now and the others when their leases end.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        for waiter in self.queue.take_all() {
            self.refuse(waiter.reply, CheckoutError::Draining);
        }
        for id in std::mem::take(&mut self.idle) {
            self.close(id, CloseReason::Shutdown);
        }
    }

    /// The number of connections that are in use, maintained or ended. A stop waits until it is 0.
    pub(super) fn outstanding(&self) -> usize {
        self.connections.len() - self.idle.len() + self.retiring.len()
    }

    /// The number of connections that the server may have: those that are open, being opened or
    /// being ended.
    pub(super) fn total(&self) -> usize {
        self.connections.len() + self.opening.len() + self.retiring.len()
    }

    /// Opens up to `wanted` connections, as far as the maximum and the circuit allow.
    pub(super) fn open(&mut self, now: Instant, wanted: usize) {
        let free = (self.config.connections_max as usize).saturating_sub(self.total());
        let allowed = self.circuit.allowed_connects(now, self.opening.len());
        for _ in 0..wanted.min(free).min(allowed) {
            if self.circuit.is_failing() {
                self.figures.retries += 1;
            }
            let id = self.new_id();
            self.opening.insert(id, now);
            self.effects.push(Effect::Open { id });
        }
    }

    /// Makes an unused connection idle, or closes it when it must not be leased again.
    pub(super) fn make_idle(&mut self, now: Instant, id: u64) {
        let Some(pooled) = self.connections.get_mut(&id) else {
            return;
        };
        if self.draining {
            self.close(id, CloseReason::Shutdown);
        } else if self.connect.is_closed(&pooled.connection)
            || !self.connect.is_at_rest(&pooled.connection)
        {
            self.lost(now, id);
        } else if pooled.expires_at <= now {
            self.close(id, CloseReason::Lifetime);
        } else {
            pooled.state = ConnectionState::Idle { since: now };
            self.idle.push(id);
        }
    }

    /// Closes a connection that does not work. What happened to it may have happened to the others too,
    /// so the idle ones are checked, all at once, unless they worked a moment ago: when a network path
    /// goes silent, callers would find them dead one after the other.
    pub(super) fn lost(&mut self, now: Instant, id: u64) {
        self.close(id, CloseReason::Broken);
        if self.draining {
            return;
        }
        for id in std::mem::take(&mut self.idle) {
            match self.connections.get(&id).map(|pooled| &pooled.state) {
                Some(ConnectionState::Idle { since }) if now - *since < PROVEN_FOR => {
                    self.idle.push(id);
                }
                _ => self.maintain(now, id, Maintenance::Check),
            }
        }
    }

    /// Leases a connection to nobody any more, and has it ended.
    pub(super) fn close(&mut self, id: u64, reason: CloseReason) {
        let Some(pooled) = self.connections.remove(&id) else {
            return;
        };
        self.figures.count_closed(reason);
        self.retiring.insert(id);
        let connection = pooled.connection;
        self.effects.push(Effect::Retire { id, connection });
    }

    /// The server has let go of a connection, or has had its time for it.
    pub(super) fn retired(&mut self, now: Instant, id: u64) {
        self.retiring.remove(&id);
        self.serve_waiters(now);
    }

    fn refuse(&mut self, reply: R, error: CheckoutError) {
        self.figures.refused.increment();
        reply.send(Err(error));
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl<C: Connect, R> Drop for PoolState<C, R> {
    fn drop(&mut self) {
        // Nobody joins a connection of an incarnation that has ended.
        self.board.shut();
        for pooled in self.connections.values() {
            if let ConnectionState::Shared(slot) = &pooled.state {
                self.board.withdraw(slot);
            }
        }
    }
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
