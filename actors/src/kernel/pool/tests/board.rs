//! Callers on several threads join and leave, while the actor's state gives the same connections to
//! exclusive users.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::super::lease::Condition;
use super::super::sharing::takes_users;
use super::super::{Lease, Mode, PoolConfig};
use super::double::{FakeConnection, config};
use super::model::{PoolModel, Step};

const THREADS: usize = 3;

/// An exclusive user is alone on its connection, whatever the others do, and none of them is forgotten.
#[test]
fn nobody_is_on_a_connection_with_an_exclusive_user() {
    let config = PoolConfig {
        connections_min: 1,
        connections_max: 2,
        shared_max: 1,
        shared_depth: 8,
        ..config()
    };
    let mut model = PoolModel::new(config);
    let (ends, joins) = (AtomicBool::new(false), AtomicU64::new(0));
    let board = Arc::clone(&model.state.board);
    let connect = Arc::clone(&model.state.connect);
    let use_shared = || {
        while !ends.load(SeqCst) {
            let may_join = |connection: &FakeConnection| takes_users(&*connect, connection);
            let Some(user) = board.join(Instant::now(), may_join) else {
                thread::yield_now();
                continue;
            };
            let lease = Lease::shared(user, None);
            lease.users.fetch_add(1, SeqCst);
            joins.fetch_add(1, SeqCst);
            assert!(!lease.is_exclusive.load(SeqCst));
            lease.users.fetch_sub(1, SeqCst);
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(use_shared);
        }
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until || joins.load(SeqCst) < 1_000 {
            model.now = Instant::now();
            // Some user of a shared connection is always there to be joined, except for a moment.
            model.step(&Step::CheckOut(Mode::Shared, 60_000));
            model.step(&Step::CheckOut(Mode::Exclusive, 60_000));
            model.step(&Step::EndConnect(0, true));
            // The others get some turns, if they may join.
            for _ in 0..100 {
                thread::yield_now();
            }
            for lease in std::mem::take(&mut model.leases) {
                if lease.is_alone() {
                    lease.is_exclusive.store(true, SeqCst);
                    assert_eq!(lease.users.load(SeqCst), 0, "it is shared too");
                    lease.is_exclusive.store(false, SeqCst);
                }
                model.end_lease(lease, Condition::Clean);
            }
            model.apply_effects();
            model.wake();
            model.apply_effects();
        }
        ends.store(true, SeqCst);
    });
    // Everybody has left: the connections are idle again, and nobody waits for ever.
    model.now = Instant::now();
    for _ in 0..1_000 {
        model.wake();
        model.apply_effects();
        model.step(&Step::EndLease(0, 0));
    }
    assert_eq!(model.state.queue.len(), 0);
    assert_eq!(model.state.idle.len(), model.state.connections.len());
}
