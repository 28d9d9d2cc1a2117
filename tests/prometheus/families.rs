//! Every family that the server exports is declared, and almost every declared one is exported.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;

use headroom::prometheus::catalogue;
use headroom_actors::kernel::{LabelValues, Metric, MetricKind};
use headroom_test_support::models::Models;
use headroom_test_support::protocol::floats;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::json;

use crate::BINARY;
use crate::exposition::{Family, families, names};

/// What these tests do not bring about, because it takes a control group, replicas, a scanner or a provider that answers. Unit tests compare what is recorded with the declarations (`Counters` in the kernel's test kit).
const NOT_CAUSED: [&str; 13] = [
    "headroom_chain_cache_bytes",
    "headroom_chain_head",
    "headroom_chain_provider_head",
    "headroom_chain_provider_usable",
    "headroom_memory_group_bytes",
    "headroom_memory_kernel_kills_total",
    "headroom_memory_stall_ratio",
    "headroom_postgres_reads_total",
    "headroom_scan_connections",
    "headroom_scan_seconds",
    "headroom_scan_wait_seconds",
    "headroom_scanner_up",
    // Absent without a limit.
    "process_max_fds",
];

/// Counters that have no first event to miss: the first comes from the kernel, the others are about shares.
const NOT_AT_ZERO: [&str; 3] = [
    "headroom_memory_kernel_kills_total",
    "headroom_model_requests_total",
    "headroom_postgres_reads_total",
];

/// Settings with a chain, whose only provider is not there.
const WITH_CHAIN: &str = "chains.ethereum.providers.node.url = 'http://127.0.0.1:1'";

/// Settings with a receiver of alerts, which is not there.
const WITH_ALERTS: &str = "memory.alerts.webhook_url = 'http://127.0.0.1:1/'";

/// Starts a server and uses all of its parts.
async fn used_server(models: &Models) -> Server {
    models.add("affine", 1, torchscript::affine);
    models.add("broken", 1, |path| std::fs::write(path, "no model"));
    // The first model raises the level.
    let settings = "memory.limit = '4GiB'\nmemory.hysteresis = 0.001\nmemory.sample_interval = '50ms'\n\
                    memory.levels = { elevated = 0.005, high = 0.8, critical = 0.9, exhausted = 0.95 }";
    let server = Server::start(
        models
            .options(BINARY)
            .settings(settings)
            .settings(WITH_ALERTS)
            .settings(WITH_CHAIN),
    );
    let input = floats("x", &[1.0]);
    for _ in 0..3 {
        server.infer("affine", &input).await.ok();
    }
    assert_ne!(server.infer("broken", &input).await.status, 200);
    for pool in ["postgres", "redis-primary", "redis-cache", "redis-pubsub"] {
        let path = format!("/api/pools/{pool}/probe");
        server.post_json(&path, &json!({})).await.ok();
    }
    let names = json!({ "names": ["affine"] });
    let preload = "/api/performance/lazy-loader/preload?wait=30";
    server.post_json(preload, &names).await.ok();
    let gc = "/api/performance/memory/gc";
    server.post_json(gc, &serde_json::Value::Null).await.ok();
    server
        .wait_for_metric("headroom_memory_reclaim_actions_total", &[], |n| n > 0.0)
        .await;
    let form = "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\nx\r\n--b--\r\n";
    let upload = server.client().post(server.url("/api/uploads"));
    let upload = upload.header("Content-Type", "multipart/form-data; boundary=b");
    let upload = upload.body(form).send().await.unwrap();
    assert_eq!(upload.status(), 201);
    let batch = json!([{ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId" }]);
    server.post("/rpc/ethereum", &batch).await;
    server.unload("affine").await.ok();
    server.get("/nothing").await;
    let mut client = TcpStream::connect(server.address()).unwrap();
    client.write_all(b"no request\r\n\r\n").unwrap();
    server
}

#[tokio::test]
async fn every_exported_family_is_declared_with_its_help_type_and_labels() {
    let models = Models::new();
    let server = used_server(&models).await;
    let expected: BTreeSet<_> = catalogue::all().map(|metric| metric.name).collect();
    // Some figures come with the next reading.
    let exported = wait_for_async(DEADLINE, || async {
        let exported = families(&server.metrics().await);
        let missing: Vec<_> = {
            let exported = names(&exported);
            let missing = expected.difference(&exported);
            let missing = missing.filter(|name| !NOT_CAUSED.contains(name));
            missing.map(|name| (*name).to_owned()).collect()
        };
        if missing.is_empty() {
            Ok(exported)
        } else {
            Err(missing)
        }
    })
    .await;

    for (name, family) in &exported {
        let metric = catalogue::all().find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("{name} is not declared"));
        assert_eq!(family.kind, metric.kind.label(), "{name}");
        assert_eq!(family.help, metric.help, "{name}");
        check_labels(metric, family);
    }
    assert!(exported["headroom_build_info"].samples.len() == 1);
}

fn check_labels(metric: &Metric, family: &Family) {
    let declared: BTreeSet<_> = metric.labels.iter().map(|label| label.name).collect();
    for sample in &family.samples {
        let found: BTreeSet<_> = sample.keys().map(String::as_str).collect();
        assert_eq!(found, declared, "labels of {}", metric.name);
        for label in metric.labels {
            if let LabelValues::OneOf(words) = label.values {
                let value = &*sample[label.name];
                assert!(
                    words.contains(&value),
                    "{}: {}={value}",
                    metric.name,
                    label.name
                );
            }
        }
    }
}

#[tokio::test]
async fn the_series_of_an_actor_end_with_it() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    server.infer("affine", &floats("x", &[1.0])).await.ok();
    let owner = "actor=\"headroom/models/affine:1/owner\"";
    assert!(server.metrics().await.contains(owner));
    server.unload("affine").await.ok();
    wait_for_async(DEADLINE, || async {
        let metrics = server.metrics().await;
        (!metrics.contains(owner)).then_some(()).ok_or(metrics)
    })
    .await;
}

#[tokio::test]
async fn the_series_of_a_model_end_when_its_files_are_gone() {
    let models = Models::new();
    for name in ["gone", "stays"] {
        models.add(name, 1, torchscript::affine);
    }
    let server = Server::start(models.options(BINARY));
    let input = floats("x", &[1.0]);
    for name in ["gone", "stays"] {
        server.infer(name, &input).await.ok();
    }
    let has = |metrics: &str, name: &str| metrics.contains(&format!("name=\"{name}:1\""));
    let metrics = server.metrics().await;
    assert!(has(&metrics, "gone") && has(&metrics, "stays"), "{metrics}");
    std::fs::remove_dir_all(models.path().join("gone")).unwrap();
    // It serves until it is unloaded.
    let nothing = json!({});
    let unload = server.post_json("/v2/repository/models/gone/unload", &nothing);
    assert_eq!(unload.await.status, 200);
    wait_for_async(DEADLINE, || async {
        // Asking for the index lets the server look at the folder.
        server.index().await;
        let metrics = server.metrics().await;
        let is_gone = !has(&metrics, "gone") && has(&metrics, "stays");
        is_gone.then_some(()).ok_or(metrics)
    })
    .await;

    models.add("gone", 1, torchscript::affine);
    server.infer("gone", &input).await.ok();
    let loads = server.metric("headroom_lazy_loads_total", &["name=\"gone:1\""]);
    assert_eq!(loads.await, 1.0);
}

/// Whether the family has a sample for each word of each label, and any sample at all.
fn has_each_word(family: &Family, metric: &Metric) -> bool {
    let has_words = metric.labels.iter().all(|label| match label.values {
        // A pool has series if it is configured.
        LabelValues::OneOf(_) if label.name == "pool" => true,
        LabelValues::OneOf(words) => words.iter().all(|word| {
            let mut samples = family.samples.iter();
            samples.any(|sample| sample[label.name] == *word)
        }),
        LabelValues::Described(_) | LabelValues::Cut(_) => true,
    });
    has_words && !family.samples.is_empty()
}

/// An alert sees an increase only if the series was there before.
#[tokio::test]
async fn counters_start_at_zero() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let options = models.options(BINARY).settings(WITH_ALERTS);
    let server = Server::start(options.settings(WITH_CHAIN));
    let of_resource = |metric: &Metric| {
        let mut labels = metric.labels.iter();
        labels.any(|label| matches!(label.values, LabelValues::Cut(_)))
    };
    // The other values come from the settings, and some of those series begin with their first event.
    let has_known_labels = |metric: &Metric| {
        let mut labels = metric.labels.iter();
        labels.all(|label| matches!(label.values, LabelValues::OneOf(_)))
    };
    let counters = || {
        catalogue::all().filter(|metric| {
            metric.kind == MetricKind::Counter && !NOT_AT_ZERO.contains(&metric.name)
        })
    };
    let exported = families(&server.metrics().await);
    let early = counters().filter(|metric| !of_resource(metric));
    for metric in early.filter(|metric| metric.alert.is_some() || has_known_labels(metric)) {
        let family = exported.get(metric.name);
        let is_there = family.is_some_and(|family| has_each_word(family, metric));
        assert!(is_there, "{}: {family:?}", metric.name);
    }
    for name in ["headroom_jobs_running", "headroom_jobs_ended_total"] {
        let family = exported.get(name);
        for kind in ["preload", "optimize", "load-test"] {
            let is_there = family.is_some_and(|it| it.samples.iter().any(|it| it["kind"] == kind));
            assert!(is_there, "{name}, {kind}: {family:?}");
        }
    }

    server.infer("affine", &floats("x", &[1.0])).await.ok();
    let mut exported = families(&server.metrics().await);
    for metric in counters().filter(|metric| of_resource(metric)) {
        let mut family = exported.remove(metric.name).unwrap_or_default();
        family.samples.retain(|sample| sample["name"] == "affine:1");
        let is_there = has_each_word(&family, metric);
        assert!(is_there, "{}: {family:?}", metric.name);
    }
}

#[tokio::test]
async fn requests_are_counted_by_status_and_by_model() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    models.add("broken", 1, |path| std::fs::write(path, "no model"));
    let server = Server::start(models.options(BINARY));
    server.infer("affine", &floats("x", &[1.0])).await.ok();
    server
        .infer("affine", &floats("y", &[1.0]))
        .await
        .error(400);
    server
        .infer("broken", &floats("x", &[1.0]))
        .await
        .error(422);
    server
        .infer("nothing", &floats("x", &[1.0]))
        .await
        .error(404);
    let responses = "headroom_http_responses_total";
    for (status, count) in [
        ("200", 1.0),
        ("400", 1.0),
        ("404", 1.0),
        ("422", 1.0),
        ("503", 0.0),
    ] {
        let labels = ["class=\"work\"", &format!("status=\"{status}\"")];
        assert_eq!(server.metric(responses, &labels).await, count, "{status}");
    }
    let requests = "headroom_model_requests_total";
    for (model, outcome, count) in [
        ("affine", "2xx", 1.0),
        ("affine", "4xx", 1.0),
        ("affine", "5xx", 0.0),
        ("broken", "4xx", 1.0),
    ] {
        let labels = [
            &*format!("name=\"{model}:1\""),
            &format!("outcome=\"{outcome}\""),
        ];
        let counted = server.metric(requests, &labels).await;
        assert_eq!(counted, count, "{model} {outcome}");
    }
    let of_affine = ["name=\"affine:1\""];
    let latencies = "headroom_model_request_duration_seconds_count";
    assert_eq!(server.metric(latencies, &of_affine).await, 1.0);
    let queued = "headroom_model_queued_requests";
    assert_eq!(server.metric(queued, &of_affine).await, 0.0);
    assert_eq!(server.metric("headroom_ready", &[]).await, 1.0);
    assert!(!server.metrics().await.contains("name=\"nothing"));
}

/// What a client sends in vain, with a word that nothing else has.
async fn send_nonsense(server: &Server, word: &str) {
    let name = &format!("nonsense-{word}");
    let input = floats("x", &[1.0]);
    server.infer(name, &input).await.error(404);
    server
        .infer(&format!("affine/versions/{name}"), &input)
        .await;
    server.load(name).await;
    server.unload(name).await;
    for path in [
        "",
        "api/pools/",
        "api/jobs/",
        "api/performance/",
        "v2/models/",
    ] {
        server.get(&format!("/{path}{name}?{name}={name}")).await;
    }
    let names = json!({ "names": [name] });
    for path in ["lazy-loader/preload?wait=30", "optimize", "load-test"] {
        server
            .post_json(&format!("/api/performance/{path}"), &names)
            .await;
    }
    let method = name.to_uppercase().parse().unwrap();
    let request = server.client().request(method, server.url("/v2"));
    let request = request.header(name, name).header("user-agent", name);
    request.send().await.unwrap();
}

/// The values of labels that are not one of the words in their declarations, with their metric and their label. Series
/// differ only by these values and by those words, so without new values there is a bound for all series.
fn free_values(families: &BTreeMap<String, Family>) -> BTreeSet<[String; 3]> {
    let mut values = BTreeSet::new();
    for metric in catalogue::all() {
        let Some(family) = families.get(metric.name) else {
            continue;
        };
        check_labels(metric, family);
        for label in metric.labels {
            if !matches!(label.values, LabelValues::OneOf(_)) {
                let found = family.samples.iter().map(|it| it[label.name].clone());
                let name = |value| [metric.name.to_owned(), label.name.to_owned(), value];
                values.extend(found.map(name));
            }
        }
    }
    values
}

#[tokio::test]
async fn a_client_cannot_make_series() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    let values_after = async |words: std::ops::Range<u32>| {
        for word in words {
            send_nonsense(&server, &word.to_string()).await;
        }
        let metrics = server.metrics().await;
        assert!(!metrics.to_lowercase().contains("nonsense"), "{metrics}");
        let families = families(&metrics);
        for name in families.keys() {
            let is_declared = catalogue::all().any(|metric| metric.name == name);
            assert!(is_declared, "{name} is not declared");
        }
        free_values(&families)
    };
    let first = values_after(0..1).await;
    let later = values_after(1..20).await;
    let new: Vec<_> = later.difference(&first).collect();
    assert!(new.is_empty(), "{new:?}");
}
