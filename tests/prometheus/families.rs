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
use crate::exposition::{Family, families, names, series};

/// What these tests do not bring about, because it takes a control group, replicas, a cache in use, a listener in Rust, or
/// a model that grows. Unit tests compare what is recorded with the declarations (`Counters` in the kernel's test kit).
const NOT_CAUSED: [&str; 24] = [
    "headroom_chain_cache_bytes",
    "headroom_chain_head",
    "headroom_chain_provider_head",
    "headroom_chain_provider_usable",
    "headroom_memory_group_bytes",
    "headroom_memory_kernel_kills_total",
    "headroom_memory_refusals_total",
    "headroom_memory_stall_ratio",
    "headroom_memory_stalls_total",
    "headroom_model_past_estimate_total",
    "headroom_model_recycles_total",
    "headroom_postgres_lost_connections_total",
    "headroom_postgres_notifications_dropped_total",
    "headroom_postgres_prepared_again_total",
    "headroom_postgres_reads_total",
    "headroom_postgres_retries_total",
    "headroom_redis_cache_failures_total",
    "headroom_redis_cache_hits_total",
    "headroom_redis_cache_misses_total",
    "headroom_scan_connections",
    "headroom_scan_seconds",
    "headroom_scan_wait_seconds",
    "headroom_scanner_up",
    // Absent without a limit.
    "process_max_fds",
];

/// Counters that have no first event to miss: the first comes from the kernel, the second is about a share.
const NOT_AT_ZERO: [&str; 2] = [
    "headroom_memory_kernel_kills_total",
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

/// An alert sees an increase only if the series was there before.
#[tokio::test]
async fn counters_to_alert_on_start_at_zero() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let options = models.options(BINARY).settings(WITH_ALERTS);
    let server = Server::start(options.settings(WITH_CHAIN));
    let of_resource = |metric: &Metric| {
        let mut labels = metric.labels.iter();
        labels.any(|label| matches!(label.values, LabelValues::Cut(_)))
    };
    let counters = || {
        catalogue::all().filter(|metric| {
            metric.alert.is_some()
                && metric.kind == MetricKind::Counter
                && !NOT_AT_ZERO.contains(&metric.name)
        })
    };
    let has_each_word = |family: &Family, metric: &Metric| {
        let mut labels = metric.labels.iter();
        labels.all(|label| match label.values {
            LabelValues::OneOf(words) => words.iter().all(|word| {
                let mut samples = family.samples.iter();
                samples.any(|sample| sample[label.name] == *word)
            }),
            LabelValues::Described(_) | LabelValues::Cut(_) => !family.samples.is_empty(),
        })
    };
    let exported = families(&server.metrics().await);
    for metric in counters().filter(|metric| !of_resource(metric)) {
        let family = exported.get(metric.name);
        let is_there = family.is_some_and(|family| has_each_word(family, metric));
        assert!(is_there, "{}: {family:?}", metric.name);
    }
    let kinds = &exported["headroom_jobs_ended_total"].samples;
    for kind in ["preload", "optimize", "load-test"] {
        assert!(kinds.iter().any(|it| it["kind"] == kind), "{kinds:?}");
    }

    server.infer("affine", &floats("x", &[1.0])).await.ok();
    let exported = families(&server.metrics().await);
    let is_model = |sample: &&BTreeMap<String, String>| sample["name"] == "affine:1";
    for metric in counters().filter(|metric| of_resource(metric)) {
        let samples = exported.get(metric.name).map(|family| &family.samples);
        let mut samples = samples.into_iter().flatten();
        assert!(samples.any(|it| is_model(&it)), "{}", metric.name);
    }
    let evictions = exported.get("headroom_lazy_evictions_total");
    let evictions = evictions.map(|family| family.samples.iter());
    let evictions = evictions.into_iter().flatten().filter(is_model);
    let reasons = evictions.map(|it| it["reason"].clone());
    let reasons: BTreeSet<_> = reasons.collect();
    assert_eq!(reasons, ["pressure", "room"].map(str::to_owned).into());
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

#[tokio::test]
async fn a_client_cannot_make_series() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    let series_after = async |words: std::ops::Range<u32>| {
        for word in words {
            send_nonsense(&server, &word.to_string()).await;
        }
        let metrics = server.metrics().await;
        assert!(!metrics.to_lowercase().contains("nonsense"), "{metrics}");
        let mut families = families(&metrics);
        // Readings and clean-ups go on meanwhile.
        families.retain(|name, _| !name.starts_with("headroom_memory_"));
        series(&families)
    };
    let first = series_after(0..1).await;
    assert_eq!(series_after(1..20).await, first);
}
