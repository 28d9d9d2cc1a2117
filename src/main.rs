//! The `headroom` program: runs the command that the command line names, and returns its exit code.

use std::process::ExitCode;

use headroom::cli;
use headroom::telemetry::stderr::FlushOnDrop;
use tikv_jemallocator::Jemalloc;

/// jemalloc returns the memory that a burst of large requests has freed; glibc's allocator keeps it.
/// `.cargo/config.toml` sets the delay.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let _flush = FlushOnDrop;
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
