//! `GET /api/status`: what it shows, what it warns of, and that it answers while what is behind it does not.

use std::fs;
use std::time::{Duration, Instant};

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::descendants;
use headroom_test_support::protocol::floats;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::BINARY;

pub(crate) async fn status(server: &Server) -> Value {
    server.get("/api/status").await.json().await.unwrap()
}

/// Waits until the status meets a condition, and returns it.
pub(crate) async fn wait_for_status(server: &Server, meets: impl Fn(&Value) -> bool) -> Value {
    wait_for_async(DEADLINE, || async {
        let status = status(server).await;
        if meets(&status) {
            Ok(status)
        } else {
            Err(status)
        }
    })
    .await
}

fn alert<'a>(status: &'a Value, code: &str) -> Option<&'a Value> {
    let mut alerts = status["alerts"].as_array()?.iter();
    alerts.find(|alert| alert["code"] == code)
}

fn resource<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    let mut resources = status["resources"]["resources"].as_array()?.iter();
    resources.find(|resource| resource["name"] == name)
}

#[tokio::test]
async fn a_server_with_nothing_to_do_is_well_and_shows_every_part() {
    let server = Server::start(Options::new(BINARY));
    let status = wait_for_status(&server, |status| status["verdict"] == "ok").await;
    assert_eq!(status["alerts"], serde_json::json!([]));
    assert_eq!(status["server"]["pid"], server.pid());
    let budget = &status["budget"];
    let bytes = |key: &str| budget[key].as_u64().unwrap();
    assert_eq!(bytes("used_bytes"), bytes("baseline_bytes"));
    assert!(bytes("used_bytes") <= bytes("projected_bytes"));
    assert_eq!(budget["levels"].as_array().unwrap().len(), 4);
    let slots = status["timeline"]["slots"].as_array().unwrap();
    assert!(!slots.is_empty());
    assert_eq!(status["timeline"]["complete"], true);
    let children = status["supervision"]["children"].as_array().unwrap();
    let paths: Vec<_> = children
        .iter()
        .map(|child| child["path"].as_str().unwrap())
        .collect();
    assert!(paths.contains(&"headroom/lazy-loader"), "{paths:?}");
    assert_eq!(resource(&status, "zygote").unwrap()["phase"], "cold");
    assert_eq!(status["pools"].as_array().unwrap().len(), 4);
    assert_eq!(status["jobs"]["running"], 0);
}

#[tokio::test]
async fn a_loaded_model_holds_a_part_of_the_budget() {
    let models = Models::new();
    models.add("weights", 1, |path| torchscript::weights(path, 8 << 20));
    let server = Server::start(models.options(BINARY));
    server.infer("weights", &floats("x", &[1.0])).await;
    // The loader and the memory supervisor answer one after the other, so a status may have the measurement
    // of one of them only.
    let entry = |status: &Value| {
        let entries = status["budget"]["entries"].as_array()?;
        entries.iter().find(|it| it["name"] == "weights:1").cloned()
    };
    let is_measured = |it: Value| it["measured_bytes"].as_u64() > Some(0);
    let status = wait_for_status(&server, |status| {
        resource(status, "weights:1")
            .cloned()
            .is_some_and(is_measured)
            && entry(status).is_some_and(is_measured)
    })
    .await;
    let weights = resource(&status, "weights:1").unwrap();
    assert_eq!(weights["phase"], "ready");
    assert!(weights["load_p99_seconds"].as_f64() > Some(0.0));
    assert_eq!(weights["requests_total"], 1);
    // The request waited for the load.
    let latency = weights["request_p99_ms"].as_f64().unwrap();
    let load = weights["load_p50_seconds"].as_f64().unwrap() * 1e3;
    assert!(latency > 0.9 * load, "{weights}");
    assert!(resource(&status, "zygote").unwrap()["request_p99_ms"].is_null());
    let events = status["timeline"]["events"].as_array().unwrap();
    let is_load = |event: &Value| {
        event["event"] == "loaded" && event["text"].as_str().unwrap().starts_with("weights:1 ")
    };
    assert!(events.iter().any(is_load), "{events:?}");
    let budget = &status["budget"];
    let entries = budget["entries"].as_array().unwrap();
    let measured = |entry: &Value| entry["measured_bytes"].as_u64().unwrap();
    let held: u64 = entries.iter().map(measured).sum();
    let used = budget["used_bytes"].as_u64().unwrap();
    assert_eq!(held + budget["baseline_bytes"].as_u64().unwrap(), used);
}

#[tokio::test]
async fn a_failed_load_is_an_alert_that_says_when_it_is_tried_again() {
    let models = Models::new();
    models.add("broken", 1, |path| fs::write(path, "no archive"));
    let server = Server::start(models.options(BINARY));
    let refused = server.infer("broken", &floats("x", &[1.0])).await;
    assert_ne!(refused.status, 200);
    let status = wait_for_status(&server, |status| status["verdict"] == "degraded").await;
    let alert = alert(&status, "resource_failed").unwrap();
    assert_eq!(
        (&alert["subject"], &alert["severity"]),
        (&"broken:1".into(), &"warning".into())
    );
    assert!(alert["text"].as_str().unwrap().contains("again"), "{alert}");
    assert!(alert["since_at"].is_string(), "{alert}");
}

#[tokio::test]
async fn a_full_budget_is_an_alert() {
    let models = Models::new();
    models.add("weights", 1, |path| torchscript::weights(path, 8 << 20));
    let levels = "memory.hysteresis = 0.000001\nmemory.levels.elevated = 0.00001\nmemory.levels.high = 0.00002\n\
                  memory.levels.critical = 0.98\nmemory.levels.exhausted = 0.99";
    let server = Server::start(models.options(BINARY).settings(levels));
    let status = wait_for_status(&server, |status| alert(status, "memory_high").is_some()).await;
    assert_eq!(status["verdict"], "degraded");
    let events = status["timeline"]["events"].as_array().unwrap();
    assert!(
        events.iter().any(|event| event["event"] == "level"),
        "{events:?}"
    );
    let slot = status["timeline"]["slots"]
        .as_array()
        .unwrap()
        .last()
        .unwrap();
    assert_eq!(slot["level"], "high");
}

#[tokio::test]
async fn a_killed_host_shows_its_exit_and_its_restart() {
    let models = Models::new();
    models.add("echo", 1, torchscript::echo);
    let server = Server::start(models.options(BINARY));
    server.infer("echo", &floats("x", &[1.0])).await;
    let host = descendants(server.pid())
        .into_iter()
        .find(|it| it.name.starts_with("hr:"));
    let pid = i32::try_from(host.unwrap().pid).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let status = wait_for_status(&server, |status| {
        status["supervision"]["restarts_total"].as_u64() > Some(0)
    })
    .await;
    let children = status["supervision"]["children"].as_array().unwrap();
    let host = children
        .iter()
        .find(|child| child["restarts_total"].as_u64() > Some(0))
        .unwrap();
    assert_eq!(host["path"], "headroom/models/echo:1/host-0");
    assert!(
        host["last_exit"].as_str().unwrap().contains("SIGKILL"),
        "{host}"
    );
}

#[tokio::test]
async fn it_answers_while_processes_behind_it_are_stopped() {
    let models = Models::new();
    models.add("echo", 1, torchscript::echo);
    let server = Server::start(models.options(BINARY));
    server.infer("echo", &floats("x", &[1.0])).await;
    for process in descendants(server.pid()) {
        let pid = i32::try_from(process.pid).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    }
    let mut times = Vec::new();
    for _ in 0..21 {
        let began = Instant::now();
        let status = status(&server).await;
        times.push(began.elapsed());
        assert!(resource(&status, "echo:1").is_some());
    }
    times.sort();
    assert!(times[10] < Duration::from_millis(50), "{times:?}");
}

#[tokio::test]
async fn an_unknown_parameter_is_refused() {
    let server = Server::start(Options::new(BINARY));
    for path in ["/api/status?x=1", "/api/status/events?x=1"] {
        assert_eq!(server.get(path).await.status(), 400, "{path}");
    }
}
