//! What a load test takes from others: nothing that they need, and never more than its bounds.

use std::time::Duration;

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::Process;
use headroom_test_support::protocol::{Answer, floats};
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async, wait_until};
use serde_json::{Value, json};

use crate::BINARY;
use crate::jobs::{delete, has_ended, wait_for_job};
use crate::load_test::{
    DEVELOPMENT, ENDLESS, LOAD_TEST, assert_released, operation, run, scenario, start,
};

const STATUS: &str = "/api/performance/lazy-loader/status";

fn lazy_loading(parameters: &Value) -> Value {
    json!({ "scenarios": { "lazy_loading": parameters } })
}

/// How often each of these models was unloaded on request.
async fn unloads<const N: usize>(server: &Server, models: [&str; N]) -> [u64; N] {
    let status = server.get_json(STATUS).await.ok();
    let resources = status["resources"].as_array().unwrap();
    models.map(|model| {
        let found = resources.iter().find(|it| it["name"] == model);
        let evictions =
            &found.unwrap_or_else(|| panic!("no {model} in {status}"))["evictions_total"];
        evictions["request"].as_u64().unwrap_or(0)
    })
}

/// Waits until the model was unloaded more often than `times`.
async fn wait_for_unloads(server: &Server, model: &str, times: u64) {
    wait_for_async(DEADLINE, || async {
        let [unloads] = unloads(server, [model]).await;
        (unloads > times).then_some(()).ok_or(unloads)
    })
    .await;
}

#[tokio::test]
async fn models_that_others_pin_or_use_meanwhile_are_not_unloaded() {
    let models = Models::new();
    for model in ["alone", "pinned", "used"] {
        models.add(model, 1, torchscript::affine);
    }
    let server = Server::start(models.options(BINARY).settings(DEVELOPMENT));
    let body = lazy_loading(&json!({ "rounds": 100, "hits": 20 }));
    let path = start(&server, &body).await;
    wait_for_unloads(&server, "used:1", 0).await;
    let pin = server.url("/api/performance/lazy-loader/pins/pinned:1");
    Answer::to(server.client().put(pin)).await.ok();
    server.infer("used", &floats("x", &[1.0])).await.ok();
    let others = ["pinned:1", "used:1"];
    let before = unloads(&server, others).await;
    // Two more rounds.
    let [alone] = unloads(&server, ["alone:1"]).await;
    wait_for_unloads(&server, "alone:1", alone + 1).await;
    assert_eq!(unloads(&server, others).await, before);

    delete(&server, &path).await;
    let job = wait_for_job(&server, &path, has_ended).await;
    let loads = &scenario(&job, "lazy_loading")["loads"];
    assert_eq!(loads["left_to_others"], json!(others), "{job}");
    assert_eq!(loads["loaded_before"], json!([]), "{job}");
    assert!(server.host("pinned").is_some() && server.host("used").is_some());
    let status = server.get_json(STATUS).await.ok();
    let resources = status["resources"].as_array().unwrap();
    for model in resources.iter().filter(|it| it["kind"] == "model") {
        assert_eq!(model["leases"], 0, "{model}");
    }
    assert_released(&server).await;
}

#[tokio::test]
async fn a_scenario_that_ends_early_has_the_time_of_its_last_hits() {
    let models = Models::new();
    models.add("loaded", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY).settings(DEVELOPMENT));
    server.load("loaded").await.ok();
    let body = lazy_loading(&json!({ "rounds": 10, "hits": 100_000, "callers": 1 }));
    let path = start(&server, &body).await;
    let has_hits = |job: &Value| job["progress"]["done"].as_u64() > Some(0);
    wait_for_job(&server, &path, has_hits).await;
    delete(&server, &path).await;
    let job = wait_for_job(&server, &path, has_ended).await;
    let report = scenario(&job, "lazy_loading");
    assert_eq!(report["ended_by"], "cancelled", "{job}");
    let hit = operation(&job, "lazy_loading", "hit");
    let number = |name: &str| hit[name].as_f64().unwrap();
    let took = number("took_seconds");
    let whole = report["took_seconds"].as_f64().unwrap();
    assert!(took > 0.01 && took <= whole, "{job}");
    let throughput = number("succeeded") / took;
    assert!(
        (number("throughput_per_second") - throughput).abs() < 1.0,
        "{hit}"
    );
}

#[tokio::test]
async fn the_sockets_of_a_load_test_leave_the_reserve_of_descriptors() {
    // 128 are reserved. Load tests get a quarter of the others.
    let limited = ["sh", "-c", "ulimit -n 256 && exec \"$@\"", "sh"];
    let options = Options::new(BINARY).launched_by(&limited);
    let server = Server::start(options.settings(DEVELOPMENT));
    let http = |callers: u32| {
        json!({ "scenarios": { "http": {
            "callers": callers, "operations": ENDLESS, "rate_per_second": null,
        }}})
    };
    // It ends at once.
    let path = format!("{LOAD_TEST}?wait=30");
    let job = server.post_json(&path, &http(33)).await.ok();
    let report = scenario(&job, "http");
    assert_eq!(
        [&report["ended_by"], &report["verdict"]],
        ["error", "failed"],
        "{job}"
    );
    let reason = report["reason"].as_str().unwrap();
    assert!(reason.contains("allows 32"), "{reason}");

    let process = Process::read(server.pid()).unwrap();
    let before = process.descriptors();
    let path = start(&server, &http(32)).await;
    // Both ends of each connection.
    wait_until(DEADLINE, "all callers are connected", || {
        process.descriptors() >= before + 64
    });
    delete(&server, &path).await;
    let job = wait_for_job(&server, &path, has_ended).await;
    let request = operation(&job, "http", "request");
    assert_eq!(request["failed"], 0, "{job}");
    // A cancelled one leaves none of them behind.
    wait_until(DEADLINE, "the connections are closed", || {
        process.descriptors() < before + 16
    });
}

#[tokio::test]
async fn without_a_selection_a_scenario_with_too_many_sockets_is_left_out() {
    let limited = ["sh", "-c", "ulimit -n 256 && exec \"$@\"", "sh"];
    let settings = format!("{DEVELOPMENT}\npostgres.embedded.enabled = false");
    let options = Options::new(BINARY).launched_by(&limited);
    let server = Server::start(options.settings(&settings));
    let began = std::time::Instant::now();
    let job = run(&server, &json!({})).await;
    assert_eq!(job["result"]["verdict"], "passed", "{job}");
    let reason = job["result"]["left_out"]["http"].as_str().unwrap();
    assert!(
        reason.contains("50 callers need a connection each"),
        "{reason}"
    );
    assert!(began.elapsed() < Duration::from_secs(60));
}
