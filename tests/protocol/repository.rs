//! The model repository extension, and models that come and change while the server runs.

use std::fs;

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{Answer, floats};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{self, Script};
use serde_json::{Value, json};

use crate::BINARY;

fn adds(models: &Models, name: &str, number: u32) {
    let code = format!("def forward(self, x: Tensor) -> Tensor:\n  return x + {number}\n");
    models.add(name, 1, |path| Script::new(&code).write(path));
}

async fn answer(server: &Server, model: &str) -> f64 {
    server
        .infer(model, &floats("x", &[0.0]))
        .await
        .numbers("output")[0]
}

/// The index's entry for version 1 of a model.
async fn entry(server: &Server, model: &str) -> Value {
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
    server.repository("affine", "load").await.ok();
    let ready = json!({ "name": "affine", "version": "2", "state": "READY", "reason": "" });
    assert_eq!(
        server.index().await,
        [cold("affine", "1"), ready.clone(), cold("echo", "1")]
    );
    let wanted = json!({ "ready": true });
    let only_ready = server.post("/v2/repository/index", &wanted);
    assert_eq!(Answer::of(only_ready.await).await.ok(), json!([ready]));
    let nothing_sent = server.client().post(server.url("/v2/repository/index"));
    let all = Answer::of(nothing_sent.send().await.unwrap()).await.ok();
    assert_eq!(all.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn what_is_loaded_can_be_unloaded_and_comes_back_when_asked_for() {
    let models = Models::new();
    adds(&models, "m", 1);
    let server = Server::start(models.options(BINARY));
    for _ in 0..3 {
        assert_eq!(server.repository("m", "load").await.ok(), Value::Null);
        assert_eq!(entry(&server, "m").await["state"], "READY");
        assert_eq!(answer(&server, "m").await, 1.0);
        assert_eq!(server.repository("m", "unload").await.ok(), Value::Null);
        assert_eq!(entry(&server, "m").await["state"], "UNAVAILABLE");
        assert!(server.actor("headroom/models/m:1").await.is_null());
    }
    // Unloading what is not loaded is no mistake.
    server.repository("m", "unload").await.ok();
    assert_eq!(answer(&server, "m").await, 1.0);
    let loads = server.metric("headroom_lazy_loads_total", &["name=\"m:1\""]);
    assert_eq!(loads.await, 4.0);
}

#[tokio::test]
async fn a_changed_file_takes_effect_with_the_next_load() {
    let models = Models::new();
    adds(&models, "m", 1);
    let server = Server::start(models.options(BINARY));
    assert_eq!(answer(&server, "m").await, 1.0);
    adds(&models, "m", 20);
    server.repository("m", "load").await.ok();
    assert_eq!(answer(&server, "m").await, 20.0);
    // Whoever looks at the index first does not swallow the change.
    adds(&models, "m", 300);
    server.index().await;
    assert_eq!(answer(&server, "m").await, 20.0);
    server.repository("m", "load").await.ok();
    assert_eq!(answer(&server, "m").await, 300.0);
    // A load without a change leaves all as it is.
    let loads = ["name=\"m:1\""];
    let before = server.metric("headroom_lazy_loads_total", &loads).await;
    server.repository("m", "load").await.ok();
    assert_eq!(
        server.metric("headroom_lazy_loads_total", &loads).await,
        before
    );
}

#[tokio::test]
async fn changed_settings_take_effect_with_the_next_load() {
    let models = Models::new();
    adds(&models, "m", 1);
    let server = Server::start(models.options(BINARY));
    assert_eq!(answer(&server, "m").await, 1.0);
    models.settings("m", 1, "instances = 2");
    server.repository("m", "load").await.ok();
    assert_eq!(answer(&server, "m").await, 1.0);
    assert!(!server.actor("headroom/models/m:1/host-1").await.is_null());
    models.settings("m", 1, "instances = 1");
    server.repository("m", "load").await.ok();
    assert_eq!(answer(&server, "m").await, 1.0);
    assert!(server.actor("headroom/models/m:1/host-1").await.is_null());
}

#[tokio::test]
async fn a_model_put_in_while_the_server_runs_is_found_by_its_first_request() {
    let models = Models::new();
    let server = Server::start(models.options(BINARY));
    server.infer("late", &floats("x", &[0.0])).await.error(404);
    adds(&models, "late", 5);
    assert_eq!(answer(&server, "late").await, 5.0);
    adds(&models, "later", 6);
    assert_eq!(entry(&server, "later").await["state"], "UNAVAILABLE");
    adds(&models, "last", 7);
    server.repository("last", "load").await.ok();
    assert_eq!(entry(&server, "last").await["state"], "READY");
}

#[tokio::test]
async fn a_model_taken_out_is_gone_once_it_is_unloaded() {
    let models = Models::new();
    adds(&models, "m", 1);
    let server = Server::start(models.options(BINARY));
    assert_eq!(answer(&server, "m").await, 1.0);
    fs::remove_dir_all(models.path().join("m")).unwrap();
    server.repository("m", "unload").await.ok();
    server.infer("m", &floats("x", &[0.0])).await.error(404);
    assert_eq!(server.index().await, Vec::<Value>::new());
}

#[tokio::test]
async fn wrong_settings_are_told_and_can_be_mended() {
    let models = Models::new();
    adds(&models, "m", 1);
    models.settings("m", 1, "instances = 0");
    let server = Server::start(models.options(BINARY));
    let why = "model.toml: instances: must be from 1 to 64";
    let entry_before = entry(&server, "m").await;
    assert_eq!(entry_before["state"], "UNAVAILABLE");
    assert_eq!(entry_before["reason"], why);
    for _ in 0..2 {
        let error = server.infer("m", &floats("x", &[0.0])).await.error(422);
        assert!(error.contains(why), "{error}");
        let error = server.repository("m", "load").await.error(422);
        assert!(error.contains(why), "{error}");
    }
    models.settings("m", 1, "instances = 1");
    server.repository("m", "load").await.ok();
    assert_eq!(answer(&server, "m").await, 1.0);
    assert_eq!(entry(&server, "m").await["reason"], "");
}

#[tokio::test]
async fn a_broken_file_is_told_and_can_be_mended() {
    let models = Models::new();
    models.add("m", 1, |path| fs::write(path, "no model"));
    let server = Server::start(models.options(BINARY));
    let error = server.repository("m", "load").await.error(422);
    assert!(error.contains("cannot be loaded"), "{error}");
    let broken = entry(&server, "m").await;
    assert_eq!(broken["state"], "UNAVAILABLE");
    assert_ne!(broken["reason"], "");
    adds(&models, "m", 1);
    server.repository("m", "load").await.ok();
    assert_eq!(answer(&server, "m").await, 1.0);
}
