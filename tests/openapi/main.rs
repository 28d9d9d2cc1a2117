//! The OpenAPI document of the real binary: it is the one in the repository, and what the server answers is what
//! it says. `make fuzz-api` goes further, with generated requests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod client;
mod document;
mod explorer;

/// The server that the tests start.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");
