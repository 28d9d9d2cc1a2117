//! Every family that the server exports is declared, and almost every declared one is exported.

use std::collections::BTreeSet;

use headroom::prometheus::catalogue;
use headroom_actors::kernel::{LabelValues, Metric};
use headroom_test_support::models::Models;
use headroom_test_support::protocol::floats;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::json;

use crate::BINARY;
use crate::exposition::{Family, families, names};

/// What this test does not bring about. It takes replicas, a webhook, a cache, a process that fails, or a source that is
/// not everywhere.
const NOT_CAUSED: [&str; 18] = [
    "headroom_http_client_errors_total",
    "headroom_lazy_deaths_total",
    "headroom_memory_alerts_total",
    "headroom_memory_group_bytes",
    "headroom_memory_kernel_kills_total",
    "headroom_memory_refusals_total",
    "headroom_memory_stall_ratio",
    "headroom_memory_stalls_total",
    "headroom_model_leaks_total",
    "headroom_model_oom_kills_total",
    "headroom_model_past_estimate_total",
    "headroom_model_recycles_total",
    "headroom_postgres_reads_total",
    "headroom_postgres_retries_total",
    "headroom_redis_cache_failures_total",
    "headroom_redis_cache_hits_total",
    "headroom_redis_cache_misses_total",
    "process_max_fds",
];

/// Starts a server and uses all of its parts.
async fn used_server(models: &Models) -> Server {
    models.add("affine", 1, torchscript::affine);
    models.add("broken", 1, |path| std::fs::write(path, "no model"));
    // The first model raises the level.
    let settings = "memory.limit = '4GiB'\nmemory.hysteresis = 0.001\nmemory.sample_interval = '50ms'\n\
                    memory.levels = { elevated = 0.005, high = 0.8, critical = 0.9, exhausted = 0.95 }";
    let server = Server::start(models.options(BINARY).settings(settings));
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
    server.unload("affine").await.ok();
    server.get("/nothing").await;
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
