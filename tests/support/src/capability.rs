//! Skipping a test that needs something which this machine lacks.

#![expect(clippy::print_stdout, reason = "the output of a test")]

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
