//! The successful answers of each endpoint.

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{floats, tensor};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{self, Script};
use serde_json::json;

use crate::BINARY;

/// Complete settings of the affine model.
const AFFINE: &str = "
    max_batch = 4
    [[inputs]]
    name = 'x'
    datatype = 'FP32'
    shape = [-1]
    [[outputs]]
    name = 'y'
    datatype = 'FP32'
    shape = [-1]
";

#[tokio::test]
async fn the_server_reports_its_name_version_and_extensions() {
    let server = Server::start(Models::new().options(BINARY));
    let metadata = server.get_json("/v2").await.ok();
    assert_eq!(metadata["name"], "headroom");
    assert_eq!(metadata["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        metadata["extensions"],
        json!([
            "binary_tensor_data",
            "model_configuration",
            "model_repository",
            "sequence",
            "statistics"
        ])
    );
    assert_eq!(server.get_json("/v2/health/live").await.ok()["live"], true);
    assert_eq!(
        server.get_json("/v2/health/ready").await.ok()["ready"],
        true
    );
    let head = server.client().head(server.url("/v2/health/ready"));
    assert_eq!(head.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_metadata_of_a_model_comes_from_its_settings() {
    let models = Models::new();
    models
        .add("affine", 1, torchscript::affine)
        .settings("affine", 1, AFFINE);
    let server = Server::start(models.options(BINARY));
    let metadata = server.get_json("/v2/models/affine").await.ok();
    assert_eq!(
        metadata,
        json!({
            "name": "affine",
            "versions": ["1"],
            "platform": "pytorch_torchscript",
            "inputs": [{ "name": "x", "datatype": "FP32", "shape": [-1] }],
            "outputs": [{ "name": "y", "datatype": "FP32", "shape": [-1] }],
        })
    );
    let same = server.get_json("/v2/models/affine/versions/1").await.ok();
    assert_eq!(same, metadata);
}

#[tokio::test]
async fn without_settings_the_inputs_have_the_names_in_the_file() {
    let models = Models::new();
    let code = "def forward(self, left: Tensor, right: Tensor, scale: float, round: bool) -> Tensor:\n  \
                return left + right * scale\n";
    models.add("sum", 1, |path| Script::new(code).write(path));
    let server = Server::start(models.options(BINARY));
    let request = json!({ "inputs": [
        tensor("scale", "FP64", &[1], json!([0.5])),
        tensor("round", "BOOL", &[1], json!([false])),
        tensor("right", "FP32", &[2], json!([2, 4])),
        tensor("left", "FP32", &[2], json!([10, 20])),
    ] });
    let answer = server.infer("sum", &request).await;
    assert_eq!(answer.output(), [11.0, 22.0]);
    let metadata = server.get_json("/v2/models/sum").await.ok();
    let named = |index: usize| metadata["inputs"][index]["name"].clone();
    assert_eq!(
        [named(0), named(1), named(2), named(3)],
        ["left", "right", "scale", "round"]
    );
    // Types of numbers in the file become datatypes of the protocol.
    assert_eq!(
        metadata["inputs"][2],
        json!({ "name": "scale", "datatype": "FP64", "shape": [1] })
    );
    assert_eq!(
        metadata["inputs"][3],
        json!({ "name": "round", "datatype": "BOOL", "shape": [1] })
    );
}

#[tokio::test]
async fn an_answer_has_the_model_and_the_id_of_the_request() {
    let models = Models::new();
    models
        .add("affine", 3, torchscript::affine)
        .settings("affine", 3, AFFINE);
    let server = Server::start(models.options(BINARY));
    let mut request = floats("x", &[1.0, 2.0]);
    request["id"] = json!("an id, of \"any\" text ✓");
    let answer = server.infer("affine", &request).await.ok();
    assert_eq!(
        answer,
        json!({
            "model_name": "affine",
            "model_version": "3",
            "id": "an id, of \"any\" text ✓",
            "outputs": [{ "name": "y", "datatype": "FP32", "shape": [2], "data": [3.5, 6.5] }],
        })
    );
    let without = server.infer("affine", &floats("x", &[1.0])).await.ok();
    assert!(without.as_object().unwrap().get("id").is_none());
}

#[tokio::test]
async fn unknown_members_of_a_request_are_ignored() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    let mut request = floats("x", &[1.0]);
    request["parameters"] = json!({ "priority": 1, "binary_data_output": true });
    request["inputs"][0]["parameters"] = json!({ "classification": 2 });
    request["outputs"] = json!([{ "name": "output", "parameters": { "binary_data": false } }]);
    request["more"] = json!([{}]);
    assert_eq!(server.infer("affine", &request).await.output(), [3.5]);
}

#[tokio::test]
async fn a_model_is_ready_before_and_after_it_is_loaded() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    for path in [
        "/v2/models/affine/ready",
        "/v2/models/affine/versions/1/ready",
    ] {
        assert_eq!(server.get_json(path).await.ok()["state"], "cold");
    }
    server.infer("affine", &floats("x", &[1.0])).await.ok();
    let ready = server.get_json("/v2/models/affine/ready").await.ok();
    assert_eq!(
        ready,
        json!({ "name": "affine", "version": "1", "ready": true, "state": "ready" })
    );
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_not_ready() {
    let models = Models::new();
    models.add("broken", 1, |path| std::fs::write(path, "no model"));
    let server = Server::start(models.options(BINARY));
    server.get_json("/v2/models/broken/ready").await.ok();
    server
        .infer("broken", &floats("x", &[1.0]))
        .await
        .error(422);
    let answer = server.get_json("/v2/models/broken/ready").await;
    answer.assert_refused(503, "last load failed");
}
