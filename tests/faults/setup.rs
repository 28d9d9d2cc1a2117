//! A running server with models of the test's own, and what the tests ask of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{self, infer_path};
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{wait_for, wait_for_async};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::processes::{self, Process};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

/// Far above what anything here takes; a test that reaches it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// Signs of life are asked for often and missed soon, so that tests see it happen.
pub(crate) const IMPATIENT: &str =
    "models.heartbeat_interval = '100ms'\nmodels.heartbeat_timeout = '1s'";

/// A server under test.
pub(crate) struct ServerWithModels {
    pub(crate) server: Server,
    pub(crate) models: Models,
}

/// The answer to one request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) text: String,
    pub(crate) took: Duration,
}

impl Answer {
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Self {
        let begun = Instant::now();
        let response = request.send().await.expect("the server answers");
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.map(|value| value.to_str().unwrap().parse().unwrap());
        Self {
            status,
            retry_after,
            text: response.text().await.expect("a whole answer"),
            took: begun.elapsed(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// What the protocol's `{"error": …}` says; with nothing else beside it.
    #[track_caller]
    pub(crate) fn error(&self) -> String {
        let json = self.json();
        let members = json.as_object().map_or(0, serde_json::Map::len);
        let error = json["error"].as_str().filter(|_| members == 1);
        error
            .unwrap_or_else(|| panic!("no error: {self:?}"))
            .to_owned()
    }

    /// The numbers of the first output.
    #[track_caller]
    pub(crate) fn output(&self) -> Vec<f64> {
        assert_eq!(self.status, 200, "{self:?}");
        let json = self.json();
        let data = json["outputs"][0]["data"].as_array().cloned();
        let data = data.unwrap_or_else(|| panic!("no output: {self:?}"));
        data.iter().map(|number| number.as_f64().unwrap()).collect()
    }

    #[track_caller]
    pub(crate) fn assert_refused(&self, status: u16, word: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.error().contains(word), "{word:?} not in {self:?}");
        if status == 503 {
            assert!(self.retry_after.is_some(), "no Retry-After: {self:?}");
        }
    }

    /// Right, or refused for the moment and told when to come back. Says which.
    #[track_caller]
    pub(crate) fn is_right(&self, expected: &[f64]) -> bool {
        if self.status == 503 {
            self.assert_refused(503, "");
            return false;
        }
        assert_eq!(self.output(), expected);
        true
    }
}

impl ServerWithModels {
    pub(crate) fn start(settings: &str) -> Self {
        Self::start_with(|options| options.settings(settings))
    }

    pub(crate) fn start_with(more: impl FnOnce(Options) -> Options) -> Self {
        let models = Models::new();
        let server = Server::start(more(models.options(BINARY)));
        Self { server, models }
    }

    /// Where the first version of a model is, or is to be.
    pub(crate) fn file(&self, model: &str) -> PathBuf {
        let folder = self.models.version(model, 1);
        fs::create_dir_all(&folder).unwrap();
        folder.join("model.pt")
    }

    /// Puts a generated model where the server finds it.
    pub(crate) fn place(&self, model: &str, write: impl FnOnce(&Path) -> io::Result<()>) {
        self.models.add(model, 1, write);
    }

    pub(crate) fn settings(&self, model: &str, toml: &str) {
        self.models.settings(model, 1, toml);
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.server.client().post(self.server.url(path));
        let request = request.header("content-type", "application/json");
        Answer::of(request.body(body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.server.client().get(self.server.url(path))).await
    }

    pub(crate) async fn infer(&self, model: &str, body: &Value) -> Answer {
        self.post(&infer_path(model), body.to_string()).await
    }

    /// The same without waiting for the answer.
    pub(crate) fn begin(&self, model: &str, body: &Value) -> JoinHandle<Answer> {
        self.begin_with(model, body.to_string().into())
    }

    pub(crate) fn begin_with(&self, model: &str, body: bytes::Bytes) -> JoinHandle<Answer> {
        let request = self
            .server
            .client()
            .post(self.server.url(&infer_path(model)));
        let request = request.header("content-type", "application/json");
        tokio::spawn(Answer::of(request.body(body)))
    }

    pub(crate) async fn load(&self, model: &str) -> Answer {
        self.post(&format!("/v2/repository/models/{model}/load"), "")
            .await
    }

    pub(crate) async fn unload(&self, model: &str) -> Answer {
        self.post(&format!("/v2/repository/models/{model}/unload"), "")
            .await
    }

    /// What the repository index says of a model: its state, and why.
    pub(crate) async fn index(&self, model: &str) -> (String, String) {
        let index = self.server.index().await;
        let entry = index.iter().find(|entry| entry["name"] == model);
        let text = |key: &str| {
            entry.expect("it is listed")[key]
                .as_str()
                .unwrap()
                .to_owned()
        };
        (text("state"), text("reason"))
    }

    /// Calls a model that doubles as proof of health until it answers.
    pub(crate) async fn wait_until_served(&self, model: &str, body: &Value, expected: &[f64]) {
        wait_for_async(DEADLINE, || async {
            let answer = self.infer(model, body).await;
            if answer.is_right(expected) {
                Ok(())
            } else {
                Err(answer)
            }
        })
        .await;
    }

    /// The server's own process.
    #[track_caller]
    pub(crate) fn process(&self) -> Process {
        processes::process(self.server.pid())
    }

    /// All processes of the server but itself.
    pub(crate) fn processes(&self) -> Vec<Process> {
        processes::below(self.server.pid())
    }

    #[track_caller]
    pub(crate) fn zygote(&self) -> Process {
        self.only("hr-zygote")
    }

    /// The process of a model with one instance.
    #[track_caller]
    pub(crate) fn host(&self, model: &str) -> Process {
        let mut name = format!("hr:{model}");
        name.truncate(15);
        self.only(&name)
    }

    #[track_caller]
    fn only(&self, name: &str) -> Process {
        wait_for(DEADLINE, || {
            let mut found = self.processes();
            found.retain(|process| process.name == name && !process.is_gone());
            match <[Process; 1]>::try_from(found) {
                Ok([process]) => Ok(process),
                Err(found) => Err((name.to_owned(), found)),
            }
        })
    }

    /// Waits until one request is in the model's process and at least so many wait behind it.
    pub(crate) async fn wait_until_queued(&self, model: &str, count: u64) {
        let model = format!("{model}:1");
        wait_for_async(DEADLINE, || async {
            let owner = self.server.owner(&model).await;
            let queued = owner["queued"].as_u64() >= Some(count);
            (queued && owner["busy"] == 1).then_some(()).ok_or(owner)
        })
        .await;
    }

    pub(crate) async fn wait_until_busy(&self, model: &str) {
        self.wait_until_queued(model, 0).await;
    }

    /// Waits until the metrics and the supervision tree tell alike that an actor was restarted `count` times.
    pub(crate) async fn wait_for_restarts(&self, path: &str, count: u64) {
        let label = format!("actor=\"{path}\"");
        wait_for_async(DEADLINE, || async {
            let metric = self
                .server
                .metric("headroom_actor_restarts_total", &[&label])
                .await;
            let node = self.server.actor(path).await;
            let alike = metric == count as f64 && node["restarts"] == count;
            alike.then_some(()).ok_or((metric, node))
        })
        .await;
    }
}

/// Where a model's host stands in the supervision tree.
pub(crate) fn host_path(model: &str) -> String {
    format!("headroom/models/{model}:1/host-0")
}

/// One chunk of speech for the sample model, and the answer of its publisher's own export, within 0.001.
pub(crate) fn speech() -> Value {
    serde_json::from_str(include_str!("../../docs/examples/silero-vad.json")).unwrap()
}

#[track_caller]
pub(crate) fn is_speech(answer: &Answer) -> bool {
    if answer.status == 503 {
        answer.assert_refused(503, "");
        return false;
    }
    let probability = answer.output()[0];
    assert!((probability - 0.924).abs() < 0.001, "{answer:?}");
    true
}

/// One FP32 input called `x`.
pub(crate) fn floats(data: &[f32]) -> Value {
    protocol::floats("x", data)
}

/// Asks the model of `torchscript::slow` to take this long. It answers with the number.
pub(crate) fn milliseconds(count: u64) -> Value {
    json!({"inputs": [protocol::tensor("milliseconds", "INT64", &[1], json!([count]))]})
}

/// A model that answers throughout, called again and again in the background: proof that a fault elsewhere disturbs
/// nobody else.
pub(crate) struct Bystander {
    over: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Bystander {
    pub(crate) async fn start(setup: &ServerWithModels) -> Self {
        setup.place("bystander", torchscript::affine);
        setup
            .wait_until_served("bystander", &floats(&[2.0]), &[6.5])
            .await;
        let (over, answers) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let url = setup.server.url(&infer_path("bystander"));
        let (client, ended, counted) = (
            setup.server.client().clone(),
            Arc::clone(&over),
            Arc::clone(&answers),
        );
        let task = tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                let answer = Answer::of(client.post(&url).json(&floats(&[2.0]))).await;
                assert_eq!(answer.output(), [6.5]);
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            over,
            answers,
            task,
        }
    }

    /// Asserts that every one of its calls was answered right, and that there were some.
    pub(crate) async fn assert_undisturbed(self) {
        let so_far = self.answers.load(Ordering::Relaxed);
        let answers = Arc::clone(&self.answers);
        let task = &self.task;
        wait_for_async(DEADLINE, || async {
            let more = answers.load(Ordering::Relaxed) > so_far || task.is_finished();
            more.then_some(()).ok_or("no answer since")
        })
        .await;
        self.over.store(true, Ordering::Relaxed);
        self.task.await.expect("every answer was right");
    }
}
