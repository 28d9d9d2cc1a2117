//! Reloads, new versions and looks at the folder take nothing away that serves.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use futures_util::future::join_all;
use headroom_test_support::models::Models;
use headroom_test_support::protocol::{Answer, floats};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{self, Script};
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::{Value, json};

use crate::BINARY;
use crate::repository::{add_adder, answer, entry, serve_adder, wait_until_unloaded};

/// Adds version `version` of the model "m", which adds its version to its input.
fn add_version(models: &Models, version: u64) {
    let code = format!("def forward(self, x: Tensor) -> Tensor:\n  return x + {version}\n");
    models.add("m", version, |path| Script::new(&code).write(path));
}

fn garbage(path: &Path) -> io::Result<()> {
    fs::write(path, "half of a file")
}

fn write_policy(models: &Models, text: &str) {
    fs::write(models.path().join("m/model.toml"), text).unwrap();
}

/// The index's entry for a version of the model "m".
async fn version_entry(server: &Server, version: &str) -> Value {
    let index = server.index().await;
    let found = index.iter().find(|entry| entry["version"] == version);
    found.unwrap_or_else(|| panic!("{index:?}")).clone()
}

async fn loads(server: &Server) -> f64 {
    server
        .metric("headroom_lazy_loads_total", &["name=\"m:1\""])
        .await
}

#[tokio::test]
async fn a_version_that_cannot_be_loaded_takes_nothing_away() {
    let models = Models::new();
    add_version(&models, 1);
    let server = Server::start(models.options(BINARY));
    assert_eq!(answer(&server, "m").await, 1.0);
    models.add("m", 2, garbage);
    assert_eq!(version_entry(&server, "2").await["state"], "UNAVAILABLE");
    assert_eq!(answer(&server, "m").await, 1.0);
    server.load("m").await.error(422);
    server
        .infer("m/versions/2", &floats("x", &[0.0]))
        .await
        .error(422);
    assert_eq!(answer(&server, "m").await, 1.0);
    server.get_json("/v2/models/m/ready").await.ok();
    let reason = version_entry(&server, "2").await["reason"].take();
    assert!(reason.as_str().unwrap().contains("zip"), "{reason}");
    assert_eq!(loads(&server).await, 1.0);
    // A repaired version serves once it is loaded by a request to load the model.
    add_version(&models, 2);
    server.index().await;
    assert_eq!(answer(&server, "m").await, 1.0);
    server.load("m").await.ok();
    assert_eq!(answer(&server, "m").await, 2.0);
    assert_eq!(answer(&server, "m/versions/1").await, 1.0);
}

#[tokio::test]
async fn a_request_that_names_a_version_moves_nobody_else() {
    let models = Models::new();
    add_version(&models, 1);
    let server = Server::start(models.options(BINARY));
    server.index().await;
    add_version(&models, 2);
    assert_eq!(answer(&server, "m/versions/2").await, 2.0);
    assert_eq!(answer(&server, "m").await, 1.0);
    server.unload("m").await.ok();
    assert_eq!(answer(&server, "m").await, 1.0);
}

#[tokio::test]
async fn after_a_start_the_highest_version_that_can_be_loaded_serves() {
    let models = Models::new();
    add_version(&models, 1);
    models.add("m", 2, garbage);
    add_version(&models, 3);
    models.settings("m", 3, "instances = 0");
    let server = Server::start(models.options(BINARY));
    for _ in 0..2 {
        assert_eq!(answer(&server, "m").await, 1.0);
    }
    for version in ["2", "3"] {
        let named = format!("m/versions/{version}");
        server.infer(&named, &floats("x", &[0.0])).await.error(422);
    }
}

#[tokio::test]
async fn files_that_cannot_be_loaded_do_not_replace_loaded_ones() {
    let (models, server) = serve_adder().await;
    models.add("m", 1, garbage);
    let error = server.load("m").await.error(422);
    assert!(error.contains("the earlier files serve on"), "{error}");
    assert_eq!(answer(&server, "m").await, 1.0);
    let garbage_told = entry(&server, "m").await;
    assert_eq!(garbage_told["state"], "READY");
    let reason = garbage_told["reason"].as_str().unwrap();
    assert!(reason.contains("cannot be loaded"), "{reason}");
    // Settings alike.
    add_adder(&models, "m", 2);
    models.settings("m", 1, "instances = 0");
    let error = server.load("m").await.error(422);
    assert!(error.contains("instances"), "{error}");
    assert_eq!(answer(&server, "m").await, 1.0);
    server.get_json("/v2/models/m/ready").await.ok();
    models.settings("m", 1, "");
    let changed = entry(&server, "m").await;
    assert_eq!(changed["state"], "READY");
    assert_eq!(
        changed["reason"],
        "its files have changed: load it to use them"
    );
    assert_eq!(answer(&server, "m").await, 1.0);
    server.load("m").await.ok();
    assert_eq!(answer(&server, "m").await, 2.0);
    assert_eq!(entry(&server, "m").await["reason"], "");
}

#[tokio::test]
async fn no_request_fails_while_a_model_is_reloaded() {
    let (models, server) = serve_adder().await;
    let callers = (0..4).map(|_| async {
        let mut seen = vec![1.0];
        let end = Instant::now() + DEADLINE;
        while *seen.last().unwrap() < 4.0 && Instant::now() < end {
            let number = answer(&server, "m").await;
            if *seen.last().unwrap() != number {
                seen.push(number);
            }
        }
        seen
    });
    let reloads = async {
        for number in 2..=4 {
            add_adder(&models, "m", number);
            server.load("m").await.ok();
            wait_until_unloaded(&server, "m:1 (old)").await;
        }
    };
    let (seen, ()) = tokio::join!(join_all(callers), reloads);
    for numbers in seen {
        assert!(numbers.is_sorted(), "{numbers:?}");
        assert_eq!(numbers.last(), Some(&4.0));
    }
}

#[tokio::test]
async fn a_reload_ends_sequences_and_frees_the_memory_of_the_earlier_files() {
    let models = Models::new();
    models.add("m", 1, torchscript::counter);
    let server = Server::start(models.options(BINARY));
    let mut step = floats("x", &[0.0]);
    step["parameters"] = json!({ "sequence_id": 7, "sequence_start": true });
    server.infer("m", &step).await.ok();
    models.settings("m", 1, "stateful = true");
    server.load("m").await.ok();
    wait_until_unloaded(&server, "m:1 (old)").await;
    step["parameters"] = json!({ "sequence_id": 7 });
    let error = server.infer("m", &step).await.error(400);
    assert!(error.contains("sequence"), "{error}");
    assert_eq!(answer(&server, "m").await, 1.0);
}

#[tokio::test]
async fn removed_files_serve_while_they_are_loaded() {
    let (models, server) = serve_adder().await;
    fs::remove_dir_all(models.path().join("m")).unwrap();
    let removed = entry(&server, "m").await;
    assert_eq!(removed["state"], "READY");
    assert_eq!(removed["reason"], "its files have been removed");
    assert_eq!(answer(&server, "m").await, 1.0);
    server.load("m").await.error(404);
    assert_eq!(answer(&server, "m").await, 1.0);
}

#[tokio::test]
async fn the_version_policy_of_a_model_names_its_default_version() {
    let models = Models::new();
    for version in [1, 2] {
        add_version(&models, version);
    }
    write_policy(&models, "version_policy = { specific = 1 }");
    let server = Server::start(models.options(BINARY));
    assert_eq!(answer(&server, "m").await, 1.0);
    server.load("m").await.ok();
    assert_eq!(answer(&server, "m").await, 1.0);
    assert_eq!(answer(&server, "m/versions/2").await, 2.0);
    write_policy(&models, "version_policy = \"latest\"");
    server.load("m").await.ok();
    assert_eq!(answer(&server, "m").await, 2.0);
    // A typo changes nothing.
    write_policy(&models, "version_policy = \"newest\"");
    let error = server.load("m").await.error(422);
    assert!(error.contains("newest"), "{error}");
    assert_eq!(answer(&server, "m").await, 2.0);
    write_policy(&models, "version_policy = { specific = 7 }");
    server.index().await;
    assert_eq!(answer(&server, "m").await, 2.0);
    let error = server.load("m").await.error(404);
    assert!(error.contains("version 7"), "{error}");
    assert_eq!(answer(&server, "m").await, 2.0);
    models.add("m", 7, garbage);
    server.load("m").await.error(422);
    assert_eq!(answer(&server, "m").await, 2.0);
    server.unload("m").await.ok();
    let listed = server.index().await;
    assert!(
        listed.iter().all(|it| it["state"] == "UNAVAILABLE"),
        "{listed:?}"
    );
}

#[tokio::test]
async fn a_policy_that_cannot_be_followed_at_the_start_is_told_to_callers() {
    for (policy, status, word) in [
        ("version_policy = { specific = 3 }", 404, "version 3"),
        ("version_policy = 3", 422, "version_policy"),
    ] {
        let models = Models::new();
        add_version(&models, 1);
        write_policy(&models, policy);
        let server = Server::start(models.options(BINARY));
        let error = server.infer("m", &floats("x", &[0.0])).await.error(status);
        assert!(error.contains(word), "{error}");
        assert_eq!(answer(&server, "m/versions/1").await, 1.0);
    }
}

#[tokio::test]
async fn a_crashed_process_is_replaced_by_one_with_the_files_that_were_loaded() {
    let (models, server) = serve_adder().await;
    for change in [
        |models: &Models| add_adder(models, "m", 2),
        |models: &Models| {
            models.add("m", 1, garbage);
        },
        |models: &Models| fs::remove_dir_all(models.path().join("m")).unwrap(),
    ] {
        change(&models);
        server.host("m").unwrap().kill();
        assert_eq!(answer(&server, "m").await, 1.0);
    }
    assert_eq!(loads(&server).await, 1.0);
}

#[tokio::test]
async fn what_serves_survives_two_changes_that_cannot_be_loaded() {
    let models = Models::new();
    add_version(&models, 1);
    add_version(&models, 2);
    let server = Server::start(models.options(BINARY));
    assert_eq!(answer(&server, "m").await, 2.0);
    for settings in ["instances = 0", "instances = 65"] {
        models.settings("m", 2, settings);
        server.load("m").await.error(422);
        server.index().await;
        assert_eq!(answer(&server, "m").await, 2.0);
    }
    models.settings("m", 2, "");
    server.load("m").await.ok();
    assert_eq!(answer(&server, "m").await, 2.0);
}

#[tokio::test]
async fn files_that_change_while_they_are_not_loaded_are_read_by_the_next_request() {
    let models = Models::new();
    add_adder(&models, "m", 1);
    let server = Server::start(models.options(BINARY));
    server.index().await;
    models.settings("m", 1, "instances = 2");
    assert_eq!(answer(&server, "m").await, 1.0);
    assert!(!server.actor("headroom/models/m:1/host-1").await.is_null());
}

#[tokio::test]
async fn a_model_that_is_known_to_be_invalid_is_not_ready() {
    let models = Models::new();
    models.add("m", 1, |path| fs::write(path, ""));
    let server = Server::start(models.options(BINARY));
    server.get_json("/v2/models/m/ready").await.ok();
    server.infer("m", &floats("x", &[0.0])).await.error(422);
    // This forgets the failed load, not what it has shown.
    server.unload("m").await.ok();
    let error = server.get_json("/v2/models/m/ready").await.error(503);
    assert!(error.contains("empty"), "{error}");
    let reason = entry(&server, "m").await["reason"].take();
    assert!(reason.as_str().unwrap().contains("empty"), "{reason}");
    add_adder(&models, "m", 1);
    server.index().await;
    server.get_json("/v2/models/m/ready").await.ok();
}

#[tokio::test]
async fn what_is_not_used_as_a_model_is_told_in_the_index_and_once_in_the_log() {
    let models = Models::new();
    add_adder(&models, "good", 1);
    for path in ["m/model.pt", "n/1/net.pt"] {
        let path = models.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        garbage(&path).unwrap();
    }
    let server = Server::start(models.options(BINARY));
    for _ in 0..2 {
        let index = server.index().await;
        let told: Vec<_> = index.iter().filter(|it| it["version"] == "").collect();
        assert_eq!(told.len(), 2, "{index:?}");
        assert_eq!(told[0]["name"], "m");
        let reason = told[0]["reason"].as_str().unwrap();
        assert!(reason.contains("m/1/model.pt"), "{reason}");
    }
    let log = server.log();
    assert_eq!(log.matches("not used as a model").count(), 2, "{log}");
}

#[tokio::test]
async fn a_default_version_that_is_removed_leaves_its_place_to_another() {
    let models = Models::new();
    for version in [1, 2] {
        add_version(&models, version);
    }
    let server = Server::start(models.options(BINARY));
    assert_eq!(answer(&server, "m").await, 2.0);
    fs::remove_dir_all(models.version("m", 2)).unwrap();
    assert_eq!(answer(&server, "m").await, 2.0);
    let path = "/api/performance/lazy-loader/cache?name=m:2";
    Answer::to(server.client().delete(server.url(path)))
        .await
        .ok();
    wait_until_cold(&server, "m:2").await;
    assert_eq!(answer(&server, "m").await, 1.0);
    server
        .infer("m/versions/2", &floats("x", &[0.0]))
        .await
        .error(404);
}

/// Waits until a resource is not loaded.
async fn wait_until_cold(server: &Server, resource: &str) {
    wait_for_async(DEADLINE, || async {
        let path = "/api/performance/lazy-loader/status";
        let status = server.get_json(path).await.ok();
        let mut resources = status["resources"].as_array().unwrap().iter();
        let is_loaded = resources.any(|it| it["name"] == resource && it["phase"] != "cold");
        if is_loaded { Err(status) } else { Ok(()) }
    })
    .await;
}
