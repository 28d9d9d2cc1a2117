//! Models whose memory rises without end, and models whose memory only looks like it: the real
//! server, real processes, requests over HTTP all the while.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::{Process, tree};
use headroom_test_support::protocol::{Answer, floats};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{self, Script};
use headroom_test_support::wait::wait_for_async;
use serde_json::json;
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

/// Far above what anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Callers at the same time.
const CLIENTS: u64 = 8;

/// What the leaking models keep of each call.
const LEAK: u64 = 64 << 10;

/// Looks often, so that a test takes seconds; what counts as a leak is as by default.
const OFTEN: &str = "models.leak.every_calls = 100";

fn host(server: &Server, model: &str) -> Option<Process> {
    let name = format!("hr:{model}");
    let mut processes = tree(server.pid()).into_iter();
    processes.find(|process| process.name == name)
}

async fn count(server: &Server, metric: &str, model: &str) -> f64 {
    let label = format!("name=\"{model}:1\"");
    server.metric(metric, &[&label]).await
}

/// Clients that call a model without a pause, until one gets anything but the right answer.
struct Load {
    calls: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<Answer>>>,
    enough: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    /// Each call asks for another number, and `answer` says what must come.
    fn begin(server: &Arc<Server>, model: &'static str, answer: fn(f32) -> f64) -> Self {
        let (calls, enough) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let wrong = Arc::<Mutex<Vec<Answer>>>::default();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (server, calls, enough) = (server.clone(), calls.clone(), enough.clone());
            let wrong = wrong.clone();
            clients.spawn(async move {
                while !enough.load(Ordering::Relaxed) {
                    let number = (calls.fetch_add(1, Ordering::Relaxed) % 100_000) as f32;
                    let got = server.infer(model, &floats("x", &[number])).await;
                    if got.json["outputs"][0]["data"][0] != json!(answer(number)) {
                        wrong.lock().unwrap().push(got);
                        return enough.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
        Self {
            calls,
            wrong,
            enough,
            clients,
        }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn has_failed(&self) -> bool {
        self.enough.load(Ordering::Relaxed)
    }

    /// Lets all clients finish, and looks at what went wrong.
    async fn end(mut self) {
        self.enough.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_model_that_leaks_is_replaced_again_and_again_without_one_failed_request() {
    let models = Models::new();
    models.add("leaks", 1, |path| torchscript::leaks(path, LEAK));
    let server = Arc::new(Server::start(models.options(BINARY).settings(OFTEN)));
    server.repository("leaks", "load").await.ok();
    let first = host(&server, "leaks").unwrap();

    let load = Load::begin(&server, "leaks", f64::from);
    let most = AtomicU64::new(0);
    wait_for_async(DEADLINE, async || {
        let seen = host(&server, "leaks").map_or(0, |host| host.pss);
        most.fetch_max(seen, Ordering::Relaxed);
        let recycles = count(&server, "headroom_model_recycles_total", "leaks").await;
        if recycles >= 2.0 || load.has_failed() {
            Ok(())
        } else {
            Err((recycles, load.calls(), seen))
        }
    })
    .await;
    let (calls, most) = (load.calls(), most.into_inner());
    load.end().await;

    let leaks = count(&server, "headroom_model_leaks_total", "leaks").await;
    println!("{calls} calls, {leaks} leaks, {} MiB at most", most >> 20);
    assert!(leaks >= 2.0);
    let now = host(&server, "leaks").unwrap();
    assert_ne!(now.pid, first.pid);
    // Without an end to it, every call would have stayed.
    assert!(most < first.pss + calls * LEAK, "{most}");
    // Nothing counts as a crash, and nothing was loaded again.
    let crashes = ["actor=\"headroom/models/leaks:1/host-0\""];
    assert_eq!(
        server
            .metric("headroom_actor_restarts_total", &crashes)
            .await,
        0.0
    );
    assert_eq!(
        server
            .metric("headroom_lazy_loads_total", &["kind=\"model\""])
            .await,
        1.0
    );
    assert!(server.log().contains("a model leaks memory"));
}

#[tokio::test]
async fn a_model_whose_memory_wobbles_is_left_alone_in_ten_thousand_calls() {
    let models = Models::new();
    models.add("wobbles", 1, |path| torchscript::wobbles(path, 96 << 10));
    let server = Arc::new(Server::start(models.options(BINARY).settings(OFTEN)));
    server.repository("wobbles", "load").await.ok();
    let process = host(&server, "wobbles").unwrap();

    let load = Load::begin(&server, "wobbles", |number| f64::from(number) + 1.0);
    let (least, most) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    wait_for_async(DEADLINE, async || {
        let seen = host(&server, "wobbles").unwrap().pss;
        least.fetch_min(seen, Ordering::Relaxed);
        most.fetch_max(seen, Ordering::Relaxed);
        let calls = load.calls();
        if calls >= 10_000 || load.has_failed() {
            Ok(())
        } else {
            Err(calls)
        }
    })
    .await;
    load.end().await;

    let (least, most) = (least.into_inner(), most.into_inner());
    println!("between {} and {} MiB", least >> 20, most >> 20);
    assert!(
        most > least + (32 << 20),
        "it did not wobble: {least} {most}"
    );
    assert_eq!(host(&server, "wobbles").unwrap().pid, process.pid);
    for metric in [
        "headroom_model_leaks_total",
        "headroom_model_recycles_total",
    ] {
        assert_eq!(count(&server, metric, "wobbles").await, 0.0);
    }
}

#[tokio::test]
async fn a_sequence_keeps_its_leaking_process_to_its_end() {
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
    let process = host(&server, "counts").unwrap().pid;
    let mut number = 1;
    // Well beyond the point where the leak is found.
    while count(&server, "headroom_model_leaks_total", "counts").await == 0.0 {
        assert!(number < 5000, "no leak is found");
        for _ in 0..50 {
            number += 1;
            step(number, "").await;
        }
    }
    for _ in 0..50 {
        number += 1;
        step(number, "").await;
    }
    assert_eq!(host(&server, "counts").unwrap().pid, process);
    assert_eq!(
        count(&server, "headroom_model_recycles_total", "counts").await,
        0.0
    );
    step(number + 1, "sequence_end").await;
    wait_for_async(DEADLINE, async || {
        match count(&server, "headroom_model_recycles_total", "counts").await {
            1.0 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_ne!(host(&server, "counts").unwrap().pid, process);
    step(1, "sequence_start").await;
}
