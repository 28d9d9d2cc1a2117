//! Scripts in Python, with packages from PyPI: clients of the server, and what makes files for the tests.

#![expect(
    clippy::expect_used,
    reason = "a test ends here if its script does not end"
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
    let address = server.address().to_string();
    let mut words = vec![OsStr::new(&address)];
    words.extend(arguments);
    run(script, packages, &words);
}

/// Runs a script with `arguments`. It finds the packages that setup has put into the folder `packages` of the cache.
///
/// # Panics
/// When the script fails.
#[track_caller]
pub fn run(script: &str, packages: &str, arguments: &[&OsStr]) {
    let mut command = child::command("python3");
    command
        .arg(script)
        .args(arguments)
        .env("PYTHONPATH", cached(packages))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = child::output(&mut command, DEADLINE).expect("the script ends in time");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Whether the version of Python is at least `oldest`, as in `(3, 11)`.
///
/// # Panics
/// When Python does not answer.
#[track_caller]
pub fn is_at_least(oldest: (u8, u8)) -> bool {
    let check = format!("import sys; sys.exit(sys.version_info < {oldest:?})");
    let mut command = child::command("python3");
    command.args(["-c", &check]);
    let output = child::output(&mut command, DEADLINE).expect("Python ends in time");
    output.status.success()
}
