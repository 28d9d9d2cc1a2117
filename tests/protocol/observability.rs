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
