//! What a machine may lack that a test needs: such a test is skipped, and says so.

#![expect(clippy::print_stdout, reason = "what a test tells")]

/// Says that a test is skipped, because of `reason`. The test returns then.
///
/// # Panics
/// Where the variable `CI` is set: there nothing may be left untested.
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "not tested, because {reason}"
    );
    println!("skipped, because {reason}");
}
