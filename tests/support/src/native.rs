//! Native code for tests of what it must not do.

#![expect(clippy::expect_used, reason = "how a test fails")]

use std::path::{Path, PathBuf};

use crate::child;
use crate::wait::DEADLINE;

/// Compiles a C file to a shared library in `folder`. Whoever builds Rust programs has a compiler of C.
///
/// # Panics
/// It does not compile.
pub fn library(source: &Path, folder: &Path) -> PathBuf {
    let library = folder.join("native.so");
    let mut compile = child::command("cc");
    compile.args(["-shared", "-fPIC", "-Wall", "-Werror", "-O1", "-o"]);
    let compiled =
        child::output(compile.arg(&library).arg(source), DEADLINE).expect("the compiler runs");
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{errors}");
    library
}
