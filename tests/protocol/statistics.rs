//! The extensions for the configuration and the statistics of models.

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{floats, milliseconds, tensor};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{self, Script};
use serde_json::{Value, json};

use crate::BINARY;

async fn statistics(server: &Server, path: &str) -> Vec<Value> {
    let answer = server.get_json(path).await.ok();
    answer["model_stats"].as_array().unwrap().clone()
}

#[tokio::test]
async fn statistics_count_requests_and_their_time() {
    let models = Models::new();
    models
        .add("slow", 1, torchscript::slow)
        .add("batches", 1, torchscript::affine)
        .settings("batches", 1, "max_batch = 8")
        .add("throws", 2, torchscript::throws)
        .add("throws", 10, torchscript::throws);
    let server = Server::start(models.options(BINARY));
    let never = &statistics(&server, "/v2/models/slow/stats").await[0];
    assert_eq!(never["execution_count"], 0);
    assert_eq!(never["last_inference"], 0);
    for _ in 0..2 {
        server.infer("slow", &milliseconds(20)).await.ok();
        server.infer("batches", &floats("x", &[1.0; 4])).await.ok();
        server
            .infer("throws", &floats("x", &[1.0]))
            .await
            .error(422);
    }
    let slow = &statistics(&server, "/v2/models/slow/versions/1/stats").await[0];
    assert_eq!(
        (&slow["name"], &slow["version"]),
        (&json!("slow"), &json!("1"))
    );
    assert_eq!(
        (&slow["inference_count"], &slow["execution_count"]),
        (&json!(2), &json!(2))
    );
    assert!(slow["last_inference"].as_u64().unwrap() > 1_600_000_000_000);
    let stats = &slow["inference_stats"];
    let ns = |part: &str| {
        assert_eq!(stats[part]["count"], 2, "{part}");
        stats[part]["ns"].as_u64().unwrap()
    };
    assert!(ns("compute_infer") >= 40_000_000);
    assert!(ns("compute_input") > 0 && ns("compute_output") > 0);
    let parts = ["queue", "compute_input", "compute_infer", "compute_output"];
    // The first request loaded the model.
    assert!(ns("queue") > 0);
    assert_eq!(parts.map(ns).iter().sum::<u64>(), ns("success"));
    assert_eq!(stats["fail"], json!({ "count": 0, "ns": 0 }));
    let batches = &statistics(&server, "/v2/models/batches/stats").await[0];
    assert_eq!(
        (&batches["inference_count"], &batches["execution_count"]),
        (&json!(8), &json!(2))
    );
    assert_eq!(batches["batch_stats"][0]["batch_size"], 4);
    assert_eq!(batches["batch_stats"][0]["compute_infer"]["count"], 2);
    // Those of the highest version.
    let throws = statistics(&server, "/v2/models/throws/stats").await;
    let failed = |entry: &Value| entry["inference_stats"]["fail"]["count"].clone();
    assert_eq!(throws.iter().map(failed).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(throws[1]["inference_stats"]["success"]["count"], 0);
    let all = statistics(&server, "/v2/models/stats").await;
    assert_eq!(all.len(), 4);
    assert!(all.contains(slow) && all.contains(&throws[1]));
    server.get_json("/v2/models/none/stats").await.error(404);
}

#[tokio::test]
async fn rows_are_counted_whatever_the_order_of_the_inputs() {
    let models = Models::new();
    let forward = "def forward(self, x: Tensor, scale: float) -> Tensor:\n  return x * scale\n";
    models
        .add("scaled", 1, |path| Script::new(forward).write(path))
        .settings("scaled", 1, "max_batch = 8");
    let server = Server::start(models.options(BINARY));
    let x = tensor("x", "FP32", &[4], json!([1, 2, 3, 4]));
    let scale = tensor("scale", "FP32", &[1], json!([2]));
    for inputs in [[&x, &scale], [&scale, &x]] {
        let answer = server.infer("scaled", &json!({ "inputs": inputs })).await;
        assert_eq!(answer.output(), [2.0, 4.0, 6.0, 8.0]);
    }
    let scaled = &statistics(&server, "/v2/models/scaled/stats").await[0];
    assert_eq!(scaled["inference_count"], 8);
}

#[tokio::test]
async fn a_configuration_tells_the_settings() {
    let models = Models::new();
    models
        .add("plain", 1, torchscript::affine)
        .add("declared", 3, torchscript::counter)
        .settings(
            "declared",
            3,
            "max_batch = 4\ninstances = 2\nstateful = true\n\
             [[inputs]]\nname = 'x'\ndatatype = 'FP32'\nshape = [-1, 3]\n\
             [[outputs]]\nname = 'y'\ndatatype = 'BYTES'\nshape = [-1]",
        );
    let server = Server::start(models.options(BINARY));
    let plain = server.get_json("/v2/models/plain/config").await.ok();
    let expected = json!({
        "name": "plain", "platform": "pytorch_libtorch", "backend": "pytorch",
        "default_model_filename": "model.pt", "max_batch_size": 0, "input": [], "output": [],
        "instance_group": [{ "name": "plain", "kind": "KIND_CPU", "count": 1 }],
    });
    assert_eq!(plain, expected);
    let declared = server
        .get_json("/v2/models/declared/versions/3/config")
        .await
        .ok();
    let tensor =
        |name, kind, dims: Value| json!([{ "name": name, "data_type": kind, "dims": dims }]);
    assert_eq!(declared["max_batch_size"], 4);
    assert_eq!(declared["input"], tensor("x", "TYPE_FP32", json!([3])));
    assert_eq!(declared["output"], tensor("y", "TYPE_STRING", json!([])));
    assert_eq!(declared["instance_group"][0]["count"], 2);
    assert_eq!(declared["sequence_batching"], json!({}));
    server
        .get_json("/v2/models/declared/versions/4/config")
        .await
        .error(404);
    // Settings that cannot be used.
    models
        .add("wrong", 1, torchscript::affine)
        .settings("wrong", 1, "colour = 1");
    let wrong = server.get_json("/v2/models/wrong/config").await;
    wrong.assert_refused(422, "colour");
}
