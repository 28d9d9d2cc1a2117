//! What the tests play on: models with known weights, and words for what they do and need.

use std::path::Path;
use std::time::Duration;

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::{Process, tree};
use headroom_test_support::protocol::{Answer, floats};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{Fill, Script};
use headroom_test_support::wait::wait_for;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

pub(crate) const MIB: u64 = 1 << 20;

/// Far above what anything here takes; a test that reaches it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What the server and the zygote take, in MiB, at most: alone on the machine. Beside others that
/// have libtorch mapped it is some 50 less, so no test may depend on a sum that it has measured.
const BASE: u64 = 145;

/// What one host takes beyond its weights, in MiB, at most.
const HOST: u64 = 45;

/// A limit that holds so many models of so many MiB, whatever else runs on this machine. One more
/// fits only if it is much smaller than these.
pub(crate) fn room_for(models: u64, mib: u64) -> u64 {
    (BASE + models * (mib + HOST)) * MIB
}

/// Adds the models' words to [`Models`].
pub(crate) trait ModelsExt {
    /// A model with `mib` of weights, all of them `value`, which it adds to its input.
    fn adds(&self, name: &str, mib: u64, value: f32) -> &Self;

    /// The same, but it first works for as many milliseconds as its input says.
    fn works(&self, name: &str, mib: u64, value: f32) -> &Self;

    /// A model that takes as many MiB for a moment as its input says, and returns its input.
    fn takes(&self, name: &str) -> &Self;

    /// A server with these models and these settings.
    fn serve(&self, settings: &str) -> Server;

    /// The same with a memory limit.
    fn serve_within(&self, limit: u64, settings: &str) -> Server {
        self.serve(&format!("memory.limit = '{limit}B'\n{settings}"))
    }
}

impl ModelsExt for Models {
    fn adds(&self, name: &str, mib: u64, value: f32) -> &Self {
        let code = "def forward(self, x: Tensor) -> Tensor:\n  return x + self.w[0][0]\n";
        self.add(name, 1, |path| write(path, code, mib, value))
    }

    fn works(&self, name: &str, mib: u64, value: f32) -> &Self {
        let code = "def forward(self, x: Tensor) -> Tensor:\n  \
            begun = ops.prim.TimePoint()\n  \
            wanted = int(x) * 1000000\n  \
            while ops.prim.TimePoint() - begun < wanted:\n    pass\n  \
            return x + self.w[0][0]\n";
        self.add(name, 1, |path| write(path, code, mib, value))
    }

    fn takes(&self, name: &str) -> &Self {
        let code = "def forward(self, x: Tensor) -> Tensor:\n  \
            taken = torch.ones([int(x), 262144])\n  \
            return x + torch.mul(taken[0][0], 0.)\n";
        self.add(name, 1, |path| write(path, code, 1, 0.0))
    }

    fn serve(&self, settings: &str) -> Server {
        Server::start(self.options(BINARY).settings(settings))
    }
}

fn write(path: &Path, code: &str, mib: u64, value: f32) -> std::io::Result<()> {
    // A row of 1,024 floats is 4 KiB.
    let rows = i64::try_from(mib * 256).unwrap();
    let script = Script::new(code).tensor("w", &[rows, 1024], Fill::Value(value));
    script.write(path)
}

/// Asks `model` for its answer to one number.
pub(crate) async fn ask(server: &Server, model: &str, x: u16) -> Answer {
    server.infer(model, &floats("x", &[f32::from(x)])).await
}

/// The number in the one output.
#[track_caller]
pub(crate) fn number(answer: Answer) -> f64 {
    let json = answer.ok();
    json["outputs"][0]["data"][0].as_f64().unwrap()
}

/// The process that runs `model`, if any does.
pub(crate) fn host(server: &Server, model: &str) -> Option<Process> {
    let name = format!("hr:{model}");
    let mut processes = tree(server.pid()).into_iter();
    processes.find(|process| process.name == name)
}

/// The names of all processes but the server's own, sorted.
pub(crate) fn processes(server: &Server) -> Vec<String> {
    let tree = tree(server.pid()).into_iter().skip(1);
    let mut names: Vec<String> = tree.map(|process| process.name).collect();
    names.sort();
    names
}

/// Waits until exactly these processes are there beside the server's own.
#[track_caller]
pub(crate) fn wait_for_processes(server: &Server, expected: &[&str]) {
    wait_for(DEADLINE, || {
        let there = processes(server);
        if there == expected {
            Ok(())
        } else {
            Err(there)
        }
    });
}

/// Evictions of all models for one reason.
pub(crate) async fn evictions(server: &Server, reason: &str) -> f64 {
    let reason = format!("reason=\"{reason}\"");
    let labels = ["kind=\"model\"", &reason];
    server
        .metric("headroom_lazy_evictions_total", &labels)
        .await
}

/// Loads of all models.
pub(crate) async fn loads(server: &Server) -> f64 {
    let labels = ["kind=\"model\""];
    server.metric("headroom_lazy_loads_total", &labels).await
}
