//! The command line.
//!
//! Exit codes: 0 for success; 1 if the server did not start or did not stop in order; 64 (EX_USAGE) for
//! a wrong command line; 78 (EX_CONFIG) for settings that are wrong or cannot work on this machine; 128
//! plus the signal's number after a second signal to stop.

mod models;

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use actix_web::rt::System;
use clap::{CommandFactory, Parser, Subcommand};
use thiserror::Error;

use crate::openapi;
use crate::settings::layers::{DEFAULT_FILE, VARIABLE_PREFIX};
use crate::settings::{self, Environment, Loaded, Reloader, SettingsError, Sources};
use crate::signals;
use crate::startup::{Application, BudgetError, StartupError, check_budget};
use crate::telemetry::{self, TelemetryError, stderr};
use crate::version;

/// EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;
/// EX_CONFIG of sysexits.h.
const EXIT_CONFIG: u8 = 78;

/// Version, commit (if the build knows it), build profile, and platform.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} (commit {}, {} build, {}-{})",
        version::VERSION,
        version::COMMIT,
        version::PROFILE,
        env::consts::ARCH,
        env::consts::OS,
    )
});

#[derive(Debug, Parser)]
#[command(name = "headroom", version = VERSION.as_str(), about = env!("CARGO_PKG_DESCRIPTION"))]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until SIGTERM or SIGINT; SIGHUP reloads the settings
    Serve {
        #[command(flatten)]
        files: Sources,
        /// When the server is ready, write its addresses and process id to FILE as JSON
        #[arg(long, value_name = "FILE")]
        ready_file: Option<PathBuf>,
    },
    /// Check the settings and print each with its origin; secrets are masked
    CheckConfig {
        #[command(flatten)]
        files: Sources,
    },
    /// Print the OpenAPI document of the server
    Openapi,
    /// Inspect the models without a server
    Models {
        #[command(subcommand)]
        command: ModelsCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// List the models in models.dir: each version, its size, and errors in its settings
    List {
        #[command(flatten)]
        files: Sources,
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
}

/// Why a command failed.
#[derive(Debug, Error)]
pub enum Failure {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(clap::Error),
    /// The settings are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The memory budget cannot work.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// Logs cannot be written.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The signal handlers cannot be installed.
    #[error("cannot listen to signals: {0}")]
    Signals(#[source] io::Error),
    /// The server did not start or did not stop in order.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// The models folder exists but cannot be read.
    #[error("cannot read models.dir {}: {source}", dir.display())]
    ModelsDir {
        /// Where it is.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard output is closed.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

impl Failure {
    /// Writes the error to standard error and returns the exit code. One line per error, except usage
    /// errors, which have a hint.
    pub fn report(self) -> ExitCode {
        match self {
            Self::Usage(error) => {
                error.print().ok();
                ExitCode::from(EXIT_USAGE)
            }
            Self::Settings(SettingsError(faults)) => {
                faults.iter().for_each(complain);
                ExitCode::from(EXIT_CONFIG)
            }
            Self::Budget(error) => {
                complain(&error);
                ExitCode::from(EXIT_CONFIG)
            }
            other => {
                complain(&other);
                ExitCode::FAILURE
            }
        }
    }
}

fn complain(error: &impl Display) {
    stderr::write_line(&format!("headroom: {error}"));
}

/// Runs the command that the command line and the environment of this process name.
///
/// # Errors
/// The command failed.
pub fn run() -> Result<(), Failure> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // The help or the version, which was asked for.
        Err(error) if !error.use_stderr() => return error.print().map_err(Failure::Output),
        Err(error) => return Err(Failure::Usage(error)),
    };
    match cli.command {
        None => Cli::command().print_help().map_err(Failure::Output),
        Some(Command::CheckConfig { files }) => check_config(&files),
        Some(Command::Serve { files, ready_file }) => serve(files, ready_file),
        Some(Command::Openapi) => print_openapi(),
        Some(Command::Models {
            command: ModelsCommand::List { files, json },
        }) => {
            let loaded = settings::load(&files, &environment())?;
            models::list(&loaded.settings.models.dir, json)
        }
    }
}

fn check_config(sources: &Sources) -> Result<(), Failure> {
    let loaded = settings::load(sources, &environment())?;
    check_budget(&loaded.settings)?;
    write!(io::stdout(), "{loaded}").map_err(Failure::Output)
}

fn print_openapi() -> Result<(), Failure> {
    let text = openapi::text().map_err(io::Error::from);
    let printed = text.and_then(|text| io::stdout().write_all(text.as_bytes()));
    printed.map_err(Failure::Output)
}

fn serve(sources: Sources, ready_file: Option<PathBuf>) -> Result<(), Failure> {
    let environment = environment();
    let Loaded { settings, .. } = settings::load(&sources, &environment)?;
    check_budget(&settings)?;
    let log_filter = telemetry::install_logs(&settings.log)?;
    let signals = signals::listen().map_err(Failure::Signals)?;
    tracing::info!(
        version = VERSION.as_str(),
        config = %sources.config.as_deref().unwrap_or(DEFAULT_FILE.as_ref()).display(),
        profile = sources.profile.as_deref(),
        "starting"
    );
    let mut application = Application::build(Reloader::new(sources, environment, settings))?;
    application.log_filter = Some(log_filter);
    application.ready_file = ready_file;
    System::new().block_on(application.run(signals))?;
    Ok(())
}

/// The variables of the environment that may be settings.
fn environment() -> Environment {
    env::vars_os()
        .filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with(VARIABLE_PREFIX)
                .then(|| (name, value.to_string_lossy().into_owned()))
        })
        .collect()
}
