//! The invariants of the state, after each of many random steps.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::super::lease::Condition;
use super::super::queue::{CheckoutReply, Waiter};
use super::super::state::{ConnectionState, Effect, Maintenance, PoolState};
use super::super::{CheckoutError, ConnectError, ConnectErrorKind, Lease, Mode, PoolConfig};
use super::double::{FakeConnection, FakeServer, MB, config, ms};

/// The reply of a caller: whether it has given up, and whether it got its answer.
#[derive(Clone, Default)]
struct Caller {
    cancelled: Rc<Cell<bool>>,
    answered: Rc<Cell<bool>>,
    /// The leases that were granted to any caller.
    granted: Rc<RefCell<Vec<u64>>>,
}

impl CheckoutReply for Caller {
    type Connection = FakeConnection;

    fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    fn send(self, answer: Result<Lease<FakeConnection>, CheckoutError>) {
        assert!(!self.answered.replace(true), "answered twice");
        if let Ok(lease) = answer {
            self.granted.borrow_mut().push(lease.lease);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    CheckOut(Mode, u64),
    GiveUp(usize),
    EndLease(usize, u8),
    EndConnect(usize, bool),
    EndMaintenance(usize, bool),
    EndRetirement(usize),
    ShedIdle(u64),
    PassTime(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mode = prop_oneof![Just(Mode::Exclusive), Just(Mode::Shared)];
    let step = prop_oneof![
        4 => (mode, 1..5_000u64).prop_map(|(mode, within)| Step::CheckOut(mode, within)),
        1 => any::<usize>().prop_map(Step::GiveUp),
        4 => (any::<usize>(), 0..3u8).prop_map(|(which, how)| Step::EndLease(which, how)),
        3 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, ok)| Step::EndConnect(which, ok)),
        2 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, ok)| Step::EndMaintenance(which, ok)),
        2 => any::<usize>().prop_map(Step::EndRetirement),
        1 => (0..5u64).prop_map(Step::ShedIdle),
        3 => prop_oneof![0..20u64, 0..2_000u64, Just(60_000), Just(2_000_000)].prop_map(Step::PassTime),
    ];
    prop::collection::vec(step, 1..200)
}

struct PoolModel {
    state: PoolState<FakeServer, Caller>,
    now: Instant,
    callers: Vec<Caller>,
    granted: Rc<RefCell<Vec<u64>>>,
    leases: Vec<u64>,
    opening: Vec<u64>,
    maintained: Vec<(u64, Maintenance)>,
    retiring: Vec<u64>,
}

fn pick<T>(from: &mut Vec<T>, which: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(which % from.len()))
}

impl PoolModel {
    fn new(config: PoolConfig) -> Self {
        Self {
            state: PoolState::new("rules", config, FakeServer::new(ms(0))),
            now: Instant::now(),
            callers: Vec::new(),
            granted: Rc::default(),
            leases: Vec::new(),
            opening: Vec::new(),
            maintained: Vec::new(),
            retiring: Vec::new(),
        }
    }

    fn apply_effects(&mut self) {
        self.leases.append(&mut self.granted.borrow_mut());
        for effect in self.state.take_effects() {
            match effect {
                Effect::Open { id } => self.opening.push(id),
                Effect::Maintain { id, task, .. } => self.maintained.push((id, task)),
                Effect::Retire { id, .. } => self.retiring.push(id),
            }
        }
    }

    fn connect_ended(&mut self, id: u64, ok: bool) {
        let error = || ConnectError::new(ConnectErrorKind::Unreachable, "away");
        let result = if ok {
            Ok(FakeConnection::default())
        } else {
            Err(error())
        };
        self.state.opened(self.now, id, result);
    }

    fn step(&mut self, step: &Step) {
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
                if let Some(caller) = pick(&mut self.callers, which) {
                    caller.cancelled.set(true);
                }
            }
            Step::EndLease(which, how) => {
                let how = [Condition::Clean, Condition::Dirty, Condition::Broken][usize::from(how)];
                if let Some(lease) = pick(&mut self.leases, which) {
                    self.state.lease_ended(now, lease, how);
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
        }
        self.apply_effects();
    }

    /// Passes time, with each tick that the state asks for.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut ticks = 0;
        while let Some(at) = self.state.next_tick(self.now)
            && at <= end
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
        self.now = end;
        self.state.tick(end);
    }

    fn assert_rules(&self) {
        let state = &self.state;
        let max = state.config.connections_max as usize;
        // The server has the open connections, perhaps those being opened, and those that it has
        // not let go of.
        let at_server = state.connections.len() + self.opening.len() + self.retiring.len();
        assert!(at_server <= max, "more than the maximum");
        let states = || state.connections.values().map(|pooled| pooled.state);
        let idle = states().filter(|state| matches!(state, ConnectionState::Idle { .. }));
        assert_eq!(idle.count(), state.idle.len());
        // Each lease is on a connection, and an exclusive lease is alone on it.
        assert_eq!(state.leases.len(), self.leases.len());
        let mut shared = 0;
        for connection in states() {
            if let ConnectionState::Shared { in_flight, .. } = connection {
                assert!((1..=state.config.shared_depth).contains(&in_flight));
                shared += in_flight as usize;
            }
        }
        let exclusive = states().filter(|state| *state == ConnectionState::Exclusive);
        assert_eq!(shared + exclusive.count(), self.leases.len());
        // No waiter for shared use stays beside an idle connection, if no shared connection takes
        // new users.
        let mut shared =
            states().filter(|state| matches!(state, ConnectionState::Shared { closing: None, .. }));
        if !state.idle.is_empty() && shared.next().is_none() && state.queue.len_of(Mode::Shared) > 0
        {
            assert!(
                state.expected_soon(self.now) >= state.demand(),
                "a waiter for shared use is forgotten"
            );
        }
        // No waiter for exclusive use stays beside an idle connection, unless others are expected.
        if !state.idle.is_empty() && state.queue.len_of(Mode::Exclusive) > 0 {
            assert!(
                state.expected_soon(self.now) >= state.demand(),
                "a waiter for exclusive use is forgotten"
            );
        }
    }
}

/// Marks each shared connection broken with one of its leases. The other leases on it stay.
fn break_all_shared(model: &mut PoolModel) {
    for lease in model.leases.clone() {
        let connection = model.state.leases[&lease].connection;
        let state = model.state.connections[&connection].state;
        if matches!(state, ConnectionState::Shared { closing: None, .. }) {
            model.leases.retain(|kept| *kept != lease);
            model.state.lease_ended(model.now, lease, Condition::Broken);
            model.apply_effects();
        }
    }
}

/// Checks out one more shared lease, and opens the connections that the pool asks for. Returns whether
/// the lease was granted.
fn share(model: &mut PoolModel) -> bool {
    let before = model.leases.len();
    model.step(&Step::CheckOut(Mode::Shared, 60_000));
    // The pool decides about growth when a caller has waited.
    model.step(&Step::PassTime(20));
    while let Some(id) = model.opening.pop() {
        model.connect_ended(id, true);
        model.apply_effects();
    }
    model.leases.len() > before
}

#[test]
fn closing_connections_do_not_keep_others_from_being_shared() {
    let config = PoolConfig {
        connections_min: 1,
        connections_max: 7,
        shared_max: 2,
        shared_depth: 2,
        ..config()
    };
    let mut model = PoolModel::new(config);
    for round in 0..3 {
        for user in 0..4 {
            assert!(share(&mut model), "user {user} of round {round} waits");
            model.assert_rules();
        }
        break_all_shared(&mut model);
    }
    // Six connections are closing, with a user each. The last one is shared too.
    assert_eq!(model.state.connections.len(), 6);
    assert!(share(&mut model));
    assert!(share(&mut model));
    // No connection is left.
    assert!(!share(&mut model));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_and_no_caller_is_forgotten(steps in steps(), max in 1..6u32, depth in 1..4u32) {
        let config = PoolConfig {
            connections_min: 1,
            connections_max: max,
            waiting_max: 20,
            shared_max: 2,
            shared_depth: depth,
            ..config()
        };
        let mut model = PoolModel::new(config);
        for step in &steps {
            model.step(step);
            model.assert_rules();
        }
        // All connects, leases and resets end. Each caller gets an answer, although no deadline
        // passes.
        let callers = model.callers.clone();
        for _ in 0..500 {
            while let Some(id) = model.opening.pop() {
                model.connect_ended(id, true);
                model.apply_effects();
            }
            model.step(&Step::EndMaintenance(0, true));
            model.step(&Step::EndRetirement(0));
            model.step(&Step::EndLease(0, 0));
            model.step(&Step::PassTime(1));
            model.assert_rules();
        }
        for caller in callers {
            prop_assert!(caller.answered.get() || caller.cancelled.get(), "forgotten");
        }
        prop_assert!(model.leases.is_empty());
    }
}
