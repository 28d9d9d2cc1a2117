//! Measures a Headroom that it starts itself, in a folder of its own:
//! `cargo run --release -p headroom-loadtest -- <scenario>`.
//!
//! Every figure is a median or a percentile of many measurements. Figures that are compared come from the
//! same run. The report has the load average as well, because figures of a busy machine mean less.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it prints a report"
)]

mod chains;
mod chart;
mod client;
mod edge;
mod node;
mod policy;
mod pools;
mod report;
mod restarts;
mod running;
mod sample;
mod scenario;
mod soak;
mod uploads;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tikv_jemallocator::Jemalloc;

/// The allocator of the server, also for what it is compared with in this process.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Why a measurement failed. Nothing depends on the kind of error.
type Error = Box<dyn std::error::Error + Send + Sync>;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Measures a Headroom that it starts itself.
#[derive(Parser)]
struct Arguments {
    /// What to measure.
    scenario: Scenario,
    /// The server's binary; its model host is beside it.
    #[arg(long, default_value_os_t = built_server())]
    server: PathBuf,
    /// For `policy`: replay this trace instead of the built-in ones. One request per line: name, bytes,
    /// seconds to load.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// For `policy` with a trace: the budget in bytes. The default is a third of all models together.
    #[arg(long, requires = "trace")]
    budget: Option<u64>,
    /// For `postgres`, `postgres-slow`, `redis` and `soak`: write the results to this folder too, as JSON and SVG.
    #[arg(long)]
    out: Option<PathBuf>,
    /// For `postgres`, `postgres-slow`, `redis`, `edge`, `uploads` and `chains`: how long each peer is measured. For `uploads`:
    /// with each size and number of clients. For `chains`: with each node, load and number of connections.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// For `postgres`, `postgres-slow` and `redis`: the number of callers.
    #[arg(long)]
    callers: Option<u32>,
    /// For `restarts`: the number of restarts.
    #[arg(long, default_value_t = 20)]
    restarts: u32,
    /// For `soak`: how long it takes, a day at most.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=24 * 60))]
    minutes: u64,
    /// For `postgres`, `redis`, `edge` and `chains`: run as the peer of this label, as the environment says.
    #[arg(long, hide = true)]
    peer: Option<String>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Scenario {
    /// From exec to the first answer.
    ColdStart,
    /// Memory with nothing loaded, and of each further model beyond its weights.
    Resident,
    /// Loading the sample model with a warm zygote.
    Load,
    /// Latency and throughput of inference, beside a bare forward.
    Infer,
    /// What the memory supervisor costs at rest, and how fast it brings memory back.
    Pressure,
    /// Scrapes of the metrics with 500 models.
    Scrape,
    /// All of the above.
    All,
    /// Eviction policies beside an offline optimum, by replays of traces. Starts no server.
    Policy,
    /// Pools of PostgreSQL connections beside other pools, on a private server. Starts no Headroom.
    Postgres,
    /// The same, with 2 % statements that take 20 ms.
    PostgresSlow,
    /// The same as `postgres` for Redis.
    Redis,
    /// What the middleware and a call of an actor cost, beside bare actix-web and other servers.
    Edge,
    /// Uploads of large and small files, beside other servers and the disk itself.
    Uploads,
    /// Calls to a chain, beside other gateways and without one.
    Chains,
    /// Requests that fail while servers replace each other under load.
    Restarts,
    /// What grows while a server is under a steady mixed load for long, and requests that fail.
    Soak,
}

/// Where cargo puts the server.
fn built_server() -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR");
    let folder = folder.map_or_else(|| "target".into(), PathBuf::from);
    folder.join("release/headroom")
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headroom-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(peer) = &arguments.peer {
        return match arguments.scenario {
            Scenario::Edge => edge::run_server(peer),
            Scenario::Chains => chains::run_upstream(),
            _ => pools::run_peer(peer),
        };
    }
    report::origin();
    report::load_average();
    let compare_pools = |kind| {
        let out = arguments.out.as_deref();
        pools::compare(kind, arguments.callers, arguments.seconds, out)
    };
    match arguments.scenario {
        Scenario::Policy => policy::compare(arguments.trace.as_deref(), arguments.budget)?,
        Scenario::Postgres => compare_pools(pools::Kind::Postgres)?,
        Scenario::PostgresSlow => compare_pools(pools::Kind::PostgresSlow)?,
        Scenario::Redis => compare_pools(pools::Kind::Redis)?,
        Scenario::Edge => edge::compare(arguments.seconds)?,
        Scenario::Uploads => uploads::compare(&arguments.server, arguments.seconds)?,
        Scenario::Chains => chains::compare(&arguments.server, arguments.seconds)?,
        Scenario::Restarts => restarts::measure(&arguments.server, arguments.restarts)?,
        Scenario::Soak => {
            let time = Duration::from_secs(arguments.minutes * 60);
            soak::measure(&arguments.server, time, arguments.out.as_deref())?;
        }
        of_server => scenario::run(of_server, &arguments.server)?,
    }
    report::load_average();
    Ok(())
}
