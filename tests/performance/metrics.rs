//! `GET /api/performance/metrics`.

use std::time::{Duration, Instant};

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::{Process, Stopped};
use headroom_test_support::protocol::{floats, milliseconds};
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::{Value, json};

use crate::BINARY;

const PATH: &str = "/api/performance/metrics";

/// The longest time to an answer, at the median.
const ANSWER_WITHIN: Duration = Duration::from_millis(50);

const WINDOWS: [&str; 3] = ["last_1_minute", "last_5_minutes", "last_15_minutes"];

async fn document(server: &Server) -> Value {
    server.get_json(PATH).await.ok()
}

fn pool<'document>(document: &'document Value, name: &str) -> &'document Value {
    let mut pools = document["pools"]["pools"].as_array().unwrap().iter();
    pools.find(|pool| pool["name"] == name).unwrap()
}

#[tokio::test]
async fn a_fresh_server_answers_with_every_section_and_figure() {
    let server = Server::start(Options::new(BINARY));
    let seen = document(&server).await;
    assert!(seen["at"].as_str().unwrap().ends_with('Z'), "{seen}");
    assert!(seen["took_ms"].as_f64().unwrap() < 1_000.0, "{seen}");
    for section in ["process", "memory", "actors", "pools", "resources", "http"] {
        assert!(seen[section].is_object(), "{section}: {seen}");
        assert!(seen[section]["state"].is_null(), "{section}: {seen}");
    }

    let process = &seen["process"];
    let own = Process::read(server.pid()).unwrap();
    assert_eq!(process["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(process["pid"], server.pid());
    assert!(process["started_at"].as_str().unwrap().ends_with('Z'));
    assert!(process["uptime_seconds"].as_f64().unwrap() > 0.0);
    for mode in ["user", "system"] {
        assert!(process["cpu_seconds_total"][mode].as_f64().unwrap() >= 0.0);
    }
    for window in WINDOWS {
        let percent = process["cpu_percent"][window].as_f64().unwrap();
        assert!(percent >= 0.0, "{window}: {process}");
    }
    let number = |key: &str| process[key].as_u64().unwrap();
    // Threads and descriptors come and go between the two readings.
    assert!(number("threads").abs_diff(own.threads() as u64) < 10);
    assert!(number("open_descriptors").abs_diff(own.descriptors() as u64) < 20);
    assert!(number("descriptors_max") > number("open_descriptors"));
    let memory = |of: &str, kind: &str| process["memory"][of][kind].as_u64().unwrap();
    for of in ["server", "tree"] {
        assert_eq!(memory(of, "processes"), 1, "{process}");
        assert!(memory(of, "rss_bytes") >= memory(of, "pss_bytes"));
        assert!(memory(of, "pss_bytes") > 0 && memory(of, "anonymous_bytes") > 0);
        assert!(memory(of, "rss_bytes") >= memory(of, "anonymous_bytes"));
    }

    let memory = &seen["memory"];
    let number = |key: &str| memory[key].as_u64().unwrap();
    assert_eq!(memory["level"], "normal");
    assert!(number("budget_bytes") > number("used_bytes") && number("used_bytes") > 0);
    assert_eq!(
        number("free_bytes"),
        number("budget_bytes") - number("projected_bytes")
    );
    assert!(number("headroom_bytes") > 0 && number("headroom_bytes") < number("budget_bytes"));
    for count in [
        "reserved_bytes",
        "clean_up_rounds_total",
        "level_changes_total",
    ] {
        assert_eq!(number(count), 0, "{count}: {memory}");
    }

    let actors = &seen["actors"];
    assert!(actors["states"]["running"].as_u64() > Some(8), "{actors}");
    assert_eq!(
        (&actors["states"]["restarting"], &actors["restarts_total"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(actors["busiest"].as_array().unwrap().len(), 5);

    for name in ["postgres", "redis-primary", "redis-cache", "redis-pubsub"] {
        let pool = pool(&seen, name);
        assert_eq!(
            (&pool["health"], &pool["size"]),
            (&json!("cold"), &json!(0))
        );
    }
    let resources = &seen["resources"];
    assert_eq!(resources["phases"]["ready"], 0, "{resources}");
    assert_eq!(resources["loaded_bytes"], 0, "{resources}");
    assert_eq!(seen["http"]["in_flight"], 1);
}

#[tokio::test]
async fn a_request_counts_in_its_class_and_window() {
    let server = Server::start(Options::new(BINARY));
    for _ in 0..3 {
        server.get_json("/api/actors").await.ok();
    }
    server.get("/nothing").await;
    let input = floats("x", &[1.0]);
    server
        .infer("nothing", &input)
        .await
        .assert_refused(404, "nothing");
    server
        .post_json("/api/performance/memory/gc", &Value::Null)
        .await
        .ok();

    let http = document(&server).await["http"].take();
    for time in ["since_start"].into_iter().chain(WINDOWS) {
        let traffic = &http[time];
        let requests = |class: &str| &traffic["classes"][class];
        assert_eq!(
            requests("status")["outcomes_total"]["2xx"],
            3,
            "{time}: {http}"
        );
        assert_eq!(
            requests("unmatched")["outcomes_total"]["4xx"],
            1,
            "{time}: {http}"
        );
        assert_eq!(
            requests("work")["outcomes_total"]["4xx"],
            1,
            "{time}: {http}"
        );
        assert_eq!(
            requests("control")["outcomes_total"]["2xx"],
            1,
            "{time}: {http}"
        );
        assert_eq!(traffic["requests_total"], 6, "{time}: {http}");
        assert_eq!(traffic["errors_total"], 0, "{time}: {http}");
        assert!(traffic["covers_seconds"].as_f64().unwrap() > 0.0);
        assert!(traffic["requests_per_second"].as_f64().unwrap() > 0.0);
        let ms = ["p50_ms", "p90_ms", "p99_ms", "max_ms"].map(|key| {
            let latency = traffic[key].as_f64();
            latency.unwrap_or_else(|| panic!("{key} of {time}: {http}"))
        });
        assert!(ms.is_sorted() && ms[3] > 0.0 && ms[3] < 60_000.0, "{ms:?}");
    }
    // Prometheus gets the same counts, with the document that was asked for since.
    for (class, count) in [("2xx", 5.0), ("4xx", 2.0), ("5xx", 0.0), ("abandoned", 0.0)] {
        let label = format!("outcome=\"{class}\"");
        let metric = server
            .metric("headroom_http_requests_total", &[&label])
            .await;
        assert_eq!(metric, count, "{class}");
    }
}

#[tokio::test]
async fn a_loaded_model_and_an_open_pool_are_shown() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    server.infer("affine", &floats("x", &[1.0])).await.ok();
    probe(&server, "redis-primary").await;
    wait_for_async(DEADLINE, || async {
        let seen = document(&server).await;
        let resources = &seen["resources"];
        let model = &resources["kinds"]["model"];
        let pool = pool(&seen, "redis-primary");
        let is_shown = model["phases"]["ready"] == 1
            && model["loaded_bytes"].as_u64() > Some(0)
            && resources["phases"]["ready"] == 2
            && resources["loads_total"] == 2
            && pool["health"] == "healthy"
            && pool["size"] == 1
            // The server, the zygote, the host and Redis.
            && seen["process"]["memory"]["tree"]["processes"] == 4
            && seen["process"]["memory"]["server"]["processes"] == 1
            && seen["memory"]["reserved_bytes"].as_u64() > Some(0);
        is_shown.then_some(()).ok_or(seen)
    })
    .await;
}

async fn probe(server: &Server, pool: &str) {
    let path = format!("/api/pools/{pool}/probe");
    server.post_json(&path, &json!({})).await.ok();
}

#[tokio::test]
async fn the_document_comes_in_time_while_every_process_behind_the_server_is_stopped() {
    let models = Models::new();
    models.add("slow", 1, torchscript::slow);
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    server.infer("slow", &milliseconds(1)).await.ok();
    for pool in ["postgres", "redis-primary"] {
        probe(&server, pool).await;
    }
    let stopped = Stopped::below(server.pid());
    assert!(stopped.processes().len() > 3, "{stopped:?}");
    // A load and a checkout that hang.
    let clients = ["/v2/models/affine/infer", "/api/pools/postgres/probe"].map(|path| {
        let request = server.client().post(server.url(path));
        tokio::spawn(request.json(&floats("x", &[1.0])).send())
    });
    wait_for_async(DEADLINE, || async {
        let seen = document(&server).await;
        let loading = &seen["resources"]["phases"]["loading"];
        (*loading == 1).then_some(()).ok_or(seen)
    })
    .await;

    let mut took = Vec::new();
    for _ in 0..21 {
        let began = Instant::now();
        let seen = document(&server).await;
        took.push(began.elapsed());
        assert!(pool(&seen, "postgres")["kind"].is_string(), "{seen}");
        assert!(seen["resources"]["phases"].is_object(), "{seen}");
    }
    took.sort();
    assert!(took[10] < ANSWER_WITHIN, "{took:?}");
    clients.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn unknown_parameters_and_other_methods_are_refused() {
    let server = Server::start(Options::new(BINARY));
    let unknown = server.get_json(&format!("{PATH}?sections=http")).await;
    assert_eq!(unknown.status, 400);
    let detail = unknown.json["detail"].as_str().unwrap();
    assert!(detail.contains("sections"), "{detail}");
    let post = server.post_json(PATH, &json!({})).await;
    assert_eq!(post.status, 405);
    assert_eq!(post.headers["allow"], "GET, HEAD");
}
