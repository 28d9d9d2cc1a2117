//! The metrics of the real binary: each is declared, documented and well-formed, and a real Prometheus scrapes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod document;
mod exposition;
mod families;
mod many_models;
mod promtool;
mod rules;
mod scrape;

/// The server that the tests start.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

/// A file of the repository.
pub(crate) fn repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The words of a text that begin with `prefix`.
pub(crate) fn words<'text>(
    text: &'text str,
    prefix: &str,
) -> std::collections::BTreeSet<&'text str> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    words.filter(|word| word.starts_with(prefix)).collect()
}
