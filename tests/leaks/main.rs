//! Models that leak memory, and models whose memory only fluctuates, under a constant load of requests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{Answer, floats, host_path};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{self, Script};
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::json;
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

/// Number of concurrent clients.
const CLIENTS: u64 = 8;

/// Bytes that the leaking models keep at each call.
const LEAK: u64 = 64 << 10;

/// Checks often, so that a test takes seconds. The default decides what counts as a leak.
const FREQUENT_CHECKS: &str = "models.leak.every_calls = 100";

/// A counter of one model.
async fn count(server: &Server, metric: &str, model: &str) -> f64 {
    let label = format!("name=\"{model}:1\"");
    server.metric(metric, &[&label]).await
}

/// Clients that send requests to a model without a pause, until one gets a wrong answer.
struct Load {
    calls: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<Answer>>>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    /// Starts the clients. The numbers in the requests differ; `answer` gives the right answer to each.
    fn start(server: &Arc<Server>, model: &'static str, answer: fn(f32) -> f64) -> Self {
        let (calls, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let wrong = Arc::<Mutex<Vec<Answer>>>::default();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (server, calls, stop) = (server.clone(), calls.clone(), stop.clone());
            let wrong = wrong.clone();
            clients.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let number = (calls.fetch_add(1, Ordering::Relaxed) % 100_000) as f32;
                    let answered = server.infer(model, &floats("x", &[number])).await;
                    if answered.json["outputs"][0]["data"][0] != json!(answer(number)) {
                        wrong.lock().unwrap().push(answered);
                        return stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
        Self {
            calls,
            wrong,
            stop,
            clients,
        }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn has_failed(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Stops all clients, and asserts that no answer was wrong.
    async fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_leaking_model_is_replaced_repeatedly_without_a_failed_request() {
    let models = Models::new();
    models.add("leaks", 1, |path| torchscript::leaks(path, LEAK));
    let server = Arc::new(Server::start(
        models.options(BINARY).settings(FREQUENT_CHECKS),
    ));
    server.load("leaks").await.ok();
    let first = server.host("leaks").unwrap();
    let at_first = first.pss();

    let load = Load::start(&server, "leaks", f64::from);
    let most = AtomicU64::new(0);
    wait_for_async(DEADLINE, async || {
        let pss = server.host("leaks").map_or(0, |host| host.pss());
        most.fetch_max(pss, Ordering::Relaxed);
        // A slow trim delays the points of the detector, so that a replacement for its size may come first.
        let leaks = count(&server, "headroom_model_leaks_total", "leaks").await;
        let recycles = count(&server, "headroom_model_recycles_total", "leaks").await;
        if (leaks >= 2.0 && recycles >= 2.0) || load.has_failed() {
            Ok(())
        } else {
            Err((leaks, recycles, load.calls(), pss))
        }
    })
    .await;
    let (calls, most) = (load.calls(), most.into_inner());
    load.finish().await;

    let leaks = count(&server, "headroom_model_leaks_total", "leaks").await;
    println!("{calls} calls, {leaks} leaks, {} MiB at most", most >> 20);
    let now = server.host("leaks").unwrap();
    assert_ne!(now.pid, first.pid);
    // Without a replacement the memory would have grown at every call.
    assert!(most < at_first + calls * LEAK, "{most}");
    // No replacement counts as a crash, and the model was loaded only once.
    server.wait_for_restarts(&host_path("leaks"), 0).await;
    assert_eq!(
        server
            .metric("headroom_lazy_loads_total", &["kind=\"model\""])
            .await,
        1.0
    );
    assert!(server.log().contains("a model leaks memory"));
}

#[tokio::test]
async fn a_model_with_fluctuating_memory_is_not_replaced_in_ten_thousand_calls() {
    let models = Models::new();
    models.add("fluctuates", 1, |path| {
        torchscript::fluctuates(path, 96 << 10)
    });
    let server = Arc::new(Server::start(
        models.options(BINARY).settings(FREQUENT_CHECKS),
    ));
    server.load("fluctuates").await.ok();
    let process = server.host("fluctuates").unwrap();

    let load = Load::start(&server, "fluctuates", |number| f64::from(number) + 1.0);
    let (least, most) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    wait_for_async(DEADLINE, async || {
        let pss = server.host("fluctuates").unwrap().pss();
        least.fetch_min(pss, Ordering::Relaxed);
        most.fetch_max(pss, Ordering::Relaxed);
        let calls = load.calls();
        if calls >= 10_000 || load.has_failed() {
            Ok(())
        } else {
            Err(calls)
        }
    })
    .await;
    load.finish().await;

    let (least, most) = (least.into_inner(), most.into_inner());
    println!("between {} and {} MiB", least >> 20, most >> 20);
    assert!(
        most > least + (32 << 20),
        "the memory did not fluctuate: {least} to {most}"
    );
    assert_eq!(server.host("fluctuates").unwrap().pid, process.pid);
    for metric in [
        "headroom_model_leaks_total",
        "headroom_model_recycles_total",
    ] {
        assert_eq!(count(&server, metric, "fluctuates").await, 0.0);
    }
}

#[tokio::test]
async fn a_leaking_process_is_not_replaced_before_the_end_of_its_sequence() {
    let code = format!(
        "def forward(self, x: Tensor) -> Tensor:\n  self.count = self.count + 1\n  \
         _0 = torch.append(self.kept, torch.rand([{}]))\n  return x + self.count\n\
         def reset_states(self) -> NoneType:\n  self.count = 0\n  return None\n",
        LEAK
    );
    let models = Models::new();
    models
        .add("counts", 1, |path| {
            Script::new(&code)
                .int("count", 0)
                .tensors("kept")
                .write(path)
        })
        .settings("counts", 1, "stateful = true\nwarmup = false");
    let server = Server::start(
        models
            .options(BINARY)
            .settings("models.leak.every_calls = 20"),
    );
    let step = async |number: u32, part: &str| {
        let mut request = floats("x", &[0.0]);
        request["parameters"] = json!({ "sequence_id": "long" });
        if !part.is_empty() {
            request["parameters"][part] = json!(true);
        }
        let counted = server.infer("counts", &request).await;
        let counted = counted.ok()["outputs"][0]["data"][0].as_f64();
        assert_eq!(counted, Some(f64::from(number)));
    };

    step(1, "sequence_start").await;
    let process = server.host("counts").unwrap().pid;
    let mut number = 1;
    // Further requests after the leak is found.
    while count(&server, "headroom_model_leaks_total", "counts").await == 0.0 {
        assert!(number < 5000, "the leak is not found");
        for _ in 0..50 {
            number += 1;
            step(number, "").await;
        }
    }
    for _ in 0..50 {
        number += 1;
        step(number, "").await;
    }
    assert_eq!(server.host("counts").unwrap().pid, process);
    assert_eq!(
        count(&server, "headroom_model_recycles_total", "counts").await,
        0.0
    );
    step(number + 1, "sequence_end").await;
    let label = ["name=\"counts:1\""];
    server
        .wait_for_metric("headroom_model_recycles_total", &label, |count| {
            count == 1.0
        })
        .await;
    assert_ne!(server.host("counts").unwrap().pid, process);
    step(1, "sequence_start").await;
}
