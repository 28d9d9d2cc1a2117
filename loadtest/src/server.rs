//! The measured programs, and the start of a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use headroom_test_support::child;
use headroom_test_support::models::{Models, sample_file, speech_60s};
use headroom_test_support::server::{Options, Server};
use serde::Deserialize;

use crate::Error;
use crate::client::{Connection, Request};

/// The deadline of all bare forwards.
const BARE_WITHIN: Duration = Duration::from_secs(600);

/// The paths of the measured programs.
pub(crate) struct Binaries {
    pub(crate) server: PathBuf,
    bare_forward: PathBuf,
}

impl Binaries {
    /// The server at `path`, and the example that was built beside it.
    pub(crate) fn at(path: &Path) -> Result<Self, Error> {
        let server = path.canonicalize().map_err(Error::io(format!(
            "{}: build it first (cargo build --release -p headroom -p headroom-model-host)",
            path.display()
        )))?;
        let bare_forward = server.with_file_name("examples").join("bare_forward");
        Ok(Self {
            server,
            bare_forward,
        })
    }

    /// The options of a server without settings.
    pub(crate) fn options(&self) -> Options {
        Options::new(&self.server)
    }

    /// Starts a server with `models` and these lines of settings.
    pub(crate) fn start(&self, models: &Models, settings: &str) -> Server {
        let dir = format!("models.dir = '{}'", models.path().display());
        let quiet = "log.filter = 'warn'";
        let options = self.options().settings(&dir).settings(quiet);
        Server::start(options.settings(settings))
    }

    /// Measures `runs` forwards of the sample model in a process with only libtorch. The state is reset
    /// before each, as the server does for requests without a sequence.
    pub(crate) fn bare_forward(&self, runs: usize) -> Result<BareTimes, Error> {
        let program = self.bare_forward.display();
        let mut command = child::command(&self.bare_forward);
        command.arg(sample_file()).arg(speech_60s()).arg("--fresh");
        let output = child::output(command.arg("--bench").arg(runs.to_string()), BARE_WITHIN);
        let output = output.map_err(Error::io(format!(
            "{program}: build it first (cargo build --release -p headroom-model-host --examples)"
        )))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(Error::Program(format!("{program} failed: {stderr}")));
        }
        let report: BareReport = serde_json::from_slice(&output.stdout)
            .map_err(|error| Error::Program(format!("{program} printed no times: {error}")))?;
        // The sample model's settings disable the optimiser.
        Ok(report.plain)
    }
}

#[derive(Deserialize)]
struct BareReport {
    plain: BareTimes,
}

/// Times of bare forwards.
#[derive(Deserialize)]
pub(crate) struct BareTimes {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Loads or unloads a model, as `what` says, and waits for the answer.
pub(crate) fn repository(server: &Server, model: &str, what: &str) -> Result<(), Error> {
    let path = format!("/v2/repository/models/{model}/{what}");
    let mut connection = Connection::open(server.address())?;
    connection.ask(&Request::post(&path, "{}")).map(drop)
}
