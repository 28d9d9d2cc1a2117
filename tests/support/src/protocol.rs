//! A client of the Open Inference Protocol, and of the other resources whose answers are JSON.

#![expect(clippy::expect_used, clippy::panic, reason = "how a test fails")]

use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::process_tree::{Process, descendants};
use crate::server::Server;
use crate::wait::{DEADLINE, wait_for_async};

/// An answer with a JSON body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null when it is empty.
    pub json: Value,
    /// Time from the request to the end of the body.
    pub took: Duration,
}

impl Answer {
    /// Sends a request and reads the whole answer.
    ///
    /// # Panics
    /// When there is no answer, or its body is not JSON.
    pub async fn to(request: RequestBuilder) -> Self {
        let begun = Instant::now();
        let response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.expect("the whole body arrives");
        let json = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).expect("the body is JSON")
        };
        Self {
            status,
            headers,
            json,
            took: begun.elapsed(),
        }
    }

    /// The body of a success.
    ///
    /// # Panics
    /// When the status is not 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json
    }

    /// The text of an error of the protocol: `{"error": "…"}` with no other member.
    ///
    /// # Panics
    /// When the status or the form is another.
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let members = self.json.as_object().map_or(0, serde_json::Map::len);
        let text = self.json["error"].as_str().filter(|_| members == 1);
        let text = text.unwrap_or_else(|| panic!("no error of the protocol: {self:?}"));
        text.to_owned()
    }

    /// Asserts that this is an error with `word` in its text, and with Retry-After where the status is 503.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn assert_refused(&self, status: u16, word: &str) {
        assert!(
            self.error(status).contains(word),
            "{word:?} not in {self:?}"
        );
        if status == 503 {
            let retry_after = self.headers.get("retry-after");
            let seconds = retry_after.and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
            assert!(seconds.is_some(), "no Retry-After: {self:?}");
        }
    }

    /// Whether the output is `expected`, and not a 503 with Retry-After.
    ///
    /// # Panics
    /// When it is neither.
    #[track_caller]
    pub fn is_output(&self, expected: &[f64]) -> bool {
        if self.status == 503 {
            self.assert_refused(503, "");
            return false;
        }
        assert_eq!(self.output(), expected);
        true
    }

    /// The elements of the output named "output" of a success.
    ///
    /// # Panics
    /// When it is no success, or has no such output of numbers.
    #[track_caller]
    pub fn output(&self) -> Vec<f64> {
        assert_eq!(self.status, 200, "{self:?}");
        let data = output_of(&self.json, "output")["data"].as_array();
        let numbers = data.expect("an array").iter();
        numbers.map(|n| n.as_f64().expect("a number")).collect()
    }

    /// The only element of the output named "output" of a success.
    ///
    /// # Panics
    /// When there is not exactly one.
    #[track_caller]
    pub fn number(&self) -> f64 {
        match self.output()[..] {
            [number] => number,
            ref other => panic!("{} numbers instead of one", other.len()),
        }
    }
}

/// An output of an answer's body.
///
/// # Panics
/// When there is no output of that name.
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

/// A request to the model of [`torchscript::slow`](crate::torchscript::slow): it works for that long and returns the
/// number.
pub fn milliseconds(count: u64) -> Value {
    json!({ "inputs": [tensor("milliseconds", "INT64", &[1], json!([count]))] })
}

/// The sum of the samples of a metric in this text of metrics, as [`Server::metric`] gives it.
pub fn metric_in(text: &str, name: &str, labels: &[&str]) -> f64 {
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

/// The path for inferences with a model.
pub fn infer_path(model: &str) -> String {
    format!("/v2/models/{model}/infer")
}

/// The path of a model's first host in the supervision tree.
pub fn host_path(model: &str) -> String {
    format!("headroom/models/{model}:1/host-0")
}

// The methods below panic when the server does not answer with JSON.
impl Server {
    /// Requests an inference; `model` may end in `/versions/N`.
    pub async fn infer(&self, model: &str, request: &Value) -> Answer {
        self.post_json(&infer_path(model), request).await
    }

    /// `GET` of a path on the main listener.
    pub async fn get_json(&self, path: &str) -> Answer {
        Answer::to(self.client().get(self.url(path))).await
    }

    /// `POST` of JSON to the main listener.
    pub async fn post_json(&self, path: &str, json: &Value) -> Answer {
        Answer::to(self.client().post(self.url(path)).json(json)).await
    }

    /// Loads a model through the repository extension.
    pub async fn load(&self, model: &str) -> Answer {
        let path = format!("/v2/repository/models/{model}/load");
        self.post_json(&path, &json!({})).await
    }

    /// Unloads a model through the repository extension.
    pub async fn unload(&self, model: &str) -> Answer {
        let path = format!("/v2/repository/models/{model}/unload");
        self.post_json(&path, &json!({})).await
    }

    /// The repository extension's index.
    pub async fn index(&self) -> Vec<Value> {
        let index = self.post_json("/v2/repository/index", &json!({})).await;
        index.ok().as_array().expect("an array").clone()
    }

    /// The memory statistics with the last 1,000 events.
    pub async fn memory_stats(&self) -> Value {
        let stats = self.get_json("/api/performance/memory/stats?events=1000");
        stats.await.ok()
    }

    /// The bytes of the budget in one account of buffers.
    pub async fn buffer_bytes(&self, account: &str) -> u64 {
        let stats = self.memory_stats().await;
        let buffers = stats["buffers"].as_array().expect("accounts");
        let found = buffers.iter().find(|buffer| buffer["name"] == account);
        found.map_or(0, |buffer| buffer["held_bytes"].as_u64().expect("a number"))
    }

    /// One actor in `/api/actors`, such as "headroom/repository"; null when it is not there.
    pub async fn actor(&self, path: &str) -> Value {
        let tree = self.get_json("/api/actors").await.ok();
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

    /// What the owner of a model's first version reports about its queue.
    pub async fn owner(&self, model: &str) -> Value {
        let path = format!("headroom/models/{model}:1/owner");
        self.actor(&path).await["observed"].take()
    }

    /// Waits until the owner of a model's first version reports what `condition` asks for.
    pub async fn wait_for_owner(&self, model: &str, condition: impl Fn(&Value) -> bool) {
        wait_for_async(DEADLINE, || async {
            let owner = self.owner(model).await;
            if condition(&owner) {
                Ok(())
            } else {
                Err(owner)
            }
        })
        .await;
    }

    /// Waits until a request is in the process of a model with one instance.
    pub async fn wait_until_busy(&self, model: &str) {
        self.wait_for_owner(model, |owner| owner["busy"] == 1).await;
    }

    /// Waits until the metrics and the supervision tree both show that an actor was restarted `count` times.
    pub async fn wait_for_restarts(&self, path: &str, count: u64) {
        let label = format!("actor=\"{path}\"");
        wait_for_async(DEADLINE, || async {
            let metric = self
                .metric("headroom_actor_restarts_total", &[&label])
                .await;
            let node = self.actor(path).await;
            let both = metric == count as f64 && node["restarts"] == count;
            both.then_some(()).ok_or((metric, node))
        })
        .await;
    }

    /// The sum of a metric's samples whose labels contain all of `labels` (such as `kind="model"`).
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric_in(&self.metrics().await, name, labels)
    }

    /// Waits until a metric, summed as by [`Self::metric`], meets `condition`.
    pub async fn wait_for_metric(
        &self,
        name: &str,
        labels: &[&str],
        condition: impl Fn(f64) -> bool,
    ) {
        wait_for_async(DEADLINE, || async {
            let value = self.metric(name, labels).await;
            condition(value).then_some(()).ok_or((name, value))
        })
        .await;
    }

    /// The running process of a model, if there is one; the first where there are several.
    pub fn host(&self, model: &str) -> Option<Process> {
        let mut name = format!("hr:{model}");
        // The kernel keeps 15 bytes of a process's name.
        name.truncate(15);
        let mut processes = descendants(self.pid()).into_iter();
        processes.find(|process| process.name == name && !process.is_zombie())
    }
}
