//! The performance API of the real binary: what it shows and changes, and that it answers while what is behind it
//! does not. A module for each resource.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod jobs;
mod lazy_loader;
mod load_test;
mod load_test_bounds;
mod metrics;
mod optimize;
mod pins;
mod preload;
mod stopped;

/// The server that the tests start.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");
