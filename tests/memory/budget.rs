//! The budget is kept: by eviction, by waiting, by refusal.

use std::time::Instant;

use futures_util::future::join_all;
use headroom_test_support::models::Models;
use headroom_test_support::process_tree::Watch;
use headroom_test_support::protocol::{floats, infer_path};
use headroom_test_support::server::Server;
use headroom_test_support::wait::wait_for_async;

use super::stage::{
    DEADLINE, MIB, ModelsExt, ask, evictions, host, loads, number, processes, room_for,
};

/// Weights of one model, in MiB: so many that the number of loaded models decides what is used.
const WEIGHTS: u64 = 120;

/// Idle models may stay until nearly all is used: what goes, goes to make room.
const LEVELS: &str =
    "memory.levels = { elevated = 0.90, high = 0.95, critical = 0.97, exhausted = 0.98 }";

const NAMES: [&str; 3] = ["one", "two", "three"];

fn three_models() -> Models {
    let models = Models::new();
    for (name, value) in NAMES.into_iter().zip([1.0, 2.0, 3.0]) {
        models.adds(name, WEIGHTS, value);
    }
    models
}

#[tokio::test]
async fn three_models_take_turns_in_room_for_two() {
    let models = three_models();
    let limit = room_for(2, WEIGHTS);
    let server = models.serve_within(limit, LEVELS);
    let watch = Watch::start(server.pid());
    for turn in 0..300_u16 {
        let model = usize::from(turn % 3);
        let answer = ask(&server, NAMES[model], turn).await;
        assert_eq!(number(answer), f64::from(turn) + 1.0 + model as f64);
    }
    let peak = watch.finish();
    let (mib, limit_mib) = (peak.bytes / MIB, limit / MIB);
    println!(
        "at most {mib} of {limit_mib} MiB in {} samples",
        peak.samples
    );
    assert!(peak.bytes <= limit, "{peak:?} passed {limit}");
    assert!(
        peak.bytes > 2 * WEIGHTS * MIB,
        "two were never loaded at once"
    );
    assert!(peak.samples > 300, "{peak:?}");
    let evicted = evictions(&server, "room").await;
    let by_pressure = evictions(&server, "pressure").await;
    assert!(evicted > 90.0, "{evicted}, {by_pressure} by pressure");
    assert_eq!(by_pressure, 0.0, "two models are no pressure");
    // Whatever was loaded and not evicted is still there.
    let there = NAMES.iter().filter(|name| host(&server, name).is_some());
    assert_eq!(loads(&server).await - evicted, there.count() as f64);
    let failures = server.metric("headroom_lazy_load_failures_total", &[]);
    assert_eq!(failures.await, 0.0);
}

#[tokio::test]
async fn what_can_never_fit_is_told_so_and_costs_nobody_anything() {
    let limit = 400 * MIB;
    let models = Models::new();
    models.adds("small", 8, 1.0).adds("huge", 500, 2.0);
    let server = models.serve_within(limit, LEVELS);
    // Nothing is loaded to find that out.
    assert_refused_for_ever(&server, limit).await;
    assert_eq!(processes(&server), [""; 0]);
    assert_eq!(number(ask(&server, "small", 1).await), 2.0);
    let before = host(&server, "small").unwrap().pid;
    let watch = Watch::start(server.pid());

    for _ in 0..3 {
        assert_refused_for_ever(&server, limit).await;
    }
    let ready = server.get("/v2/models/huge/ready").await;
    assert_eq!(ready.status(), 507);
    let ready: serde_json::Value = ready.json().await.unwrap();
    assert_eq!(ready["ready"], false, "{ready}");

    assert!(watch.finish().bytes <= limit);
    assert_eq!(host(&server, "small").unwrap().pid, before);
    assert_eq!(number(ask(&server, "small", 5).await), 6.0);
    assert_eq!(
        server.metric("headroom_lazy_evictions_total", &[]).await,
        0.0
    );
    assert_eq!(loads(&server).await, 1.0);

    // Another file changes the answer.
    models.adds("huge", 8, 3.0);
    server.repository("huge", "load").await.ok();
    assert_eq!(number(ask(&server, "huge", 1).await), 4.0);
}

async fn assert_refused_for_ever(server: &Server, limit: u64) {
    let response = server.post(&infer_path("huge"), &floats("x", &[1.0])).await;
    assert_eq!(response.status(), 507);
    assert!(!response.headers().contains_key("retry-after"));
    let body: serde_json::Value = response.json().await.unwrap();
    let error = body["error"].as_str().unwrap();
    let numbers: Vec<u64> = error
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [need, most] = numbers[..] else {
        panic!("{error}")
    };
    assert!(need > 500 * MIB && most < limit, "{error}");
}

/// Takes "it needs 3 bytes; 2 are free and 1 more could be evicted" apart.
#[track_caller]
fn numbers_of(error: &str) -> (u64, u64, u64) {
    let numbers: Vec<u64> = error
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [need, free, evictable] = numbers[..] else {
        panic!("need, free and evictable bytes are to be told: {error}")
    };
    (need, free, evictable)
}

#[tokio::test]
async fn the_least_budget_that_is_accepted_serves_a_small_model() {
    let models = Models::new();
    models.adds("small", 8, 1.0);
    let limit = 227 * MIB;
    let server = models.serve_within(limit, "");
    let watch = Watch::start(server.pid());
    for x in 0..20 {
        assert_eq!(number(ask(&server, "small", x).await), f64::from(x) + 1.0);
    }
    let peak = watch.finish();
    println!("at most {} of 227 MiB", peak.bytes / MIB);
    assert!(peak.bytes <= limit, "{peak:?}");
}

#[tokio::test]
async fn a_pinned_model_stays_while_others_take_turns_around_it() {
    let models = three_models();
    models.settings("one", 1, "pinned = true");
    let limit = room_for(2, WEIGHTS);
    let server = models.serve_within(limit, LEVELS);
    assert_eq!(number(ask(&server, "one", 0).await), 1.0);
    let pinned = host(&server, "one").unwrap().pid;
    let watch = Watch::start(server.pid());
    for turn in 0..12 {
        let name = NAMES[1 + turn % 2];
        assert_eq!(number(ask(&server, name, 0).await), 2.0 + (turn % 2) as f64);
    }
    assert!(watch.finish().bytes <= limit);
    assert!(evictions(&server, "room").await >= 11.0);
    assert_eq!(host(&server, "one").unwrap().pid, pinned);
    let of_it = server.metric("headroom_lazy_evictions_total", &["name=\"one:1\""]);
    assert_eq!(of_it.await, 0.0);
}

/// Two models of which the limit holds one; the first works as long as it is told.
fn one_at_a_time() -> (Models, u64) {
    let models = Models::new();
    models.works("busy", WEIGHTS, 1.0);
    models.adds("next", WEIGHTS, 2.0);
    (models, room_for(1, WEIGHTS))
}

#[tokio::test]
async fn a_load_waits_for_room_that_is_in_use_and_gets_it_afterwards() {
    let (models, limit) = one_at_a_time();
    let server = models.serve_within(limit, LEVELS);
    ask(&server, "busy", 0).await.ok();
    let watch = Watch::start(server.pid());
    let busy = async {
        let answer = ask(&server, "busy", 1200).await;
        (number(answer), Instant::now())
    };
    let next = async {
        wait_until_busy(&server).await;
        let answer = ask(&server, "next", 1).await;
        (number(answer), Instant::now())
    };
    let ((worked, worked_at), (loaded, loaded_at)) = tokio::join!(busy, next);
    assert_eq!((worked, loaded), (1201.0, 3.0));
    assert!(worked_at < loaded_at, "the model in use went first");
    assert!(watch.finish().bytes <= limit);
    assert_eq!(evictions(&server, "room").await, 1.0);
}

#[tokio::test]
async fn a_load_whose_room_stays_in_use_is_refused_and_the_use_goes_on() {
    let (models, limit) = one_at_a_time();
    let server = models.serve_within(limit, LEVELS);
    ask(&server, "busy", 0).await.ok();
    let process = host(&server, "busy").unwrap().pid;
    let busy = async { number(ask(&server, "busy", 6000).await) };
    let next = async {
        wait_until_busy(&server).await;
        ask(&server, "next", 1).await.error(503)
    };
    let (worked, refused) = tokio::join!(busy, next);
    assert_eq!(worked, 6001.0);
    let (need, free, evictable) = numbers_of(&refused);
    assert!(
        need > WEIGHTS * MIB && need > free && evictable == 0,
        "{refused}"
    );
    assert_eq!(host(&server, "busy").unwrap().pid, process);
    // Now that it is idle, it may go.
    assert_eq!(number(ask(&server, "next", 1).await), 3.0);
}

async fn wait_until_busy(server: &Server) {
    wait_for_async(DEADLINE, || async {
        match server.owner("busy:1").await {
            owner if owner["busy"] == 1 => Ok(()),
            owner => Err(owner),
        }
    })
    .await;
}

#[tokio::test]
async fn many_loads_at_once_never_pass_the_budget() {
    const MODELS: u16 = 8;
    const EACH: u64 = 64;
    let models = Models::new();
    let names: Vec<String> = (0..MODELS).map(|n| format!("model-{n}")).collect();
    for (name, value) in names.iter().zip(0_u16..) {
        models.adds(name, EACH, f32::from(value));
    }
    let limit = room_for(3, EACH);
    let server = models.serve_within(limit, LEVELS);
    let watch = Watch::start(server.pid());
    let mut refused = 0;
    for round in 0..3_u16 {
        let asked = names.iter().map(|name| ask(&server, name, round));
        for (answer, value) in join_all(asked).await.into_iter().zip(0_u16..) {
            if answer.status == 503 {
                let (need, free, _) = numbers_of(&answer.error(503));
                assert!(need > free);
                refused += 1;
            } else {
                assert_eq!(number(answer), f64::from(round + value));
            }
        }
    }
    let peak = watch.finish();
    let (mib, limit_mib) = (peak.bytes / MIB, limit / MIB);
    println!("at most {mib} of {limit_mib} MiB, {refused} refused");
    assert!(peak.bytes <= limit, "{peak:?} passed {limit}");
    assert!(peak.bytes > 2 * EACH * MIB, "{peak:?}");
    // One after the other, all of them can be had.
    for (name, value) in names.iter().zip(0_u16..) {
        assert_eq!(number(ask(&server, name, 1).await), f64::from(1 + value));
    }
}
