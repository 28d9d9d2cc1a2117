//! The invariants hold in random trees with random strategies and random failures.
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

use crate::scripted::*;

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
        TestSystem::paused(move |system| run_random_tree(system, seed));
    }
}

/// The actors and supervisors of a random tree.
#[derive(Default)]
struct RandomTree {
    /// In start order.
    actors: Vec<TestActor>,
    /// All supervisors.
    supervisors: Vec<SupervisorHandle>,
    supervisor_count: usize,
}

async fn run_random_tree(system: TestSystem, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let log = EventLog::default();
    let mut tree = RandomTree::default();
    let mut spec = branch(&mut random, &mut tree, &log, 0);
    // The root itself must not fail.
    spec = spec.intensity(100_000, SECOND);
    let root = system.start(spec).await;
    let names: Vec<_> = tree
        .actors
        .iter()
        .map(|actor| actor.handle.name())
        .collect();
    let in_order: Vec<_> = names.iter().map(|name| format!("+{name}")).collect();
    let mut incarnations = Incarnations::default();
    let started = log.take();
    incarnations.follow(&started);
    assert_eq!(started, in_order, "started in order");

    let added = Arc::new(Mutex::new(Vec::new()));
    for event in 0..EVENTS {
        spawn_random_event(&mut random, &tree, &log, &added, event);
        if random.random_ratio(1, 3) {
            sleep(Duration::from_millis(random.random_range(0..40))).await;
        }
    }
    // After the longest backoff all children run again.
    sleep(LONG).await;
    incarnations.follow(&log.take());
    let running = tree.actors.iter().filter(|actor| up(actor));
    let running: Vec<_> = running.map(|actor| actor.handle.name()).collect();
    let added: Vec<TestActor> = std::mem::take(&mut *added.lock().unwrap());
    let extra: Vec<_> = added.iter().filter(|actor| up(actor)).collect();

    root.stop().await;
    assert!(system.tree().alive().is_empty(), "all are stopped");
    let stopped = log.take();
    incarnations.follow(&stopped);
    assert!(
        incarnations.alive.is_empty(),
        "orphans: {:?}",
        incarnations.alive
    );
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
    for actor in tree.actors.iter().chain(&added) {
        assert_eq!(actor.ask(Request::Echo(1)).await, Err(AskError::Stopped));
        assert_eq!(actor.handle.in_flight(), 0, "all permits are free");
        let stats = actor.handle.stats().snapshot();
        assert_eq!(stats.mailbox_depth, 0);
    }
}

fn up(actor: &TestActor) -> bool {
    use futures_util::FutureExt;
    actor.handle.running(LONG).now_or_never() == Some(true)
}

/// The actors that run, according to the log.
#[derive(Default)]
struct Incarnations {
    alive: BTreeSet<String>,
}

impl Incarnations {
    /// Two incarnations of one actor never run at the same time: `+` and `~` alternate.
    fn follow(&mut self, lines: &[String]) {
        for line in lines {
            let (sign, name) = line.split_at(1);
            match sign {
                "+" => assert!(self.alive.insert(name.to_owned()), "{name} runs twice"),
                "~" => drop(self.alive.remove(name)),
                _ => {}
            }
        }
    }
}

fn branch(
    random: &mut StdRng,
    tree: &mut RandomTree,
    log: &EventLog,
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
            let below = branch(random, tree, log, depth + 1);
            spec = spec.child(ChildSpec::supervisor(below).backoff(short_backoff()));
        } else {
            let actor = TestActor::new(&format!("a{}", tree.actors.len()), log);
            let actor = unreliable(actor, random.random());
            let restarts = [Restart::Permanent, Restart::Transient, Restart::Temporary];
            let weights = [6, 2, 1];
            let restart = restarts
                .choose_weighted(random, |restart| {
                    weights[restarts.iter().position(|other| other == restart).unwrap()]
                })
                .unwrap();
            spec = spec.child(actor.spec().restart(*restart));
            tree.actors.push(actor);
        }
    }
    spec
}

/// The first start succeeds; later ones are sometimes slow or fail.
fn unreliable(actor: TestActor, seed: u64) -> TestActor {
    actor.script(move |incarnation| {
        let mut random = StdRng::seed_from_u64(seed ^ incarnation);
        let start = match random.random_range(0..10) {
            0 if incarnation > 1 => Step::Ends(failure("unreliable")),
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

/// Causes one random event in a task, so that events overlap.
fn spawn_random_event(
    random: &mut StdRng,
    tree: &RandomTree,
    log: &EventLog,
    added: &Arc<Mutex<Vec<TestActor>>>,
    event: usize,
) {
    let actor = tree.actors.choose(random).unwrap().clone();
    let what = match random.random_range(0..12) {
        0..3 => Request::End(failure("random")),
        3 => Request::End(Exit::Normal),
        4 => Request::Panic,
        5 => Request::PanicInSpawnedFuture,
        6 => Request::Forget,
        7..9 => Request::Echo(1),
        9 => {
            let supervisor = tree.supervisors.choose(random).unwrap().clone();
            let actor = unreliable(
                TestActor::new(&format!("added{event}"), log),
                random.random(),
            );
            added.lock().unwrap().push(actor.clone());
            // A child that was never started is not marked as stopped.
            let added = Arc::clone(added);
            actix_rt::spawn(async move {
                let started = supervisor.start_child(actor.spec()).await;
                if started.is_err() {
                    let mut added = added.lock().unwrap();
                    added.retain(|other| other.handle.name() != actor.handle.name());
                }
            });
            return;
        }
        10 => {
            let added = added.lock().unwrap();
            let Some(actor) = added.choose(random) else {
                return;
            };
            let name = actor.handle.name().to_owned();
            for supervisor in tree.supervisors.clone() {
                let name = name.clone();
                actix_rt::spawn(async move { supervisor.terminate_child(&name).await });
            }
            return;
        }
        _ => Request::Incarnation,
    };
    actix_rt::spawn(async move { actor.ask(what).await.ok() });
}
