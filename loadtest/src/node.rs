//! The peers in JavaScript: files in `peers/node`, with packages that setup has put into the cache.

use std::path::Path;
use std::process::Command;

use headroom_test_support::child;

/// Whether node's packages are installed.
pub(crate) fn is_installed() -> bool {
    let cache = std::env::var_os("HEADROOM_CACHE").unwrap_or_default();
    Path::new(&cache).join("bench-peers/node_modules").is_dir()
}

/// A command that runs this file.
pub(crate) fn command(file: &str) -> Command {
    let mut node = child::command("node");
    node.arg(file)
        .env("NODE_ENV", "production")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/node"));
    node
}
