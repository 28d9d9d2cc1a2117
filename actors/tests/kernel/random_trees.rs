//! Random trees, random strategies, random ends: whatever happens, the invariants hold.
//!
//! A failure prints its seed. `KERNEL_SEED=<seed>` runs that tree alone.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{
    AskError, ChildSpec, Exit, Restart, Strategy, SupervisorHandle, SupervisorSpec,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::cast::*;

const TREES: u64 = 30;
const EVENTS: usize = 150;

#[test]
fn the_invariants_hold_in_random_trees() {
    let seeds: Vec<u64> = match std::env::var("KERNEL_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..TREES).map(|_| rand::rng().random()).collect(),
    };
    for seed in seeds {
        println!("KERNEL_SEED={seed}");
        TestSystem::paused(move |system| live_through(system, seed));
    }
}

/// Everything there is to know of the tree from outside.
#[derive(Default)]
struct RandomTree {
    /// In start order.
    roles: Vec<Role>,
    /// Dynamic supervisors to command.
    supervisors: Vec<SupervisorHandle>,
    supervisor_count: usize,
}

async fn live_through(system: TestSystem, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let journal = Journal::default();
    let mut tree = RandomTree::default();
    let mut spec = branch(&mut random, &mut tree, &journal, 0);
    // The root itself should live through most of it.
    spec = spec.intensity(100_000, SECOND);
    let root = system.start(spec).await;
    let names: Vec<_> = tree.roles.iter().map(|role| role.handle.name()).collect();
    let in_order: Vec<_> = names.iter().map(|name| format!("+{name}")).collect();
    let mut lives = Lives::default();
    let started = journal.take();
    lives.follow(&started);
    assert_eq!(started, in_order, "started in order");

    let added = Arc::new(Mutex::new(Vec::new()));
    for event in 0..EVENTS {
        happen(&mut random, &tree, &journal, &added, event);
        if random.random_ratio(1, 3) {
            sleep(Duration::from_millis(random.random_range(0..40))).await;
        }
    }
    // Wait out every backoff, so that the tree is whole again.
    sleep(LONG).await;
    lives.follow(&journal.take());
    let running = tree.roles.iter().filter(|role| up(role));
    let running: Vec<_> = running.map(|role| role.handle.name()).collect();
    let added: Vec<Role> = std::mem::take(&mut *added.lock().unwrap());
    let extra: Vec<_> = added.iter().filter(|role| up(role)).collect();

    root.stop().await;
    assert!(system.tree().alive().is_empty(), "all is stopped");
    let stopped = journal.take();
    lives.follow(&stopped);
    assert!(lives.alive.is_empty(), "orphans: {:?}", lives.alive);
    let fixed: Vec<_> = stopped
        .iter()
        .filter_map(|line| line.strip_prefix('-'))
        .filter(|name| !name.starts_with("added"))
        .collect();
    let reversed: Vec<_> = running.iter().rev().copied().collect();
    assert_eq!(fixed, reversed, "stopped in reverse order");
    let stops = stopped.iter().filter(|line| line.starts_with("-added"));
    assert_eq!(
        stops.count(),
        extra.len(),
        "those added stopped in order too"
    );
    for role in tree.roles.iter().chain(&added) {
        assert_eq!(role.ask(Do::Echo(1)).await, Err(AskError::Stopped));
        assert_eq!(role.handle.in_flight(), 0, "all places are free");
        let stats = role.handle.stats().snapshot();
        assert_eq!(stats.mailbox_depth, 0);
    }
}

fn up(role: &Role) -> bool {
    use futures_util::FutureExt;
    role.handle.running(LONG).now_or_never() == Some(true)
}

/// Who lives, by what the journal says.
#[derive(Default)]
struct Lives {
    alive: BTreeSet<String>,
}

impl Lives {
    /// No two incarnations of one actor ever live at the same time: `+` and `~` alternate.
    fn follow(&mut self, lines: &[String]) {
        for line in lines {
            let (sign, name) = line.split_at(1);
            match sign {
                "+" => assert!(self.alive.insert(name.to_owned()), "{name} lives twice"),
                "~" => drop(self.alive.remove(name)),
                _ => {}
            }
        }
    }
}

fn branch(
    random: &mut StdRng,
    tree: &mut RandomTree,
    journal: &Journal,
    depth: usize,
) -> SupervisorSpec {
    tree.supervisor_count += 1;
    let id = format!("s{}", tree.supervisor_count);
    let strategies = [
        Strategy::OneForOne,
        Strategy::OneForAll,
        Strategy::RestForOne,
    ];
    let mut spec = SupervisorSpec::new(id)
        .strategy(*strategies.choose(random).unwrap())
        .intensity(random.random_range(0..20), SECOND);
    tree.supervisors.push(spec.handle());
    for _ in 0..random.random_range(1..5) {
        if depth < 2 && random.random_ratio(1, 3) {
            let below = branch(random, tree, journal, depth + 1);
            spec = spec.child(ChildSpec::supervisor(below).backoff(quick()));
        } else {
            let role = Role::new(&format!("a{}", tree.roles.len()), journal);
            let role = shaky(role, random.random());
            let restarts = [Restart::Permanent, Restart::Transient, Restart::Temporary];
            let weights = [6, 2, 1];
            let restart = restarts
                .choose_weighted(random, |restart| {
                    weights[restarts.iter().position(|other| other == restart).unwrap()]
                })
                .unwrap();
            spec = spec.child(role.spec().restart(*restart));
            tree.roles.push(role);
        }
    }
    spec
}

/// Starts well the first time; later now and then slowly, or not at all.
fn shaky(role: Role, seed: u64) -> Role {
    role.script(move |incarnation| {
        let mut random = StdRng::seed_from_u64(seed ^ incarnation);
        let start = match random.random_range(0..10) {
            0 if incarnation > 1 => Step::Ends(failure("shaky")),
            1 if incarnation > 1 => Step::Panics,
            2 => Step::After(Duration::from_millis(random.random_range(0..30))),
            _ => Step::AtOnce,
        };
        let stop = match random.random_range(0..4) {
            0 => Step::After(Duration::from_millis(random.random_range(0..30))),
            _ => Step::AtOnce,
        };
        Script {
            start,
            stop,
            ..Script::default()
        }
    })
}

/// One random event, in a task of its own so that events overlap.
fn happen(
    random: &mut StdRng,
    tree: &RandomTree,
    journal: &Journal,
    added: &Arc<Mutex<Vec<Role>>>,
    event: usize,
) {
    let role = tree.roles.choose(random).unwrap().clone();
    let what = match random.random_range(0..12) {
        0..3 => Do::End(failure("random")),
        3 => Do::End(Exit::Normal),
        4 => Do::Panic,
        5 => Do::PanicInSpawnedFuture,
        6 => Do::Forget,
        7..9 => Do::Echo(1),
        9 => {
            let supervisor = tree.supervisors.choose(random).unwrap().clone();
            let role = shaky(
                Role::new(&format!("added{event}"), journal),
                random.random(),
            );
            added.lock().unwrap().push(role.clone());
            // A child that nobody ever started has never heard of a stop.
            let added = Arc::clone(added);
            actix_rt::spawn(async move {
                let started = supervisor.start_child(role.spec()).await;
                if started.is_err() {
                    let mut added = added.lock().unwrap();
                    added.retain(|other| other.handle.name() != role.handle.name());
                }
            });
            return;
        }
        10 => {
            let added = added.lock().unwrap();
            let Some(role) = added.choose(random) else {
                return;
            };
            let name = role.handle.name().to_owned();
            for supervisor in tree.supervisors.clone() {
                let name = name.clone();
                actix_rt::spawn(async move { supervisor.terminate_child(&name).await });
            }
            return;
        }
        _ => Do::Incarnation,
    };
    actix_rt::spawn(async move { role.ask(what).await.ok() });
}
