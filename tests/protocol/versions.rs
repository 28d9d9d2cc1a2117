//! Versions of one model: the highest is the default, and each version has one spelling.

use headroom_test_support::models::Models;
use headroom_test_support::protocol::floats;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::Script;
use serde_json::{Value, json};

use crate::BINARY;

/// A model that adds its version to its input.
fn add_version(models: &Models, version: u64) {
    let code = format!("def forward(self, x: Tensor) -> Tensor:\n  return x + {version}\n");
    models.add("v", version, |path| Script::new(&code).write(path));
}

/// The version that answers a request.
async fn answering_version(server: &Server, model: &str) -> Value {
    let answer = server.infer(model, &floats("x", &[0.0])).await.ok();
    let version: f64 = answer["model_version"].as_str().unwrap().parse().unwrap();
    assert_eq!(answer["outputs"][0]["data"], json!([version]));
    answer["model_version"].clone()
}

#[tokio::test]
async fn the_highest_version_answers_unless_another_is_named() {
    let models = Models::new();
    for version in [9, 10, 2] {
        add_version(&models, version);
    }
    let server = Server::start(models.options(BINARY));
    assert_eq!(answering_version(&server, "v").await, "10");
    for version in ["2", "9", "10"] {
        let named = format!("v/versions/{version}");
        assert_eq!(answering_version(&server, &named).await, version);
    }
    assert_eq!(answering_version(&server, "v").await, "10");
    let metadata = server.get_json("/v2/models/v").await.ok();
    assert_eq!(metadata["versions"], json!(["2", "9", "10"]));
    let one = server.get_json("/v2/models/v/versions/9").await.ok();
    assert_eq!(one["versions"], json!(["9"]));
}

#[tokio::test]
async fn a_version_has_one_spelling() {
    let models = Models::new();
    add_version(&models, 1);
    let server = Server::start(models.options(BINARY));
    for version in [
        "01",
        "0",
        "-1",
        "+1",
        "1.0",
        "latest",
        "1%20",
        "2",
        "99999999999999999999",
        "x",
    ] {
        let model = format!("v/versions/{version}");
        let error = server.infer(&model, &floats("x", &[0.0])).await.error(404);
        assert!(error.contains("version"), "{error}");
        server
            .get_json(&format!("/v2/models/{model}"))
            .await
            .error(404);
        server
            .get_json(&format!("/v2/models/{model}/ready"))
            .await
            .error(404);
    }
    assert_eq!(answering_version(&server, "v").await, "1");
}

#[tokio::test]
async fn a_version_added_while_the_server_runs_answers_once_it_is_named_or_loaded() {
    let models = Models::new();
    add_version(&models, 1);
    let server = Server::start(models.options(BINARY));
    assert_eq!(answering_version(&server, "v").await, "1");
    add_version(&models, 2);
    assert_eq!(answering_version(&server, "v/versions/2").await, "2");
    add_version(&models, 3);
    server.load("v").await.ok();
    assert_eq!(answering_version(&server, "v").await, "3");
}
