//! A zoo of models that PyTorch makes for the test, with requests and PyTorch's own answers to them.

use std::fs;

use headroom_test_support::models::Models;
use headroom_test_support::protocol::Answer;
use headroom_test_support::server::Server;
use headroom_test_support::{capability, python};
use serde::Deserialize;
use serde_json::Value;

use crate::BINARY;

/// How often each request is sent. libtorch observes the first runs of a model and optimises its code for those that
/// follow.
const RUNS: u32 = 3;

/// A request, and what must come of it: outputs or a refusal.
#[derive(Deserialize)]
struct Request {
    model: String,
    body: Value,
    outputs: Option<Vec<Value>>,
    refused: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    status: u16,
    word: String,
}

#[tokio::test]
async fn models_of_many_kinds_answer_as_in_pytorch() {
    if !python::is_at_least((3, 10)) {
        return capability::skip("PyTorch needs Python 3.10");
    }
    let models = Models::new();
    let requests = make_zoo(&models);
    let server = Server::start(models.options(BINARY));
    let mut wrong = Vec::new();
    for request in &requests {
        let (model, body) = (&request.model, &request.body);
        for run in 1..=RUNS {
            let answer = server.infer(model, body).await;
            if let Err(why) = request.check(&answer) {
                let inputs = short(&body["inputs"]);
                wrong.push(format!(
                    "{model}, run {run}: {why}; the inputs are {inputs}"
                ));
                break;
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong answers to {} requests:\n{}",
        wrong.len(),
        requests.len(),
        wrong.join("\n")
    );
    let denied = server.metric("headroom_model_denied_total", &[]).await;
    assert_eq!(denied, 0.0, "the sandbox denies what libtorch needs");
}

/// Makes the models, and returns the requests to them.
fn make_zoo(models: &Models) -> Vec<Request> {
    let folder = tempfile::tempdir().unwrap();
    let requests = folder.path().join("requests.json");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inference/zoo/make.py");
    let arguments = [models.path().as_os_str(), requests.as_os_str()];
    python::run(script, "torch-python", &arguments);
    serde_json::from_slice(&fs::read(requests).unwrap()).unwrap()
}

impl Request {
    fn check(&self, answer: &Answer) -> Result<(), String> {
        if let Some(Refusal { status, word }) = &self.refused {
            let text = answer.json["error"].as_str().unwrap_or_default();
            if answer.status != *status || !text.contains(word) {
                return Err(format!("{}, not {status} with {word:?}", described(answer)));
            }
            return Ok(());
        }
        let expected = self.outputs.as_ref().expect("outputs or a refusal");
        let Some(outputs) = answer.json["outputs"].as_array() else {
            return Err(format!("{} without outputs", described(answer)));
        };
        if outputs.len() != expected.len() {
            return Err(format!("{} outputs, not {}", outputs.len(), expected.len()));
        }
        for (output, expected) in outputs.iter().zip(expected) {
            if !is_close(output, expected) {
                return Err(format!("{} is not {}", short(output), short(expected)));
            }
        }
        Ok(())
    }
}

/// Whether two outputs have the same name, datatype and shape, and nearly the same data.
fn is_close(output: &Value, expected: &Value) -> bool {
    let same = |member: &str| output[member] == expected[member];
    let (Some(data), Some(other)) = (output["data"].as_array(), expected["data"].as_array()) else {
        return false;
    };
    let tolerance = match expected["datatype"].as_str() {
        Some("FP16") => 2e-3,
        Some("BF16") => 2e-2,
        Some("FP32") => 1e-5,
        Some("FP64") => 1e-12,
        _ => return output == expected,
    };
    let near = |(found, expected): (&Value, &Value)| {
        let (found, expected) = (number(found), number(expected));
        let error = (found - expected).abs();
        // Infinities have no difference.
        found == expected
            || found.is_nan() && expected.is_nan()
            || error <= tolerance * expected.abs().max(1.0)
    };
    ["name", "datatype", "shape"].into_iter().all(same)
        && data.len() == other.len()
        && data.iter().zip(other).all(near)
}

fn described(answer: &Answer) -> String {
    format!("status {} {}", answer.status, short(&answer.json))
}

/// The beginning of a value's JSON.
fn short(value: &Value) -> String {
    value.to_string().chars().take(400).collect()
}

/// A number, or the name of what is none.
fn number(value: &Value) -> f64 {
    match value.as_str() {
        Some(name) => name.parse().unwrap(),
        None => value.as_f64().unwrap(),
    }
}
