//! The overview for people: `/api/status` and its events.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod events;
mod status;

/// The server that the tests start.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");
