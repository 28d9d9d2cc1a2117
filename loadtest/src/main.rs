//! Measures a Headroom that it starts itself, in a folder of its own:
//! `cargo run --release -p headroom-loadtest -- <scenario>`.
//!
//! Every figure is a median or a percentile of many measurements. Figures that are compared come from the
//! same run. The report has the load average as well, because figures of a busy machine mean less.

#![expect(clippy::print_stdout, reason = "it prints a report")]

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

use report::{Figure, Report};
use server::Binaries;

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A file or a socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What failed.
        what: String,
        source: std::io::Error,
    },
    /// The server's answer was not as expected.
    #[error("{0}")]
    Answer(String),
    /// Another program is missing or failed, or the input is not usable.
    #[error("{0}")]
    Program(String),
}

impl Error {
    /// For `map_err`. `what` says what failed.
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
    /// For `policy`: replay this trace instead of the built-in ones. One request per line: name, bytes,
    /// seconds to load.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// For `policy` with a trace: the budget in bytes. The default is a third of all models together.
    #[arg(long, requires = "trace")]
    budget: Option<u64>,
    /// For `postgres` and `redis`: how long each pool is measured.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// For `postgres` and `redis`: run as the peer of this label, by the plan in the environment.
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
    /// All of the above.
    All,
    /// Eviction policies beside an offline optimum, by replays of traces. Starts no server.
    Policy,
    /// Pools of PostgreSQL connections beside other pools, on a private server. Starts no Headroom.
    Postgres,
    /// The same for Redis.
    Redis,
}

type Measure = fn(&Binaries) -> Result<Vec<Figure>, Error>;

/// The scenarios of a server, with the titles of their sections.
const MEASUREMENTS: [(Scenario, &str, Measure); 5] = [
    (Scenario::ColdStart, "cold start", scenario::cold_start),
    (Scenario::Resident, "resident memory", scenario::resident),
    (Scenario::Load, "load", scenario::load),
    (Scenario::Infer, "infer", scenario::infer),
    (Scenario::Pressure, "memory pressure", scenario::pressure),
];

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
    for (scenario, title, measure) in MEASUREMENTS {
        if [scenario, Scenario::All].contains(&arguments.scenario) {
            report.section(title, measure(&binaries)?);
        }
    }
    report.end();
    match &arguments.json {
        Some(path) => report::write_json(&report, path),
        None => Ok(()),
    }
}

fn compare_pools(kind: pools::Kind, arguments: &Arguments) -> Result<(), Error> {
    let done = match &arguments.peer {
        Some(peer) => pools::run_peer(peer),
        None => pools::compare(kind, arguments.seconds),
    };
    done.map_err(|error| Error::Program(error.to_string()))
}
