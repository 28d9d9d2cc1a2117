//! The scenarios that measure a server, one per file. Each starts its own servers and prints its figures.

mod cold_start;
mod infer;
mod load;
mod pressure;
mod resident;
mod scrape;

use std::path::{Path, PathBuf};
use std::time::Duration;

use headroom_test_support::models::Models;
use headroom_test_support::server::Server;

use crate::client::{Connection, post};
use crate::{Result, Scenario, report};
pub(crate) use infer::bodies as speech_bodies;
pub(crate) use scrape::series;

type Measure = fn(&Path) -> Result<()>;

const MEASUREMENTS: [(Scenario, &str, Measure); 6] = [
    (Scenario::ColdStart, "cold start", cold_start::measure),
    (Scenario::Resident, "resident memory", resident::measure),
    (Scenario::Load, "load", load::measure),
    (Scenario::Infer, "infer", infer::measure),
    (Scenario::Pressure, "memory pressure", pressure::measure),
    (Scenario::Scrape, "scrape", scrape::measure),
];

/// Measures the server with the binary at `path`.
pub(crate) fn run(scenario: Scenario, path: &Path) -> Result<()> {
    let binary = built(path)?;
    for (each, title, measure) in MEASUREMENTS {
        if [each, Scenario::All].contains(&scenario) {
            report::title(title);
            measure(&binary)?;
        }
    }
    Ok(())
}

/// The binary at `path`, which must have been built.
pub(crate) fn built(path: &Path) -> Result<PathBuf> {
    Ok(path.canonicalize().map_err(|error| {
        let build = "cargo build --release -p headroom -p headroom-model-host";
        format!("{}: {error}: build it first ({build})", path.display())
    })?)
}

/// Starts a server with `models` and these lines of settings.
fn start(binary: &Path, models: &Models, settings: &str) -> Server {
    let options = models.options(binary).settings("log.filter = 'warn'");
    Server::start(options.settings(settings))
}

/// Loads or unloads a model, as `what` says, and waits for the answer.
fn repository(server: &Server, model: &str, what: &str) -> Result<()> {
    let path = format!("/v2/repository/models/{model}/{what}");
    let mut connection = Connection::open(server.address())?;
    connection.ask(&post(&path, "{}")).map(drop)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the measuring threads run no async tasks"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
