//! Skipping a test that needs something which this machine lacks.

#![expect(clippy::print_stdout, reason = "the output of a test")]
#![expect(clippy::expect_used, reason = "how a test fails")]

use std::path::Path;

use crate::child;
use crate::wait::DEADLINE;

/// Prints that a test is skipped because of `reason`. The test returns after the call.
///
/// # Panics
/// Where the variable `CI` is set: no test may be skipped there.
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "not tested, because {reason}"
    );
    println!("skipped, because {reason}");
}

/// Whether a test of the sandbox of the model host `program` is to be skipped, because the system lacks a part of it.
///
/// # Panics
/// When the program does not run, and as [`skip`].
pub fn lacks_sandbox(program: impl AsRef<Path>) -> bool {
    let lacks = !confines_models(program);
    if lacks {
        skip("the system lacks a part of the sandbox");
    }
    lacks
}

/// Whether the system allows all that the model host `program` confines itself with.
fn confines_models(program: impl AsRef<Path>) -> bool {
    let mut version = child::command(program.as_ref());
    let output = child::output(version.arg("--version"), DEADLINE);
    let lines = output.expect("the model host runs").stdout;
    String::from_utf8_lossy(&lines).contains("confinement complete")
}
