//! The command line.
//!
//! Some commands read this machine (`serve`, `check-config`, `doctor`), some ask a running server
//! (`status`, `gc`, `optimize`, most of `models`). Each has a file of its own. They write results for
//! people, or JSON for scripts, to standard output, and errors and progress to standard error.
//!
//! Exit codes: 0 for success; 1 if something failed: the server did not start or did not stop in order, it
//! refused a request, not all was done, or a check failed; 64 (EX_USAGE) for a wrong command line; 69
//! (EX_UNAVAILABLE) if no Headroom server answers; 78 (EX_CONFIG) for settings that are wrong or cannot work on this
//! machine; 128 plus the signal's number after a second signal to stop, and 130 after Ctrl-C.

mod answer;
mod client;
mod completions;
mod doctor;
mod failure;
mod job;
mod memory;
mod models;
mod optimize;
mod output;
mod part;
mod refusal;
mod server_url;
mod status;

use std::env;
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::sync::LazyLock;

use actix_web::rt::System;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

pub use failure::Failure;

use crate::connection::Drain;
use crate::openapi;
use crate::settings::layers::DEFAULT_FILE;
use crate::settings::{self, Environment, Loaded, Reloader, Sources};
use crate::signals;
use crate::startup::{Application, DataDir, StartupError, check_machine, ready_file};
use crate::telemetry::{self, stderr};
use crate::version;

/// Version, commit (if the build knows it, or else how it gets to know it), build profile, and platform.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = match version::COMMIT {
        version::UNKNOWN_COMMIT => "not recorded: `make build` in a git checkout records it",
        commit => commit,
    };
    format!(
        "{} (commit {commit}, {} build, {}-{})",
        version::VERSION,
        version::PROFILE,
        env::consts::ARCH,
        env::consts::OS,
    )
});

/// What `headroom --help` and the manual say after the commands.
const AFTER_HELP: &str = "\
Examples:
  headroom serve --profile production
  headroom doctor
  headroom status --watch
  headroom models load silero-vad
  headroom models list --url http://10.0.0.5:8080 --json

Environment:
  HEADROOM_URL       the server that commands ask, if not http://127.0.0.1:8080
  HEADROOM__<KEY>    a setting, such as HEADROOM__MEMORY__LIMIT=2GiB
  NO_COLOR           no colours, if set and not empty
  SSL_CERT_FILE      the accepted authorities of https servers, if not the system's

Exit status:
  0    success
  1    something failed: the server refused a request, not all was done, a check failed
  64   the command line is wrong
  69   no Headroom server answers at the URL
  78   the settings are wrong, or cannot work on this machine
  130  Ctrl-C";

#[derive(Debug, Parser)]
#[command(
    name = "headroom",
    version = VERSION.as_str(),
    about = env!("CARGO_PKG_DESCRIPTION"),
    after_long_help = AFTER_HELP,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until SIGTERM, SIGINT or SIGQUIT; SIGHUP reloads the settings
    Serve {
        #[command(flatten)]
        files: Sources,
        /// When the server is ready, write its addresses and process id to FILE as JSON
        #[arg(long, value_name = "FILE")]
        ready_file: Option<PathBuf>,
    },
    /// Check the settings and whether they can work on this machine, and print each with its origin; secrets are masked
    CheckConfig {
        #[command(flatten)]
        files: Sources,
    },
    /// Print the OpenAPI document of the server
    Openapi,
    /// Check what the server needs on this machine: programs, other servers, limits, files
    Doctor(doctor::DoctorArgs),
    /// Show whether a server is well, how full its budget is, what is loaded and what fails
    Status(status::StatusArgs),
    /// List, load, unload and pin models
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// Collect memory that the processes of a server have freed but kept
    #[command(after_help = "Example:\n  headroom gc --url http://127.0.0.1:8080")]
    Gc(memory::GcArgs),
    /// Clean up all that can be freed: allocators, caches, idle connections and models; look for leaks
    Optimize(optimize::OptimizeArgs),
    /// Print the completions of a shell
    #[command(after_help = "Examples:\n  \
        headroom completions bash > /etc/bash_completion.d/headroom\n  \
        headroom completions zsh > /usr/local/share/zsh/site-functions/_headroom\n  \
        headroom completions fish > ~/.config/fish/completions/headroom.fish")]
    Completions(completions::CompletionsArgs),
    /// Print the manual page
    #[command(after_help = "Examples:\n  \
        headroom man | man -l -\n  \
        headroom man --dir /usr/local/share/man/man1")]
    Man(completions::ManArgs),
}

/// Runs the command that the command line and the environment of this process name.
///
/// # Errors
/// The command failed.
pub fn run() -> Result<(), Failure> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // The help or the version, which was asked for.
        Err(error) if !error.use_stderr() => return output::has_reader(error.print()).map(drop),
        Err(error) => return Err(Failure::Usage(error)),
    };
    match cli.command {
        None => output::has_reader(Cli::command().print_help()).map(drop),
        Some(Command::CheckConfig { files }) => check_config(&files),
        Some(Command::Serve { files, ready_file }) => serve(files, ready_file),
        Some(Command::Openapi) => print_openapi(),
        Some(Command::Doctor(args)) => doctor::doctor(&args),
        Some(Command::Status(args)) => client::run(status::status(&args)),
        Some(Command::Models(command)) => models::execute(&command),
        Some(Command::Gc(args)) => client::run(memory::gc(&args)),
        Some(Command::Optimize(args)) => client::run(optimize::optimize(&args)),
        Some(Command::Completions(args)) => completions::completions(&args),
        Some(Command::Man(args)) => completions::man(&args),
    }
}

fn check_config(sources: &Sources) -> Result<(), Failure> {
    let loaded = settings::load(sources, &environment())?;
    for warning in &loaded.warnings {
        stderr::write_line(&format!("headroom: {}", output::one_line(warning)));
    }
    output::print(&loaded.to_string())?;
    check_machine(&loaded.settings).refuse_any()?;
    Ok(doctor::check_host(&loaded.settings)?)
}

fn print_openapi() -> Result<(), Failure> {
    let text = openapi::text().map_err(|error| Failure::Output(error.into()))?;
    output::print(&text)
}

fn serve(sources: Sources, ready_file: Option<PathBuf>) -> Result<(), Failure> {
    let environment = environment();
    let Loaded {
        settings, warnings, ..
    } = settings::load(&sources, &environment)?;
    // Found out now, and not after all parts have started.
    if let Some(path) = &ready_file
        && let Some(fault) = ready_file::fault(path, &settings.data.dir)
    {
        let text = format!("--ready-file {} cannot be written: {fault}", path.display());
        return Err(Failure::Usage(
            Cli::command().error(ErrorKind::ValueValidation, text),
        ));
    }
    let missing = check_machine(&settings).warnings()?;
    let log_filter = telemetry::install_logs(&settings.log)?;
    let drain = Drain::default();
    let signals = signals::listen(drain.clone()).map_err(Failure::Signals)?;
    tracing::info!(
        version = VERSION.as_str(),
        config = %sources.config.as_deref().unwrap_or(DEFAULT_FILE.as_ref()).display(),
        profile = sources.profile.as_deref(),
        "starting"
    );
    for warning in warnings.into_iter().chain(missing) {
        tracing::warn!("{warning}");
    }
    let _locked = DataDir::lock(&settings).map_err(StartupError::from)?;
    let mut application = Application::build(Reloader::new(sources, environment, settings))?;
    application.log_filter = Some(log_filter);
    application.drain = drain;
    application.ready_file = ready_file;
    // Its runtime is not dropped: that would wait without limit for work that hangs in a system call. Such threads end with
    // the process.
    let system = ManuallyDrop::new(System::new());
    system.block_on(application.run(signals))?;
    Ok(())
}

/// The variables of the environment that may be settings.
fn environment() -> Environment {
    env::vars_os()
        .filter(|(name, _)| settings::begins_like_ours(name))
        .collect()
}
