//! The `headroom` program: reads the command line, does what it says, and tells by its exit code
//! how that went.

use std::process::ExitCode;

use headroom::cli;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
