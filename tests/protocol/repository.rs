//! The model repository extension, and models that are added or changed while the server runs.

use std::fs;

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{Answer, floats};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{self, Script};
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::{Value, json};

use crate::BINARY;

/// Adds a model that adds `number` to its input.
pub(crate) fn add_adder(models: &Models, name: &str, number: u32) {
    let code = format!("def forward(self, x: Tensor) -> Tensor:\n  return x + {number}\n");
    models.add(name, 1, |path| Script::new(&code).write(path));
}

pub(crate) async fn answer(server: &Server, model: &str) -> f64 {
    server.infer(model, &floats("x", &[0.0])).await.number()
}

/// The model "m" that adds 1 to its input, and a server that has loaded it.
pub(crate) async fn serve_adder() -> (Models, Server) {
    let models = Models::new();
    add_adder(&models, "m", 1);
    let server = Server::start(models.options(BINARY));
    assert_eq!(answer(&server, "m").await, 1.0);
    (models, server)
}

/// Waits until the loader has no resource of this name.
pub(crate) async fn wait_until_unloaded(server: &Server, resource: &str) {
    wait_for_async(DEADLINE, || async {
        let path = "/api/performance/lazy-loader/status";
        let status = server.get_json(path).await.ok();
        let resources = status["resources"].as_array().unwrap();
        let left = resources.iter().any(|it| it["name"] == resource);
        if left { Err(status) } else { Ok(()) }
    })
    .await;
}

/// The index's entry for version 1 of a model.
pub(crate) async fn entry(server: &Server, model: &str) -> Value {
    let index = server.index().await;
    let found = index.into_iter().find(|entry| entry["name"] == model);
    let mut entry = found.unwrap();
    assert_eq!(entry["version"].take(), "1");
    assert!(entry["reason"].is_string());
    entry
}

#[tokio::test]
async fn the_index_lists_every_version_and_its_state() {
    let models = Models::new();
    for version in [1, 2] {
        models.add("affine", version, torchscript::affine);
    }
    models.add("echo", 1, torchscript::echo);
    let server = Server::start(models.options(BINARY));
    let cold = |name: &str, version: &str| {
        json!({
            "name": name,
            "version": version,
            "state": "UNAVAILABLE",
            "reason": "not loaded; its first request loads it",
        })
    };
    assert_eq!(
        server.index().await,
        [cold("affine", "1"), cold("affine", "2"), cold("echo", "1")]
    );
    server.load("affine").await.ok();
    let ready = json!({ "name": "affine", "version": "2", "state": "READY", "reason": "" });
    assert_eq!(
        server.index().await,
        [cold("affine", "1"), ready.clone(), cold("echo", "1")]
    );
    let filter = json!({ "ready": true });
    let only_ready = server.post_json("/v2/repository/index", &filter).await;
    assert_eq!(only_ready.ok(), json!([ready]));
    let without_body = server.client().post(server.url("/v2/repository/index"));
    let all = Answer::to(without_body).await.ok();
    assert_eq!(all.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn an_unloaded_model_is_loaded_again_by_the_next_request() {
    let models = Models::new();
    add_adder(&models, "m", 1);
    let server = Server::start(models.options(BINARY));
    for _ in 0..3 {
        assert_eq!(server.load("m").await.ok(), Value::Null);
        assert_eq!(entry(&server, "m").await["state"], "READY");
        assert_eq!(answer(&server, "m").await, 1.0);
        assert_eq!(server.unload("m").await.ok(), Value::Null);
        assert_eq!(entry(&server, "m").await["state"], "UNAVAILABLE");
        assert!(server.actor("headroom/models/m:1").await.is_null());
    }
    // Unloading a model that is not loaded succeeds.
    server.unload("m").await.ok();
    assert_eq!(answer(&server, "m").await, 1.0);
    let loads = server.metric("headroom_lazy_loads_total", &["name=\"m:1\""]);
    assert_eq!(loads.await, 4.0);
}

#[tokio::test]
async fn a_changed_file_takes_effect_with_the_next_load() {
    let (models, server) = serve_adder().await;
    add_adder(&models, "m", 20);
    server.load("m").await.ok();
    assert_eq!(answer(&server, "m").await, 20.0);
    // Reading the index before the load does not hide the change.
    add_adder(&models, "m", 300);
    server.index().await;
    assert_eq!(answer(&server, "m").await, 20.0);
    server.load("m").await.ok();
    assert_eq!(answer(&server, "m").await, 300.0);
    // A load of an unchanged model does nothing.
    let loads = ["name=\"m:1\""];
    let before = server.metric("headroom_lazy_loads_total", &loads).await;
    server.load("m").await.ok();
    assert_eq!(
        server.metric("headroom_lazy_loads_total", &loads).await,
        before
    );
}

#[tokio::test]
async fn changed_settings_take_effect_with_the_next_load() {
    let (models, server) = serve_adder().await;
    models.settings("m", 1, "instances = 2");
    server.load("m").await.ok();
    assert_eq!(answer(&server, "m").await, 1.0);
    // The files that were loaded before had the name, until they were unloaded.
    assert!(!server.actor("headroom/models/m:1+1/host-1").await.is_null());
    wait_until_unloaded(&server, "m:1 (old)").await;
    models.settings("m", 1, "instances = 1");
    server.load("m").await.ok();
    assert_eq!(answer(&server, "m").await, 1.0);
    assert!(!server.actor("headroom/models/m:1/host-0").await.is_null());
    assert!(server.actor("headroom/models/m:1/host-1").await.is_null());
}

#[tokio::test]
async fn a_model_added_while_the_server_runs_is_found_by_its_first_request() {
    let models = Models::new();
    let server = Server::start(models.options(BINARY));
    server.infer("late", &floats("x", &[0.0])).await.error(404);
    add_adder(&models, "late", 5);
    assert_eq!(answer(&server, "late").await, 5.0);
    add_adder(&models, "later", 6);
    assert_eq!(entry(&server, "later").await["state"], "UNAVAILABLE");
    add_adder(&models, "last", 7);
    server.load("last").await.ok();
    assert_eq!(entry(&server, "last").await["state"], "READY");
}

#[tokio::test]
async fn a_removed_model_is_gone_once_it_is_unloaded() {
    let (models, server) = serve_adder().await;
    fs::remove_dir_all(models.path().join("m")).unwrap();
    server.unload("m").await.ok();
    server.infer("m", &floats("x", &[0.0])).await.error(404);
    assert_eq!(server.index().await, Vec::<Value>::new());
}

#[tokio::test]
async fn invalid_settings_are_reported_and_can_be_corrected() {
    let models = Models::new();
    add_adder(&models, "m", 1);
    models.settings("m", 1, "instances = 0");
    let server = Server::start(models.options(BINARY));
    let reason = "model.toml: instances: must be from 1 to 64";
    let before = entry(&server, "m").await;
    assert_eq!(before["state"], "UNAVAILABLE");
    assert_eq!(before["reason"], reason);
    for _ in 0..2 {
        let error = server.infer("m", &floats("x", &[0.0])).await.error(422);
        assert!(error.contains(reason), "{error}");
        let error = server.load("m").await.error(422);
        assert!(error.contains(reason), "{error}");
    }
    models.settings("m", 1, "instances = 1");
    server.load("m").await.ok();
    assert_eq!(answer(&server, "m").await, 1.0);
    assert_eq!(entry(&server, "m").await["reason"], "");
}

#[tokio::test]
async fn an_invalid_file_is_reported_and_can_be_replaced() {
    let models = Models::new();
    models.add("m", 1, |path| fs::write(path, "no model"));
    let server = Server::start(models.options(BINARY));
    let error = server.load("m").await.error(422);
    assert!(error.contains("cannot be loaded"), "{error}");
    let broken = entry(&server, "m").await;
    assert_eq!(broken["state"], "UNAVAILABLE");
    assert_ne!(broken["reason"], "");
    add_adder(&models, "m", 1);
    server.load("m").await.ok();
    assert_eq!(answer(&server, "m").await, 1.0);
}
