//! Models of known memory, servers with a memory limit, and what the tests ask them.

use std::path::Path;

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::descendants;
use headroom_test_support::protocol::{Answer, floats};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{Fill, Script};
use headroom_test_support::wait::{DEADLINE, wait_for, wait_for_async};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

pub(crate) const MIB: u64 = 1 << 20;

/// Upper bound of the memory of the server and the zygote, in MiB. It is some 50 less while other processes on the
/// machine have libtorch mapped, so no test may depend on a measured sum.
const BASE: u64 = 192;

/// Upper bound of the memory of one host beyond its weights, in MiB.
const HOST: u64 = 45;

/// A limit that holds `models` models of `mib` MiB, whatever else runs on the machine. One more fits only if it is much
/// smaller.
pub(crate) fn limit_for(models: u64, mib: u64) -> u64 {
    (BASE + models * (mib + HOST)) * MIB
}

/// Adds models of known memory to [`Models`], and starts servers with them.
pub(crate) trait AddModels {
    /// Adds a model with `mib` MiB of weights. All weights are `value`, which the model adds to its input.
    fn add_adder(&self, name: &str, mib: u64, value: f32) -> &Self;

    /// The same, but the model first works for as many milliseconds as its input says.
    fn add_slow_adder(&self, name: &str, mib: u64, value: f32) -> &Self;

    /// Adds a model that allocates as many MiB during a call as its input says, and returns its input.
    fn add_allocator(&self, name: &str) -> &Self;

    /// Starts a server with these models and these settings.
    fn start_server(&self, settings: &str) -> Server;

    /// The same with a memory limit, in bytes.
    fn start_server_with_limit(&self, limit: u64, settings: &str) -> Server {
        self.start_server(&format!("memory.limit = '{limit}B'\n{settings}"))
    }
}

impl AddModels for Models {
    fn add_adder(&self, name: &str, mib: u64, value: f32) -> &Self {
        let code = "def forward(self, x: Tensor) -> Tensor:\n  return x + self.w[0][0]\n";
        self.add(name, 1, |path| write(path, code, mib, value))
    }

    fn add_slow_adder(&self, name: &str, mib: u64, value: f32) -> &Self {
        let code = "def forward(self, x: Tensor) -> Tensor:\n  \
            begun = ops.prim.TimePoint()\n  \
            wanted = int(x) * 1000000\n  \
            while ops.prim.TimePoint() - begun < wanted:\n    pass\n  \
            return x + self.w[0][0]\n";
        self.add(name, 1, |path| write(path, code, mib, value))
    }

    fn add_allocator(&self, name: &str) -> &Self {
        let code = "def forward(self, x: Tensor) -> Tensor:\n  \
            taken = torch.ones([int(x), 262144])\n  \
            return x + torch.mul(taken[0][0], 0.)\n";
        self.add(name, 1, |path| write(path, code, 1, 0.0))
    }

    fn start_server(&self, settings: &str) -> Server {
        Server::start(self.options(BINARY).settings(settings))
    }
}

fn write(path: &Path, code: &str, mib: u64, value: f32) -> std::io::Result<()> {
    // A row of 1,024 floats is 4 KiB.
    let rows = i64::try_from(mib * 256).unwrap();
    let script = Script::new(code).tensor("w", &[rows, 1024], Fill::Value(value));
    script.write(path)
}

/// Sends a request with one number to `model`.
pub(crate) async fn ask(server: &Server, model: &str, x: u16) -> Answer {
    server.infer(model, &floats("x", &[f32::from(x)])).await
}

/// Sends requests to `model` until one is answered with 200.
pub(crate) async fn wait_until_served(server: &Server, model: &str, x: u16) {
    wait_for_async(DEADLINE, || async {
        let answer = ask(server, model, x).await;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
}

/// The names of all processes below the server, sorted.
pub(crate) fn processes(server: &Server) -> Vec<String> {
    let processes = descendants(server.pid()).into_iter();
    let mut names: Vec<String> = processes.map(|process| process.name).collect();
    names.sort();
    names
}

/// Waits until exactly these processes are below the server.
#[track_caller]
pub(crate) fn wait_for_processes(server: &Server, expected: &[&str]) {
    wait_for(DEADLINE, || {
        let found = processes(server);
        if found == expected {
            Ok(())
        } else {
            Err(found)
        }
    });
}

/// The number of evictions of models for one reason.
pub(crate) async fn evictions(server: &Server, reason: &str) -> f64 {
    let reason = format!("reason=\"{reason}\"");
    let labels = ["kind=\"model\"", &reason];
    server
        .metric("headroom_lazy_evictions_total", &labels)
        .await
}

/// The number of loads of models.
pub(crate) async fn loads(server: &Server) -> f64 {
    let labels = ["kind=\"model\""];
    server.metric("headroom_lazy_loads_total", &labels).await
}
