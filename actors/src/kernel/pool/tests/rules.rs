//! What is true of the state after every step, whatever happens.

use std::cell::Cell;
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::super::lease::Condition;
use super::super::queue::Waits;
use super::super::state::{Effect, PoolState, Slot, Use};
use super::super::{ConnectError, ConnectErrorKind, Mode, PoolConfig};
use super::double::{config, ms};

/// Somebody who waits. `gone` is set from outside, `answered` when an answer comes.
#[derive(Clone, Default)]
struct Caller {
    gone: Rc<Cell<bool>>,
    answered: Rc<Cell<bool>>,
}

impl Waits for Caller {
    fn is_gone(&self) -> bool {
        self.gone.get()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Ask(Mode, u64),
    GoAway(usize),
    Return(usize, u8),
    Open(usize, bool),
    LookAfter(usize, bool),
    Relieve(u64),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mode = prop_oneof![Just(Mode::Exclusive), Just(Mode::Shared)];
    let step = prop_oneof![
        4 => (mode, 1..5_000u64).prop_map(|(mode, within)| Step::Ask(mode, within)),
        1 => any::<usize>().prop_map(Step::GoAway),
        4 => (any::<usize>(), 0..3u8).prop_map(|(which, how)| Step::Return(which, how)),
        3 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, well)| Step::Open(which, well)),
        2 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, well)| Step::LookAfter(which, well)),
        1 => (0..5u64).prop_map(Step::Relieve),
        3 => prop_oneof![0..20u64, 0..2_000u64, Just(60_000), Just(2_000_000)].prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..200)
}

struct PoolModel {
    state: PoolState<(), Caller>,
    now: Instant,
    callers: Vec<Caller>,
    leases: Vec<u64>,
    opening: Vec<u64>,
    checking: Vec<u64>,
    cleaning: Vec<u64>,
}

fn pick<T>(from: &mut Vec<T>, which: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(which % from.len()))
}

impl PoolModel {
    fn new(config: PoolConfig) -> Self {
        Self {
            state: PoolState::new("rules", config, |()| false, |()| false),
            now: Instant::now(),
            callers: Vec::new(),
            leases: Vec::new(),
            opening: Vec::new(),
            checking: Vec::new(),
            cleaning: Vec::new(),
        }
    }

    fn carry_out(&mut self) {
        for effect in self.state.take_effects() {
            match effect {
                Effect::Grant { ticket, lease, .. } => {
                    assert!(!ticket.answered.replace(true), "answered twice");
                    self.leases.push(lease);
                }
                Effect::Refuse { ticket, .. } => {
                    assert!(!ticket.answered.replace(true), "answered twice");
                }
                Effect::Open { id } => self.opening.push(id),
                Effect::Check { id, .. } => self.checking.push(id),
                Effect::Clean { id, .. } => self.cleaning.push(id),
                Effect::Close { .. } => {}
            }
        }
    }

    fn opened(&mut self, id: u64, well: bool) {
        let error = || ConnectError::new(ConnectErrorKind::Unreachable, "away");
        let result = if well { Ok(()) } else { Err(error()) };
        self.state.opened(self.now, id, result);
    }

    fn step(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Ask(mode, within) => {
                let caller = Caller::default();
                self.callers.push(caller.clone());
                let deadline = now + ms(within);
                self.state
                    .ask(now, mode, Location::caller(), deadline, caller);
            }
            Step::GoAway(which) => {
                if let Some(caller) = pick(&mut self.callers, which) {
                    caller.gone.set(true);
                }
            }
            Step::Return(which, how) => {
                let how = [Condition::Fit, Condition::Dirty, Condition::Broken][usize::from(how)];
                if let Some(lease) = pick(&mut self.leases, which) {
                    self.state.returned(now, lease, how);
                }
            }
            Step::Open(which, well) => {
                if let Some(id) = pick(&mut self.opening, which) {
                    self.opened(id, well);
                }
            }
            Step::LookAfter(which, well) => {
                if let Some(id) = pick(&mut self.checking, which) {
                    self.state.checked(now, id, well);
                } else if let Some(id) = pick(&mut self.cleaning, which) {
                    self.state.cleaned(now, id, well);
                }
            }
            Step::Relieve(bytes) => {
                self.state.shed_idle(bytes, 1);
            }
            Step::Pass(millis) => self.pass(ms(millis)),
        }
        self.carry_out();
    }

    /// Time passes, and the state is woken whenever it wished to be.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut wakes = 0;
        while let Some(at) = self.state.next_wake(self.now)
            && at <= end
            && wakes < 1_000
        {
            assert!(
                at >= self.now || wakes < 10,
                "woken again and again without time passing"
            );
            self.now = self.now.max(at);
            self.state.tick(self.now);
            self.carry_out();
            wakes += 1;
        }
        self.now = end;
        self.state.tick(end);
    }

    fn assert_rules(&self) {
        let state = &self.state;
        let max = state.config.connections_max as usize;
        assert!(
            state.slots.len() + state.opening.len() <= max,
            "more than the maximum"
        );
        let idle = state.slots.values();
        let idle = idle
            .filter(|slot| matches!(slot.state, Use::Idle { .. }))
            .count();
        assert_eq!(idle, state.idle.len());
        // Every lease is on a connection, and an exclusive one alone.
        assert_eq!(state.leases.len(), self.leases.len());
        let mut shared = 0;
        for slot in state.slots.values() {
            if let Use::Shared { in_flight, .. } = slot.state {
                assert!((1..=state.config.shared_depth).contains(&in_flight));
                shared += in_flight as usize;
            }
        }
        let exclusive = state.slots.values();
        let exclusive = exclusive
            .filter(|slot| slot.state == Use::Exclusive)
            .count();
        assert_eq!(shared + exclusive, self.leases.len());
        // Nobody who would share waits beside an idle connection either, as long as few enough are
        // shared; those that take nobody any more do not count.
        let takes_more =
            |slot: &&Slot<()>| matches!(slot.state, Use::Shared { retiring: None, .. });
        let active = state.slots.values().filter(takes_more).count();
        if !state.idle.is_empty() && active == 0 && state.queue.shared() > 0 {
            assert!(
                state.coming(self.now) >= state.demand(),
                "forgotten while no connection takes those who share"
            );
        }
        // Nobody waits beside an idle connection, unless it is being looked after for them.
        if !state.idle.is_empty() && state.queue.exclusive() > 0 {
            assert!(
                state.coming(self.now) >= state.demand(),
                "forgotten beside an idle connection"
            );
        }
    }
}

/// Ends a lease on each connection that takes those who share: it is of no use any more, and those
/// who have it besides stay.
fn break_all_shared(model: &mut PoolModel) {
    for lease in model.leases.clone() {
        let slot = model.state.leases[&lease].slot;
        let state = model.state.slots[&slot].state;
        if matches!(state, Use::Shared { retiring: None, .. }) {
            model.leases.retain(|kept| *kept != lease);
            model.state.returned(model.now, lease, Condition::Broken);
            model.carry_out();
        }
    }
}

/// One more wants to share; whatever is opened for that opens. Says whether it got a connection.
fn share(model: &mut PoolModel) -> bool {
    let before = model.leases.len();
    model.step(&Step::Ask(Mode::Shared, 60_000));
    // Opening another one is thought over when somebody has waited.
    model.step(&Step::Pass(20));
    while let Some(id) = model.opening.pop() {
        model.opened(id, true);
        model.carry_out();
    }
    model.leases.len() > before
}

#[test]
fn connections_that_take_nobody_any_more_keep_nobody_from_sharing_others() {
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
    // Six retire, with a user each; the last one that is left is shared too.
    assert_eq!(model.state.slots.len(), 6);
    assert!(share(&mut model));
    assert!(share(&mut model));
    // Now there is nothing more to be had.
    assert!(!share(&mut model));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_and_nobody_is_forgotten(steps in steps(), max in 1..6u32, depth in 1..4u32) {
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
        // Everything comes to its end, and nobody is left without an answer, although no deadline
        // has passed.
        let callers = model.callers.clone();
        for _ in 0..500 {
            while let Some(id) = model.opening.pop() {
                model.opened(id, true);
                model.carry_out();
            }
            model.step(&Step::LookAfter(0, true));
            model.step(&Step::Return(0, 0));
            model.step(&Step::Pass(1));
            model.assert_rules();
        }
        for caller in callers {
            prop_assert!(caller.answered.get() || caller.gone.get(), "forgotten");
        }
        prop_assert!(model.leases.is_empty());
    }
}
