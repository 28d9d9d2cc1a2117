//! Measures a Headroom that it starts itself, in a folder of its own:
//! `cargo run --release -p headroom-loadtest -- <scenario>`.
//!
//! Every figure is a median or a percentile of many; what is compared is measured in the same run.
//! The load average is told with the figures: on a busy machine they mean less.

#![expect(clippy::print_stdout, reason = "its report is what it is for")]

mod client;
mod policy;
mod pools;
mod random;
mod report;
mod sample;
mod scenario;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use report::Report;
use server::Binaries;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A file or a socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        source: std::io::Error,
    },
    /// The server answered something else than expected.
    #[error("{0}")]
    Answer(String),
    /// A program that is compared with is not there, or failed.
    #[error("{0}")]
    Program(String),
}

impl Error {
    /// For `map_err`: says what was tried.
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Measures a Headroom that it starts itself.
#[derive(Parser)]
struct Arguments {
    /// What to measure.
    scenario: Scenario,
    /// The server's binary; its model host is beside it.
    #[arg(long, default_value = "target/release/headroom")]
    server: PathBuf,
    /// Also write the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// For `policy`: replay this trace instead of the built-in ones. A request a line: name, bytes,
    /// seconds to load.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// For `policy` with a trace: the bytes that it is replayed within. Otherwise a third of what all
    /// its models take.
    #[arg(long, requires = "trace")]
    budget: Option<u64>,
    /// For `postgres` and `redis`: how long each pool is measured.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// For `postgres` and `redis`: also draw the figures into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// For `postgres` and `redis`: be the peer of this name, as the plan on the input says.
    #[arg(long, hide = true)]
    peer: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
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
    /// All of the above.
    All,
    /// Eviction policies beside an offline optimum. A replay: starts no server, measures nothing.
    Policy,
    /// Pools of PostgreSQL beside those that others use, on a private server. Starts no Headroom.
    Postgres,
    /// The same for Redis.
    Redis,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("headroom-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    match arguments.scenario {
        Scenario::Policy => {
            return policy::compare(arguments.trace.as_deref(), arguments.budget);
        }
        Scenario::Postgres => return compare_pools(pools::Kind::Postgres, arguments),
        Scenario::Redis => return compare_pools(pools::Kind::Redis, arguments),
        _ => {}
    }
    let binaries = Binaries::at(&arguments.server)?;
    let mut report = Report::begin();
    let scenario = arguments.scenario;
    let wanted = |one: Scenario| matches!(scenario, Scenario::All) || same(scenario, one);
    if wanted(Scenario::ColdStart) {
        report.section("cold start", scenario::cold_start(&binaries)?);
    }
    if wanted(Scenario::Resident) {
        report.section("resident memory", scenario::resident(&binaries)?);
    }
    if wanted(Scenario::Load) {
        report.section("load", scenario::load(&binaries)?);
    }
    if wanted(Scenario::Infer) {
        report.section("infer", scenario::infer(&binaries)?);
    }
    if wanted(Scenario::Pressure) {
        report.section("memory pressure", scenario::pressure(&binaries)?);
    }
    report.end();
    match &arguments.json {
        Some(path) => report.write(path),
        None => Ok(()),
    }
}

fn compare_pools(kind: pools::Kind, arguments: &Arguments) -> Result<(), Error> {
    if let Some(peer) = &arguments.peer {
        return pools::run_peer(peer);
    }
    let options = pools::Options {
        seconds: arguments.seconds,
        json: arguments.json.as_deref(),
        svg: arguments.svg.as_deref(),
    };
    pools::compare(kind, &options)
}

fn same(a: Scenario, b: Scenario) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}
