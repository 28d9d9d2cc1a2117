//! The server keeps the budget: it evicts, lets loads wait, and refuses.

use std::time::Instant;

use futures_util::future::join_all;
use headroom_test_support::models::Models;
use headroom_test_support::process_tree::PeakSampler;
use headroom_test_support::server::Server;

use super::setup::{AddModels, MIB, ask, evictions, limit_for, loads, processes};

/// Weights of one model, in MiB: enough for the number of loaded models to decide the usage.
const WEIGHTS: u64 = 120;

/// Idle models may stay until nearly all memory is used: models are evicted only for a load.
const LEVELS: &str =
    "memory.levels = { elevated = 0.90, high = 0.95, critical = 0.97, exhausted = 0.98 }";

const NAMES: [&str; 3] = ["one", "two", "three"];

fn three_models() -> Models {
    let models = Models::new();
    for (name, value) in NAMES.into_iter().zip([1.0, 2.0, 3.0]) {
        models.add_adder(name, WEIGHTS, value);
    }
    models
}

#[tokio::test]
async fn three_models_take_turns_in_a_budget_for_two() {
    let models = three_models();
    let limit = limit_for(2, WEIGHTS);
    let server = models.start_server_with_limit(limit, LEVELS);
    let sampler = PeakSampler::start(server.pid());
    for turn in 0..300_u16 {
        let model = usize::from(turn % 3);
        let answer = ask(&server, NAMES[model], turn).await;
        assert_eq!(answer.number(), f64::from(turn) + 1.0 + model as f64);
    }
    let peak = sampler.finish();
    let (mib, limit_mib) = (peak.bytes / MIB, limit / MIB);
    println!(
        "at most {mib} of {limit_mib} MiB in {} samples",
        peak.samples
    );
    assert!(peak.bytes <= limit, "{peak:?} is above {limit}");
    assert!(
        peak.bytes > 2 * WEIGHTS * MIB,
        "two models were never loaded at once"
    );
    assert!(peak.samples > 300, "{peak:?}");
    let evicted = evictions(&server, "room").await;
    let by_pressure = evictions(&server, "pressure").await;
    assert!(evicted > 90.0, "{evicted}, {by_pressure} by pressure");
    assert_eq!(by_pressure, 0.0, "two models cause no pressure");
    // Models that were loaded and not evicted still run.
    let running = NAMES.iter().filter(|name| server.host(name).is_some());
    assert_eq!(loads(&server).await - evicted, running.count() as f64);
    let failures = server.metric("headroom_lazy_load_failures_total", &[]);
    assert_eq!(failures.await, 0.0);
}

#[tokio::test]
async fn a_model_that_can_never_fit_is_refused_for_good_without_a_load_or_an_eviction() {
    let limit = 400 * MIB;
    let models = Models::new();
    models
        .add_adder("small", 8, 1.0)
        .add_adder("huge", 500, 2.0);
    let server = models.start_server_with_limit(limit, LEVELS);
    // The refusal needs no load.
    assert_never_fits(&server, limit).await;
    assert_eq!(processes(&server), [""; 0]);
    assert_eq!(ask(&server, "small", 1).await.number(), 2.0);
    let before = server.host("small").unwrap().pid;
    let sampler = PeakSampler::start(server.pid());

    for _ in 0..3 {
        assert_never_fits(&server, limit).await;
    }
    let ready = server.get_json("/v2/models/huge/ready").await;
    assert_eq!(ready.status, 507);
    assert_eq!(ready.json["ready"], false, "{ready:?}");

    assert!(sampler.finish().bytes <= limit);
    assert_eq!(server.host("small").unwrap().pid, before);
    assert_eq!(ask(&server, "small", 5).await.number(), 6.0);
    assert_eq!(
        server.metric("headroom_lazy_evictions_total", &[]).await,
        0.0
    );
    assert_eq!(loads(&server).await, 1.0);

    // A smaller file is accepted.
    models.add_adder("huge", 8, 3.0);
    server.load("huge").await.ok();
    assert_eq!(ask(&server, "huge", 1).await.number(), 4.0);
}

async fn assert_never_fits(server: &Server, limit: u64) {
    let answer = ask(server, "huge", 1).await;
    assert!(!answer.headers.contains_key("retry-after"));
    let [needed, most] = numbers_in(&answer.error(507));
    assert!(needed > 500 * MIB && most < limit, "{answer:?}");
}

/// The `N` numbers in a refusal: the bytes needed, free and evictable, or the bytes needed and the most that the budget
/// can give.
#[track_caller]
fn numbers_in<const N: usize>(error: &str) -> [u64; N] {
    let words = error.split_whitespace();
    let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    let count = numbers.len();
    let numbers = numbers.try_into();
    numbers.unwrap_or_else(|_| panic!("{count} numbers instead of {N} in {error:?}"))
}

#[tokio::test]
async fn the_smallest_budget_that_is_accepted_serves_a_small_model() {
    let models = Models::new();
    models.add_adder("small", 8, 1.0);
    let limit = 227 * MIB;
    let server = models.start_server_with_limit(limit, "");
    let sampler = PeakSampler::start(server.pid());
    for x in 0..20 {
        assert_eq!(ask(&server, "small", x).await.number(), f64::from(x) + 1.0);
    }
    let peak = sampler.finish();
    println!("at most {} of 227 MiB", peak.bytes / MIB);
    assert!(peak.bytes <= limit, "{peak:?}");
}

#[tokio::test]
async fn a_pinned_model_stays_loaded_while_others_take_turns() {
    let models = three_models();
    models.settings("one", 1, "pinned = true");
    let limit = limit_for(2, WEIGHTS);
    let server = models.start_server_with_limit(limit, LEVELS);
    assert_eq!(ask(&server, "one", 0).await.number(), 1.0);
    let pinned = server.host("one").unwrap().pid;
    let sampler = PeakSampler::start(server.pid());
    for turn in 0..12 {
        let name = NAMES[1 + turn % 2];
        assert_eq!(
            ask(&server, name, 0).await.number(),
            2.0 + (turn % 2) as f64
        );
    }
    assert!(sampler.finish().bytes <= limit);
    assert!(evictions(&server, "room").await >= 11.0);
    assert_eq!(server.host("one").unwrap().pid, pinned);
    let evictions = server.metric("headroom_lazy_evictions_total", &["name=\"one:1\""]);
    assert_eq!(evictions.await, 0.0);
}

/// Two models and a limit that holds one of them. The first works for as long as its input says.
fn two_models_in_a_budget_for_one() -> (Models, u64) {
    let models = Models::new();
    models.add_slow_adder("busy", WEIGHTS, 1.0);
    models.add_adder("next", WEIGHTS, 2.0);
    (models, limit_for(1, WEIGHTS))
}

#[tokio::test]
async fn a_load_waits_for_memory_that_is_in_use() {
    let (models, limit) = two_models_in_a_budget_for_one();
    let server = models.start_server_with_limit(limit, LEVELS);
    ask(&server, "busy", 0).await.ok();
    let sampler = PeakSampler::start(server.pid());
    let busy = async {
        let answer = ask(&server, "busy", 1200).await;
        (answer.number(), Instant::now())
    };
    let next = async {
        server.wait_until_busy("busy").await;
        let answer = ask(&server, "next", 1).await;
        (answer.number(), Instant::now())
    };
    let ((worked, worked_at), (loaded, loaded_at)) = tokio::join!(busy, next);
    assert_eq!((worked, loaded), (1201.0, 3.0));
    assert!(worked_at < loaded_at, "the model in use was evicted");
    assert!(sampler.finish().bytes <= limit);
    assert_eq!(evictions(&server, "room").await, 1.0);
}

#[tokio::test]
async fn a_load_is_refused_when_the_memory_stays_in_use_and_the_use_is_not_disturbed() {
    let (models, limit) = two_models_in_a_budget_for_one();
    let server = models.start_server_with_limit(limit, LEVELS);
    ask(&server, "busy", 0).await.ok();
    let process = server.host("busy").unwrap().pid;
    let busy = async { ask(&server, "busy", 6000).await.number() };
    let next = async {
        server.wait_until_busy("busy").await;
        ask(&server, "next", 1).await.error(503)
    };
    let (worked, refused) = tokio::join!(busy, next);
    assert_eq!(worked, 6001.0);
    let [needed, free, evictable] = numbers_in(&refused);
    assert!(
        needed > WEIGHTS * MIB && needed > free && evictable == 0,
        "{refused}"
    );
    assert_eq!(server.host("busy").unwrap().pid, process);
    // Once it is idle, it can be evicted.
    assert_eq!(ask(&server, "next", 1).await.number(), 3.0);
}

#[tokio::test]
async fn many_loads_at_once_never_exceed_the_budget() {
    const MODELS: u16 = 8;
    const EACH: u64 = 64;
    let models = Models::new();
    let names: Vec<String> = (0..MODELS).map(|n| format!("model-{n}")).collect();
    for (name, value) in names.iter().zip(0_u16..) {
        models.add_adder(name, EACH, f32::from(value));
    }
    let limit = limit_for(3, EACH);
    let server = models.start_server_with_limit(limit, LEVELS);
    let sampler = PeakSampler::start(server.pid());
    let mut refused = 0;
    for round in 0..3_u16 {
        let asked = names.iter().map(|name| ask(&server, name, round));
        for (answer, value) in join_all(asked).await.into_iter().zip(0_u16..) {
            if answer.status == 503 {
                let [needed, free, _] = numbers_in(&answer.error(503));
                assert!(needed > free);
                refused += 1;
            } else {
                assert_eq!(answer.number(), f64::from(round + value));
            }
        }
    }
    let peak = sampler.finish();
    let (mib, limit_mib) = (peak.bytes / MIB, limit / MIB);
    println!("at most {mib} of {limit_mib} MiB, {refused} refused");
    assert!(peak.bytes <= limit, "{peak:?} is above {limit}");
    assert!(peak.bytes > 2 * EACH * MIB, "{peak:?}");
    // One after the other, all of them can be loaded.
    for (name, value) in names.iter().zip(0_u16..) {
        assert_eq!(ask(&server, name, 1).await.number(), f64::from(1 + value));
    }
}
