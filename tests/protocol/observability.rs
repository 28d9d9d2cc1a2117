//! Loaded models in the supervision tree and in the metrics.

use headroom_test_support::models::Models;
use headroom_test_support::protocol::floats;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use serde_json::Value;

use crate::BINARY;

#[tokio::test]
async fn the_tree_shows_every_actor_with_its_state() {
    let models = Models::new();
    models
        .add("affine", 1, torchscript::affine)
        .settings("affine", 1, "instances = 2");
    let server = Server::start(models.options(BINARY));
    for path in ["memory", "models", "lazy-loader", "repository"] {
        let actor = server.actor(&format!("headroom/{path}")).await;
        assert_eq!(actor["state"], "running", "{path}: {actor}");
    }
    assert!(server.actor("headroom/models/zygote").await.is_null());
    server.infer("affine", &floats("x", &[1.0])).await.ok();
    for path in [
        "zygote",
        "affine:1",
        "affine:1/host-0",
        "affine:1/host-1",
        "affine:1/owner",
    ] {
        let actor = server.actor(&format!("headroom/models/{path}")).await;
        assert_eq!(actor["state"], "running", "{path}: {actor}");
        assert_eq!(actor["restarts"], 0, "{path}: {actor}");
    }
    // Hosts are child processes of the zygote.
    let pid_of = |actor: &Value| actor["observed"]["pid"].as_i64().unwrap();
    let zygote = pid_of(&server.actor("headroom/models/zygote").await);
    for host in ["host-0", "host-1"] {
        let pid = pid_of(
            &server
                .actor(&format!("headroom/models/affine:1/{host}"))
                .await,
        );
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains(&format!("PPid:\t{zygote}\n")), "{status}");
    }
}

#[tokio::test]
async fn the_metrics_count_loads_actors_and_memory() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    for _ in 0..3 {
        server.infer("affine", &floats("x", &[1.0])).await.ok();
    }
    let model = "name=\"affine:1\"";
    let owner = "actor=\"headroom/models/affine:1/owner\"";
    for (name, labels, expected) in [
        ("headroom_lazy_loads_total", &[model][..], 1.0),
        ("headroom_lazy_misses_total", &[model], 1.0),
        ("headroom_lazy_hits_total", &[model], 2.0),
        ("headroom_lazy_load_duration_seconds_count", &[model], 1.0),
        ("headroom_lazy_resources", &["phase=\"ready\""], 2.0),
        ("headroom_actor_up", &[owner], 1.0),
        ("headroom_actor_restarts_total", &[owner], 0.0),
        (
            "headroom_actor_messages_total",
            &[owner, "outcome=\"handled\""],
            3.0,
        ),
        ("headroom_http_requests_total", &["outcome=\"2xx\""], 3.0),
        ("headroom_memory_level", &[], 0.0),
    ] {
        let value = server.metric(name, labels).await;
        assert_eq!(value, expected, "{name} {labels:?}");
    }
    for name in [
        "headroom_memory_budget_bytes",
        "headroom_memory_usage_bytes",
        "headroom_memory_free_bytes",
        "headroom_memory_reserved_bytes",
    ] {
        assert!(server.metric(name, &[]).await > 1e6, "{name}");
    }
}

#[tokio::test]
async fn a_load_an_unload_and_a_failed_load_are_one_line_each() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    models.add("broken", 1, |path| std::fs::write(path, "no model"));
    let server = Server::start(models.options(BINARY));
    let input = floats("x", &[1.0]);
    server.infer("affine", &input).await.ok();
    server.unload("affine").await.ok();
    server.infer("broken", &input).await.error(422);
    let log = server.wait_for_log("request answered");

    let lines = |name: &str| {
        let lines = log.lines().filter(|line| line.contains(name));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let affine = lines("affine:1");
    assert_eq!(affine.len(), 2, "{affine:#?}");
    for (line, words) in affine.iter().zip(["resource loaded", "resource unloaded"]) {
        for part in [words, "INFO", "bytes=", "seconds="] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    let broken = lines("broken:1");
    let failed = broken
        .iter()
        .filter(|line| !line.contains("request answered"));
    let failed: Vec<_> = failed.collect();
    assert_eq!(failed.len(), 1, "{broken:#?}");
    assert!(failed[0].contains("load failed"), "{failed:?}");
}

#[tokio::test]
async fn a_line_about_a_request_names_the_model_and_the_client() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    server
        .infer("affine", &floats("y", &[1.0]))
        .await
        .error(400);
    server
        .infer("nothing", &floats("x", &[1.0]))
        .await
        .error(404);
    server.get("/nowhere").await;
    let log = server.wait_for_log("unmatched");
    let mut lines = log.lines().filter(|line| line.contains("request answered"));
    for model in [Some("affine"), Some("nothing"), None] {
        let line = lines.next().unwrap();
        assert!(line.contains("peer=127.0.0.1:"), "{line}");
        let named = model.map_or("model=".to_owned(), |name| format!("model=\"{name}\""));
        assert_eq!(line.contains(&named), model.is_some(), "{line}");
    }
}
