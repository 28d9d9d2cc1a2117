//! The `headroom` program: reads the command line, does what it says, and tells by its exit code
//! how that went.

use std::process::ExitCode;

use headroom::cli;
use headroom::telemetry::stderr::FlushOnDrop;
use tikv_jemallocator::Jemalloc;

/// glibc's allocator keeps what a burst of large requests has freed; this one gives it back. How
/// soon stands in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let _flush = FlushOnDrop;
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
