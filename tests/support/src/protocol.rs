//! The Open Inference Protocol from a client's side, in as few words as tests like to read.

#![expect(clippy::expect_used, reason = "how a test fails")]

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::server::Server;

/// An answer of the protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body; null when it is empty.
    pub json: Value,
}

impl Answer {
    /// Takes an answer apart.
    ///
    /// # Panics
    /// When the body does not arrive or is not JSON.
    pub async fn of(response: reqwest::Response) -> Self {
        let status = response.status();
        let bytes = response.bytes().await.expect("a whole body");
        let json = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).expect("a body of JSON")
        };
        Self { status, json }
    }

    /// The JSON of a success.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.json);
        self.json
    }

    /// The text of an error of the protocol, which has that and nothing else.
    ///
    /// # Panics
    /// When it is none, or has another status.
    #[track_caller]
    pub fn error(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.json);
        let object = self.json.as_object().expect("an object");
        assert_eq!(object.len(), 1, "{}", self.json);
        let text = object.get("error").and_then(Value::as_str);
        text.expect("an error in words").to_owned()
    }

    /// The elements of an output of a success, as numbers.
    ///
    /// # Panics
    /// When it is none, or has no such output.
    #[track_caller]
    pub fn numbers(self, output: &str) -> Vec<f64> {
        let json = self.ok();
        let data = output_of(&json, output)["data"].as_array();
        let numbers = data.expect("an array").iter();
        numbers.map(|n| n.as_f64().expect("a number")).collect()
    }
}

/// An output of an answer.
///
/// # Panics
/// When it is not there.
#[track_caller]
pub fn output_of<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let outputs = answer["outputs"].as_array().expect("outputs");
    let found = outputs.iter().find(|output| output["name"] == name);
    found.expect("an output of that name")
}

/// An input of a request.
pub fn tensor(name: &str, datatype: &str, shape: &[i64], data: Value) -> Value {
    json!({ "name": name, "datatype": datatype, "shape": shape, "data": data })
}

/// A request of one FP32 input with one dimension.
pub fn floats(name: &str, data: &[f32]) -> Value {
    json!({ "inputs": [tensor(name, "FP32", &[data.len() as i64], json!(data))] })
}

impl Server {
    /// Asks for an inference; `model` may end in `/versions/N`.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn infer(&self, model: &str, request: &Value) -> Answer {
        Answer::of(self.post(&infer_path(model), request).await).await
    }

    /// `GET` of a path under `/v2`, or elsewhere where answers are JSON.
    ///
    /// # Panics
    /// When there is no answer, or its body is not JSON.
    pub async fn read(&self, path: &str) -> Answer {
        Answer::of(self.get(path).await).await
    }

    /// The repository extension's `load` or `unload` of a model.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn repository(&self, model: &str, what: &str) -> Answer {
        let path = format!("/v2/repository/models/{model}/{what}");
        Answer::of(self.post(&path, &json!({})).await).await
    }

    /// The repository extension's index.
    ///
    /// # Panics
    /// When there is none.
    pub async fn index(&self) -> Vec<Value> {
        let answer = Answer::of(self.post("/v2/repository/index", &json!({})).await).await;
        let index = answer.ok();
        index.as_array().expect("an array").clone()
    }

    /// What `/api/actors` shows of one actor, such as "headroom/repository"; null when it is not
    /// there.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn actor(&self, path: &str) -> Value {
        let tree = self.read("/api/actors").await.ok();
        let mut left: Vec<Value> = tree["actors"].as_array().cloned().unwrap_or_default();
        while let Some(mut node) = left.pop() {
            if node["path"] == path {
                return node;
            }
            if let Value::Array(children) = node["children"].take() {
                left.extend(children);
            }
        }
        Value::Null
    }

    /// What a loaded model's owner tells of its queue; `model` is as "silero-vad:1".
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn owner(&self, model: &str) -> Value {
        let path = format!("headroom/models/{model}/owner");
        self.actor(&path).await["observed"].take()
    }

    /// The sum of a metric's samples whose labels contain all of `labels` (such as `kind="model"`).
    ///
    /// # Panics
    /// When there are no metrics.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.metrics().await;
        text.lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let (found, value) = match rest.strip_prefix('{') {
                    Some(rest) => rest.split_once("} ")?,
                    None => ("", rest.strip_prefix(' ')?),
                };
                let fits = labels.iter().all(|label| found.contains(label));
                fits.then(|| value.parse::<f64>().ok()).flatten()
            })
            .sum()
    }
}

/// Where inferences of a model are asked for.
pub fn infer_path(model: &str) -> String {
    format!("/v2/models/{model}/infer")
}
