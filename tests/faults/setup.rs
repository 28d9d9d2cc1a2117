//! A running server with a models folder of its own, and a background client that shows whether a fault disturbs other
//! models.

use std::fs;
use std::io;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::{Process, descendants};
use headroom_test_support::protocol::{self, Answer, infer_path};
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for, wait_for_async};
use serde_json::Value;
use tokio::task::JoinHandle;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

/// Settings with which a missing heartbeat is noticed after a second.
pub(crate) const FAST_HEARTBEAT: &str =
    "models.heartbeat_interval = '100ms'\nmodels.heartbeat_timeout = '1s'";

/// A server and the folder of its models.
pub(crate) struct ServerWithModels {
    pub(crate) server: Server,
    pub(crate) models: Models,
}

impl Deref for ServerWithModels {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for ServerWithModels {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl ServerWithModels {
    pub(crate) fn start(settings: &str) -> Self {
        Self::start_with(|options| options.settings(settings))
    }

    pub(crate) fn start_with(configure: impl FnOnce(Options) -> Options) -> Self {
        let models = Models::new();
        let server = Server::start(configure(models.options(BINARY)));
        Self { server, models }
    }

    /// The path of the file of a model's first version. Makes its folder.
    pub(crate) fn model_file(&self, model: &str) -> PathBuf {
        let folder = self.models.version(model, 1);
        fs::create_dir_all(&folder).unwrap();
        folder.join("model.pt")
    }

    /// Adds the first version of a model.
    pub(crate) fn add_model(&self, model: &str, write: impl FnOnce(&Path) -> io::Result<()>) {
        self.models.add(model, 1, write);
    }

    /// Writes the settings of a model's first version.
    pub(crate) fn set_model_settings(&self, model: &str, toml: &str) {
        self.models.settings(model, 1, toml);
    }

    /// `POST` of a body that is announced as JSON.
    pub(crate) async fn post_body(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.client().post(self.url(path));
        let request = request.header("content-type", "application/json");
        Answer::to(request.body(body)).await
    }

    /// Starts an inference without waiting for its answer.
    pub(crate) fn begin_infer(
        &self,
        model: &str,
        body: impl Into<reqwest::Body>,
    ) -> JoinHandle<Answer> {
        let request = self.client().post(self.url(&infer_path(model)));
        let request = request.header("content-type", "application/json");
        tokio::spawn(Answer::to(request.body(body)))
    }

    /// The state of a model in the repository index, and the reason.
    pub(crate) async fn index_entry(&self, model: &str) -> (String, String) {
        let index = self.index().await;
        let entry = index.iter().find(|entry| entry["name"] == model);
        let entry = entry.expect("the model is listed");
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        (text("state"), text("reason"))
    }

    /// Sends requests until one is answered with `expected`. Other answers must be 503 with Retry-After.
    pub(crate) async fn wait_until_served(&self, model: &str, body: &Value, expected: &[f64]) {
        wait_for_async(DEADLINE, || async {
            let answer = self.infer(model, body).await;
            if answer.is_output(expected) {
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
        Process::read(self.pid()).expect("the server runs")
    }

    /// All processes below the server.
    pub(crate) fn processes(&self) -> Vec<Process> {
        descendants(self.pid())
    }

    /// The processes below the server that have ended and were not waited for.
    pub(crate) fn zombies(&self) -> Vec<Process> {
        let mut processes = self.processes();
        processes.retain(Process::is_zombie);
        processes
    }

    /// The zygote. Waits until there is exactly one.
    #[track_caller]
    pub(crate) fn zygote(&self) -> Process {
        self.only_process("hr-zygote")
    }

    /// The process of a model with one instance. Waits until there is exactly one.
    #[track_caller]
    pub(crate) fn only_host(&self, model: &str) -> Process {
        let mut name = format!("hr:{model}");
        // The kernel keeps 15 bytes of a process's name.
        name.truncate(15);
        self.only_process(&name)
    }

    #[track_caller]
    fn only_process(&self, name: &str) -> Process {
        wait_for(DEADLINE, || {
            let mut found = self.processes();
            found.retain(|process| process.name == name && process.is_running());
            match <[Process; 1]>::try_from(found) {
                Ok([process]) => Ok(process),
                Err(found) => Err((name.to_owned(), found)),
            }
        })
    }

    /// Waits until one request is in the model's process and at least `count` wait in the queue.
    pub(crate) async fn wait_until_queued(&self, model: &str, count: u64) {
        let is_queued = |owner: &Value| owner["queued"].as_u64() >= Some(count);
        self.wait_for_owner(model, |owner| owner["busy"] == 1 && is_queued(owner))
            .await;
    }
}

/// A server that the modes of files bind, also where the tests run as root.
pub(crate) fn bound_by_modes(options: Options) -> Options {
    if !nix::unistd::geteuid().is_root() {
        return options;
    }
    // Without these two capabilities root cannot read every file.
    let capabilities = "-dac_override,-dac_read_search";
    options.launched_by(&["setpriv", "--bounding-set", capabilities, "--"])
}

/// A request to the sample model with one chunk of speech.
pub(crate) fn speech() -> Value {
    serde_json::from_str(include_str!("../../docs/examples/silero-vad.json")).unwrap()
}

/// Whether the answer to [`speech`] is that of the publisher's ONNX export (within 0.001), and not a 503 with
/// Retry-After.
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

/// A request with one FP32 input named `x`.
pub(crate) fn floats(data: &[f32]) -> Value {
    protocol::floats("x", data)
}

/// A client that sends requests to another model all the time, to show that a fault does not disturb it.
pub(crate) struct BackgroundClient {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl BackgroundClient {
    pub(crate) async fn start(server: &ServerWithModels) -> Self {
        const MODEL: &str = "background";
        server.add_model(MODEL, torchscript::affine);
        server
            .wait_until_served(MODEL, &floats(&[2.0]), &[6.5])
            .await;
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&answers));
        let (client, url) = (server.client().clone(), server.url(&infer_path(MODEL)));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let answer = Answer::to(client.post(&url).json(&floats(&[2.0]))).await;
                assert_eq!(answer.output(), [6.5]);
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            stop,
            answers,
            task,
        }
    }

    /// Asserts that each of its requests got the right answer, and that there is one more from now on.
    pub(crate) async fn assert_undisturbed(self) {
        let before = self.answers.load(Ordering::Relaxed);
        let (answers, task) = (&self.answers, &self.task);
        wait_for_async(DEADLINE, || async {
            let more = answers.load(Ordering::Relaxed) > before || task.is_finished();
            more.then_some(()).ok_or("no further answer")
        })
        .await;
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("every answer is right");
    }
}
