//! Why a command failed, and the exit codes.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use thiserror::Error;

use super::client::ClientError;
use super::output::one_line;
use super::refusal::Refusal;
use crate::settings::SettingsError;
use crate::startup::{MachineError, StartupError};
use crate::telemetry::{TelemetryError, stderr};

/// EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;
/// EX_UNAVAILABLE of sysexits.h.
const EXIT_UNREACHABLE: u8 = 69;
/// EX_CONFIG of sysexits.h.
const EXIT_CONFIG: u8 = 78;
/// 128 plus the number of SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

/// Why a command failed.
#[derive(Debug, Error)]
pub enum Failure {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(clap::Error),
    /// The settings are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The settings cannot work on this machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
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
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard output cannot be written to.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// A request to a server cannot be made.
    #[error("cannot make requests: {0}")]
    Client(#[source] io::Error),
    /// No Headroom server answers at the URL.
    #[error("{0}")]
    NoServer(#[from] ClientError),
    /// The server refused a request.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// Not all was done that was asked for. The output has the details.
    #[error("{0}")]
    Incomplete(String),
    /// Some checks of `doctor` failed. The output has the details.
    #[error("{count} failed")]
    Checks {
        /// How many.
        count: String,
        /// Whether that of the settings is among them.
        settings: bool,
    },
    /// The user interrupted the command.
    #[error("interrupted")]
    Interrupted,
    /// A job was started and its end is not known.
    #[error("the job {id} may still run: `curl {url}` shows it, until the server restarts")]
    JobLeft {
        /// The job.
        id: String,
        /// Where it is shown.
        url: String,
        /// Why it was left.
        cause: Box<Self>,
    },
}

impl Failure {
    /// Writes the error to standard error and returns the exit code. One line per error, except usage
    /// errors, errors of a server, which have a hint, and a job that was left, which is named. The problem
    /// of a server goes to standard output, too, if the command writes JSON.
    pub fn report(self) -> ExitCode {
        self.tell();
        self.exit_code()
    }

    fn tell(&self) {
        match self {
            Self::Usage(error) => drop(error.print()),
            Self::Settings(SettingsError(faults)) | Self::Machine(MachineError(faults)) => {
                faults.iter().for_each(|fault| complain(fault));
            }
            Self::Refused(refusal) => {
                if let Err(failure) = refusal.print() {
                    complain(&failure.to_string());
                }
                complain(&refusal.to_string());
                if let Some(hint) = refusal.hint() {
                    complain(&hint);
                }
            }
            Self::JobLeft { cause, .. } => {
                cause.tell();
                complain(&self.to_string());
            }
            other => complain(&other.to_string()),
        }
    }

    /// Whether the same request can succeed soon: the server restarts, or is busy.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::NoServer(error) => error.is_temporary(),
            Self::Refused(refusal) => refusal.is_temporary(),
            _ => false,
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::JobLeft { cause, .. } => cause.exit_code(),
            Self::Usage(_) => EXIT_USAGE.into(),
            Self::Settings(_) | Self::Machine(_) | Self::Checks { settings: true, .. } => {
                EXIT_CONFIG.into()
            }
            Self::NoServer(_) => EXIT_UNREACHABLE.into(),
            Self::Interrupted => EXIT_INTERRUPTED.into(),
            _ => ExitCode::FAILURE,
        }
    }
}

fn complain(error: &str) {
    stderr::write_line(&format!("headroom: {}", one_line(error)));
}
