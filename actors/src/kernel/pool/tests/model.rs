//! A state that is driven step by step, and what must hold after each step.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Waker;
use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::time::Instant;

use super::super::board::{Board, Slot};
use super::super::lease::Condition;
use super::super::queue::{CheckoutReply, Waiter};
use super::super::sharing::{SharingRules, takes_users};
use super::super::state::{ConnectionState, Effect, Maintenance, PoolState, PooledConnection};
use super::super::{CheckoutError, ConnectError, ConnectErrorKind, Lease, Mode, PoolConfig};
use super::double::{FakeConnection, FakeServer, MB, ms};

/// The reply of a caller: whether it has given up, and whether it got its answer.
#[derive(Clone, Default)]
pub(super) struct Caller {
    pub(super) cancelled: Rc<Cell<bool>>,
    pub(super) answered: Rc<Cell<bool>>,
    /// What the pool wants to be woken by when the caller gives up.
    waker: Rc<RefCell<Option<Waker>>>,
    /// The leases that were granted to any caller.
    granted: Rc<RefCell<Vec<Lease<FakeConnection>>>>,
}

impl Caller {
    /// Returns whether the pool is woken.
    pub(super) fn give_up(&self) -> bool {
        self.cancelled.set(true);
        let waker = self.waker.take();
        waker.inspect(Waker::wake_by_ref).is_some()
    }
}

impl CheckoutReply for Caller {
    type Connection = FakeConnection;

    fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    fn wake_when_cancelled(&mut self, waker: &Waker) {
        self.waker.replace(Some(waker.clone()));
    }

    fn send(self, answer: Result<Lease<FakeConnection>, CheckoutError>) {
        assert!(!self.answered.replace(true), "answered twice");
        if let Ok(lease) = answer {
            self.granted.borrow_mut().push(lease);
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    CheckOut(Mode, u64),
    GiveUp(usize),
    EndLease(usize, u8),
    /// A caller joins a shared connection, if it may, without asking.
    Join,
    /// Such a caller leaves, and perhaps found the connection broken.
    Leave(usize, bool),
    EndConnect(usize, bool),
    EndMaintenance(usize, bool),
    EndRetirement(usize),
    ShedIdle(u64),
    PassTime(u64),
    /// The server works for a caller that has left a shared connection.
    Block(usize),
    /// The connection is lost. One of the leases on it ends, if there is any.
    Lose(usize),
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mode = prop_oneof![1 => Just(Mode::Exclusive), 2 => Just(Mode::Shared)];
    let step = prop_oneof![
        4 => (mode, 1..5_000u64).prop_map(|(mode, within)| Step::CheckOut(mode, within)),
        1 => any::<usize>().prop_map(Step::GiveUp),
        4 => (any::<usize>(), 0..3u8).prop_map(|(which, how)| Step::EndLease(which, how)),
        4 => Just(Step::Join),
        4 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(which, broken)| Step::Leave(which, broken)),
        3 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, ok)| Step::EndConnect(which, ok)),
        2 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, ok)| Step::EndMaintenance(which, ok)),
        2 => any::<usize>().prop_map(Step::EndRetirement),
        1 => (0..5u64).prop_map(Step::ShedIdle),
        1 => any::<usize>().prop_map(Step::Block),
        1 => any::<usize>().prop_map(Step::Lose),
        3 => prop_oneof![4 => 0..4u64, 2 => 0..20u64, 1 => 0..2_000u64, 1 => Just(60_000), 1 => Just(2_000_000)].prop_map(Step::PassTime),
    ];
    prop::collection::vec(step, 1..200)
}

pub(super) struct PoolModel {
    pub(super) state: PoolState<FakeServer, Caller>,
    pub(super) now: Instant,
    pub(super) callers: Vec<Caller>,
    granted: Rc<RefCell<Vec<Lease<FakeConnection>>>>,
    pub(super) leases: Vec<Lease<FakeConnection>>,
    /// Leases that the state does not know.
    pub(super) joined: Vec<Lease<FakeConnection>>,
    pub(super) opening: Vec<u64>,
    maintained: Vec<(u64, Maintenance)>,
    pub(super) retiring: Vec<u64>,
    /// When the next tick is due.
    timer: Option<Instant>,
    /// Since when a connection should have been opened soon ([`PoolModel::is_lacking`]).
    lacking_since: Option<Instant>,
}

fn pick<T>(from: &mut Vec<T>, which: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(which % from.len()))
}

impl PoolModel {
    pub(super) fn new(config: PoolConfig) -> Self {
        Self {
            state: PoolState::new(
                "rules",
                config.clone(),
                FakeServer::new(ms(0)),
                Arc::new(Board::new(SharingRules::from(&config))),
            ),
            now: Instant::now(),
            callers: Vec::new(),
            granted: Rc::default(),
            leases: Vec::new(),
            joined: Vec::new(),
            opening: Vec::new(),
            maintained: Vec::new(),
            retiring: Vec::new(),
            timer: None,
            lacking_since: None,
        }
    }

    pub(super) fn apply_effects(&mut self) {
        self.leases.append(&mut self.granted.borrow_mut());
        for effect in self.state.take_effects() {
            match effect {
                Effect::Open { id } => self.opening.push(id),
                Effect::Maintain { id, task, .. } => self.maintained.push((id, task)),
                Effect::Retire { id, .. } => self.retiring.push(id),
                Effect::Look => unreachable!("no connect is denied"),
            }
        }
        // As the actor does, also when the tick is not due any more.
        let due = self.state.next_tick(self.now);
        self.timer = self.timer.into_iter().chain(due).min();
        let since = self.lacking_since.unwrap_or(self.now);
        self.lacking_since = self.is_lacking().then_some(since);
    }

    pub(super) fn connect_ended(&mut self, id: u64, ok: bool) {
        let error = || ConnectError::new(ConnectErrorKind::Unreachable, "away");
        let result = if ok {
            Ok(FakeConnection::default())
        } else {
            Err(error())
        };
        self.state.opened(self.now, id, result);
    }

    pub(super) fn step(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::CheckOut(mode, within) => {
                let caller = Caller {
                    granted: Rc::clone(&self.granted),
                    ..Caller::default()
                };
                self.callers.push(caller.clone());
                let waiter = Waiter {
                    reply: caller,
                    holder: Location::caller(),
                    since: now,
                    deadline: now + ms(within),
                };
                self.state.check_out(mode, waiter);
            }
            Step::GiveUp(which) => {
                if let Some(caller) = pick(&mut self.callers, which)
                    && caller.give_up()
                {
                    self.state.serve_waiters(now);
                }
            }
            Step::EndLease(which, how) => {
                let how = [Condition::Clean, Condition::Dirty, Condition::Broken][usize::from(how)];
                if let Some(lease) = pick(&mut self.leases, which) {
                    self.end_lease(lease, how);
                }
            }
            Step::Join => {
                let connect = Arc::clone(&self.state.connect);
                let board = Arc::clone(&self.state.board);
                let joined = board.join(now, |connection| takes_users(&*connect, connection));
                let waiting = self.state.queue.len();
                assert!(joined.is_none() || waiting == 0, "it overtakes a waiter");
                self.joined
                    .extend(joined.map(|user| Lease::shared(user, None)));
            }
            Step::Leave(which, broken) => {
                if let Some(lease) = pick(&mut self.joined, which) {
                    let how = if broken {
                        Condition::Broken
                    } else {
                        Condition::Clean
                    };
                    self.end_lease(lease, how);
                }
            }
            Step::EndConnect(which, ok) => {
                if let Some(id) = pick(&mut self.opening, which) {
                    self.connect_ended(id, ok);
                }
            }
            Step::EndMaintenance(which, ok) => {
                if let Some((id, task)) = pick(&mut self.maintained, which) {
                    self.state.maintained(now, id, task, ok);
                }
            }
            Step::EndRetirement(which) => {
                if let Some(id) = pick(&mut self.retiring, which) {
                    self.state.retired(now, id);
                }
            }
            Step::ShedIdle(bytes) => {
                self.state.shed_idle(bytes * MB);
            }
            Step::PassTime(millis) => self.pass(ms(millis)),
            Step::Block(which) => {
                let states = self.state.connections.values();
                let shared: Vec<_> = states
                    .filter(|pooled| matches!(pooled.state, ConnectionState::Shared(_)))
                    .collect();
                if let Some(pooled) = shared.get(which % shared.len().max(1)) {
                    pooled.connection.is_blocked.store(true, SeqCst);
                }
                // A driver says so long after the request has become slow.
                self.pass(self.state.short_wait());
            }
            Step::Lose(which) => {
                let open: Vec<u64> = self.state.connections.keys().copied().collect();
                if let Some(id) = open.get(which % open.len().max(1)) {
                    let lost = &self.state.connections[id].connection;
                    lost.is_closed.store(true, SeqCst);
                    let lost = Arc::clone(lost);
                    let on_it = |lease: &Lease<_>| Arc::ptr_eq(lease, &lost);
                    if let Some(at) = self.leases.iter().position(on_it) {
                        let lease = self.leases.swap_remove(at);
                        self.end_lease(lease, Condition::Broken);
                    }
                }
            }
        }
        self.apply_effects();
    }

    /// Ends a lease in this condition.
    pub(super) fn end_lease(&mut self, mut lease: Lease<FakeConnection>, how: Condition) {
        lease.is_blocked.store(false, SeqCst);
        match how {
            Condition::Clean => {}
            Condition::Dirty => lease.mark_dirty(),
            Condition::Broken => lease.mark_broken(),
        }
        lease.end(self.now);
        self.wake();
    }

    /// Does what the actor does when it is woken.
    pub(super) fn wake(&mut self) {
        let ended = Arc::clone(&self.state.ended_leases);
        if ended.wake.notified().now_or_never().is_some() {
            for event in ended.take() {
                self.state.ended(self.now, event);
            }
            self.state.serve_waiters(self.now);
        }
    }

    /// Passes time, with each tick that the state asked for.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut ticks = 0;
        while let Some(at) = self.timer.take_if(|at| *at <= end)
            && ticks < 1_000
        {
            assert!(
                at >= self.now || ticks < 10,
                "tick after tick while no time passes"
            );
            self.now = self.now.max(at);
            self.state.tick(self.now);
            self.apply_effects();
            ticks += 1;
        }
        if ticks == 1_000 {
            // Ticks were left out, and so was what they would have done.
            self.lacking_since = None;
        }
        self.now = end;
    }

    pub(super) fn assert_rules(&self) {
        let state = &self.state;
        let max = state.config.connections_max as usize;
        // The server has the open connections, perhaps those being opened, and those that it has
        // not let go of.
        let at_server = state.connections.len() + self.opening.len() + self.retiring.len();
        assert!(at_server <= max, "more than the maximum");
        let states = || state.connections.values().map(|pooled| &pooled.state);
        let idle = states().filter(|state| matches!(state, ConnectionState::Idle { .. }));
        assert_eq!(idle.count(), state.idle.len());
        // Each lease is on a connection, and an exclusive lease is alone on it.
        assert_eq!(state.leases.len(), self.leases.len());
        let depth = 1..=state.config.shared_depth;
        assert!(self.users().all(|users| depth.contains(&users)));
        let shared = self.users().sum::<u32>() as usize;
        let exclusive = states().filter(|state| matches!(state, ConnectionState::Exclusive));
        let users = self.leases.len() + self.joined.len();
        assert_eq!(shared + exclusive.count(), users);
        for mode in [Mode::Exclusive, Mode::Shared] {
            assert!(
                !self.could_serve(mode),
                "a waiter for {mode:?} use waits for nothing: {:?}",
                self.users().collect::<Vec<_>>()
            );
        }
        let lacking = self.lacking_since.zip(state.queue.oldest());
        if let Some((since, oldest)) = lacking {
            let acceptable = state.figures.average_connect.get() + ms(10);
            let waited = self.now - since.max(oldest);
            assert!(waited <= acceptable, "nobody opens a connection");
        }
    }

    /// Whether waiters need more connections than are expected, one more is allowed, and none is being
    /// opened.
    fn is_lacking(&self) -> bool {
        let (state, now) = (&self.state, self.now);
        let is_allowed = state.total() < state.config.connections_max as usize
            && state.circuit.next_try.is_none_or(|at| at <= now);
        // While the first answer of a new connection is awaited, those who may share it wait too.
        let is_needed = state.demand(now) > state.expected_soon(now);
        is_allowed && self.opening.is_empty() && is_needed && !state.sharing(now).has_untested
    }

    /// The number of users of each shared connection.
    pub(super) fn users(&self) -> impl Iterator<Item = u32> {
        self.state.slots().map(|slot| slot.users())
    }

    /// Whether a connection could serve the first waiter for `mode`, by what the module says of its
    /// rules.
    fn could_serve(&self, mode: Mode) -> bool {
        let (state, now) = (&self.state, self.now);
        let Some((number, since)) = state.queue.first_waiting(mode) else {
            return false;
        };
        let exclusive = state.queue.first_waiting(Mode::Exclusive);
        let is_first = exclusive.is_none_or(|(first, _)| number <= first);
        let connections = || state.connections.values();
        let is_usable = |pooled: &&PooledConnection<FakeConnection>| {
            pooled.expires_at > now && !pooled.connection.is_closed.load(SeqCst)
        };
        let fresh = connections()
            .filter(is_usable)
            .any(|pooled| match pooled.state {
                ConnectionState::Idle { since } => now - since <= state.config.check_after_idle,
                _ => false,
            });
        if mode == Mode::Exclusive {
            return fresh;
        }
        let short = state.short_wait();
        let in_shared_use: Vec<_> = state.slots().collect();
        let age = |slot: &Slot<_>| now - slot.progress_at();
        let is_moving = |slot: &&&Arc<Slot<FakeConnection>>| {
            let lost = slot.connection.is_closed.load(SeqCst) || slot.expires_at <= now;
            let blocked = slot.connection.is_blocked.load(SeqCst);
            !slot.is_broken() && !blocked && !lost && age(slot) < short
        };
        let moving: Vec<_> = in_shared_use.iter().filter(is_moving).collect();
        let fast = |slot: &Slot<_>| {
            let pace = slot.pace();
            pace.is_some_and(|pace| pace <= Duration::from_micros(50))
        };
        let quick = |slot: &Slot<_>| {
            let pace = slot.pace();
            fast(slot) || pace.is_some_and(|pace| pace * slot.users() + age(slot) < short)
        };
        let shared_max = state.config.shared_max as usize;
        let pipelines = moving.iter().filter(|slot| slot.users() > 1);
        let may_join = moving.iter().any(|slot| {
            let has_room = slot.users() < state.config.shared_depth;
            let is_pipeline = slot.users() > 1 || pipelines.clone().count() < shared_max;
            has_room && is_pipeline && quick(slot)
        });
        // While connects fail, there are no others.
        let limit = if state.circuit.is_failing() {
            state.connections.len()
        } else {
            state.config.connections_max as usize
        };
        let all_shared = in_shared_use.len() == limit;
        if may_join && (is_first || !all_shared) {
            return true;
        }
        let max = limit.saturating_sub(1).max(1);
        let leaves_one = in_shared_use.len() < max || moving.is_empty();
        let promising = moving
            .iter()
            .filter(|slot| slot.pace().is_none() || fast(slot));
        let callers = self.users().sum::<u32>() as usize + state.queue.len_of(Mode::Shared);
        let are_slow = in_shared_use
            .iter()
            .any(|slot| slot.users() > 0 && age(slot) >= short);
        let is_crowded = callers >= limit || !are_slow && callers >= limit.div_ceil(2);
        let has_untested = moving.iter().any(|slot| slot.pace().is_none());
        let is_quick = is_crowded && has_untested && promising.count() >= shared_max;
        let is_patient = is_quick && now - since < short;
        fresh && is_first && leaves_one && !is_patient
    }
}
