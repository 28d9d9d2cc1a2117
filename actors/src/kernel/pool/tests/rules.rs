//! The rules of the state, after each of many random steps, and in single situations.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::super::board::Slot;
use super::super::lease::Condition;
use super::super::sharing::{Sharing, SharingLimits, SharingRules};
use super::super::{Mode, PoolConfig};
use super::double::{FakeConnection, config, ms, secs};
use super::model::{PoolModel, Step, steps};

/// A model with `count` open and idle connections, the users of which were quick so far.
fn warm(config: PoolConfig, count: u32) -> PoolModel {
    let mut model = PoolModel::new(config);
    for _ in 0..count {
        model.step(&Step::CheckOut(Mode::Exclusive, 60_000));
        model.step(&Step::PassTime(20));
        model.step(&Step::EndConnect(0, true));
    }
    assert_eq!(model.leases.len(), count as usize);
    for _ in 0..count {
        model.step(&Step::EndLease(0, 0));
    }
    for pooled in model.state.connections.values_mut() {
        pooled.pace = Some(ms(0));
    }
    assert_eq!(model.state.idle.len(), count as usize);
    model
}

/// Marks each shared connection broken with one of its leases. The other leases on it stay.
fn break_all_shared(model: &mut PoolModel) {
    for lease in std::mem::take(&mut model.leases) {
        let is_whole =
            |slot: &Arc<Slot<_>>| Arc::ptr_eq(&slot.connection, &lease) && !slot.is_broken();
        if model.state.slots().any(is_whole) {
            model.end_lease(lease, Condition::Broken);
            model.apply_effects();
        } else {
            model.leases.push(lease);
        }
    }
}

/// Checks out one more shared lease. Returns whether it was granted at once.
fn share(model: &mut PoolModel) -> bool {
    let before = model.leases.len();
    model.step(&Step::CheckOut(Mode::Shared, 60_000));
    model.assert_rules();
    model.leases.len() > before
}

fn pipelines(max: u32, shared_max: u32, shared_depth: u32) -> PoolConfig {
    PoolConfig {
        connections_min: 1,
        connections_max: max,
        shared_max,
        shared_depth,
        ..config()
    }
}

#[test]
fn callers_share_when_connections_run_short() {
    let mut model = warm(pipelines(5, 2, 3), 5);
    // The first two get a connection each. With the third, callers are half as many as connections: then
    // two connections are shared.
    for user in 0..6 {
        assert!(share(&mut model), "user {user} waits");
        assert_eq!(model.state.idle.len(), 4_usize.saturating_sub(user).max(3));
    }
    assert!(share(&mut model));
    assert_eq!(model.state.idle.len(), 2, "the two were full");
}

#[test]
fn broken_connections_do_not_keep_others_from_being_shared() {
    let mut model = warm(pipelines(5, 2, 2), 5);
    for _ in 0..4 {
        assert!(share(&mut model));
    }
    break_all_shared(&mut model);
    // Two connections have a user each and get no other. Two of the others are shared.
    assert_eq!(model.state.connections.len(), 5);
    for _ in 0..4 {
        assert!(share(&mut model));
    }
    assert!(!share(&mut model));
}

#[test]
fn nobody_joins_a_slow_request() {
    let mut model = warm(pipelines(3, 2, 8), 3);
    // Two slow requests: each connection is left alone, and the last one is shared instead.
    assert!(share(&mut model) && share(&mut model));
    model.step(&Step::PassTime(400));
    for _ in 0..8 {
        assert!(share(&mut model));
    }
    let mut users: Vec<u32> = model.users().collect();
    users.sort_unstable();
    assert_eq!(users, [1, 1, 8]);
    // When all three are slow, the first that ends serves again. It was slow, so nobody joins there.
    model.step(&Step::PassTime(1_000));
    model.step(&Step::EndLease(0, 0));
    assert!(share(&mut model));
    assert!(!share(&mut model));
}

#[test]
fn the_connection_for_exclusive_use_is_shared_when_the_others_turn_slow() {
    let mut model = warm(pipelines(2, 1, 1), 2);
    assert!(share(&mut model));
    assert!(!share(&mut model), "one is left for exclusive use");
    model.step(&Step::PassTime(25));
    assert_eq!(model.leases.len(), 2);
}

/// Few pipelines cost a server less than many connections with a request each.
#[test]
fn while_fast_pipelines_have_room_no_other_connection_is_used() {
    let mut model = warm(pipelines(4, 2, 3), 4);
    for _ in 0..6 {
        assert!(share(&mut model));
    }
    assert_eq!(model.state.idle.len(), 2);
    // All places in the pipelines are taken.
    assert!(share(&mut model));
    assert_eq!((model.leases.len(), model.state.idle.len()), (7, 1));
}

/// A request in each fifty that takes 20 ms: between two of them the connection looks fast, but others are
/// better for callers.
#[test]
fn a_slow_request_in_fifty_is_not_forgotten() {
    let mut model = warm(pipelines(8, 1, 100), 8);
    for _ in 0..6 {
        assert!(share(&mut model));
    }
    for _ in 0..300 {
        for request in 0..50 {
            if request == 0 {
                model.step(&Step::PassTime(20));
            }
            model.step(&Step::EndLease(0, 0));
            assert!(share(&mut model));
        }
    }
    assert!(model.users().count() >= 4, "callers spread");
}

/// The number of users of the pipeline that a caller joins, of pipelines with so many users each.
fn joined_of(users: &[u32], shared_max: u32, pace: Duration) -> Option<u32> {
    let now = Instant::now();
    let slots: Vec<_> = users
        .iter()
        .map(|users| {
            let connection = Arc::new(FakeConnection::default());
            let (expires_at, ended) = (now + secs(60), Arc::default());
            let slot = Slot::new(1, connection, expires_at, now, Some(pace), ended);
            assert!((1..*users).all(|_| slot.join(100)));
            Arc::new(slot)
        })
        .collect();
    let rules = SharingRules::from(&pipelines(5, shared_max, 100));
    let limits = SharingLimits {
        connections: 5,
        short_wait: ms(5),
    };
    let sharing = Sharing::of(slots.iter(), rules, limits, now, |_| true);
    sharing.joinable.map(|(_, users)| users)
}

#[test]
fn callers_keep_as_many_pipelines_as_there_should_be() {
    assert_eq!(joined_of(&[2, 40, 3], 3, ms(0)), Some(2), "all fill up");
    // Some have been slow, and so there are more: the youngest get no others.
    assert_eq!(joined_of(&[30, 40, 3], 2, ms(0)), Some(30));
    assert_eq!(joined_of(&[100, 40, 3], 2, ms(0)), Some(40), "one is full");
    assert_eq!(
        joined_of(&[100, 100, 3], 2, ms(0)),
        Some(3),
        "both are full"
    );
}

#[test]
fn a_fast_pipeline_takes_many_callers() {
    let micros = Duration::from_micros;
    assert_eq!(joined_of(&[99], 2, micros(50)), Some(99));
    assert_eq!(joined_of(&[98], 2, micros(51)), Some(98));
    assert_eq!(joined_of(&[99], 2, micros(51)), None, "5 ms are not short");
}

#[test]
fn a_new_connection_is_tried_before_the_next_one_is_opened() {
    let mut model = PoolModel::new(pipelines(4, 2, 8));
    for _ in 0..8 {
        assert!(!share(&mut model));
    }
    model.step(&Step::EndConnect(0, true));
    assert_eq!((model.leases.len(), model.opening.len()), (1, 0));
    model.step(&Step::PassTime(1));
    assert_eq!(model.opening.len(), 0);
    // It answers in a millisecond, and so serves all of them: they wait for less than ten.
    model.step(&Step::EndLease(0, 0));
    assert_eq!((model.leases.len(), model.state.connections.len()), (7, 1));
}

#[test]
fn a_connection_that_fills_up_is_not_the_last() {
    let mut model = warm(pipelines(4, 2, 8), 1);
    for users in 1..=8 {
        assert!(share(&mut model));
        assert_eq!(model.opening.len(), usize::from(users > 4), "{users} users");
    }
}

#[test]
fn a_waiter_that_gives_up_lets_the_others_through() {
    let mut model = warm(pipelines(1, 1, 8), 1);
    assert!(share(&mut model));
    model.step(&Step::CheckOut(Mode::Exclusive, 60_000));
    assert!(!share(&mut model), "it waits for the exclusive one");
    let waiting = model.callers.remove(2);
    assert!(waiting.give_up(), "nobody tells the pool");
    model.state.serve_waiters(model.now);
    model.apply_effects();
    assert_eq!(model.leases.len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_and_no_caller_is_forgotten(
        steps in steps(),
        max in 1..6u32,
        shared_max in 1..4u32,
        depth in 1..5u32,
    ) {
        let config = PoolConfig {
            connections_min: 1,
            connections_max: max,
            waiting_max: 20,
            shared_max,
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
        // The circuit waits no longer for its next try.
        model.step(&Step::PassTime(1_000));
        for _ in 0..500 {
            while let Some(id) = model.opening.pop() {
                model.connect_ended(id, true);
                model.apply_effects();
            }
            model.step(&Step::EndMaintenance(0, true));
            model.step(&Step::EndRetirement(0));
            model.step(&Step::EndLease(0, 0));
            model.step(&Step::Leave(0, false));
            model.step(&Step::PassTime(1));
            model.assert_rules();
        }
        for caller in callers {
            prop_assert!(caller.answered.get() || caller.cancelled.get(), "forgotten");
        }
        prop_assert!(model.leases.is_empty() && model.joined.is_empty());
    }
}
