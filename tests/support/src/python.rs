//! Clients of the server that are scripts in Python, with packages from PyPI.

#![expect(
    clippy::expect_used,
    reason = "a test ends here if its client does not end"
)]

use std::ffi::OsStr;
use std::time::Duration;

use crate::child;
use crate::models::cached;
use crate::server::Server;

/// How long a script may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs a script as a client of `server`, whose address is its first argument; `arguments` follow. It finds the packages
/// that setup has put into the folder `packages` of the cache.
///
/// # Panics
/// When the script fails.
#[track_caller]
pub fn run_client(script: &str, packages: &str, server: &Server, arguments: &[&OsStr]) {
    let mut client = child::command("python3");
    client
        .arg(script)
        .arg(server.address().to_string())
        .args(arguments)
        .env("PYTHONPATH", cached(packages))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = child::output(&mut client, DEADLINE).expect("the script ends in time");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
