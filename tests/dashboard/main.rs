//! The status for people: `/api/status`, its events, and the page at `/` in a real browser.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accessibility;
mod chains;
mod connection;
mod events;
mod page;
mod screenshots;
mod status;
mod unread;
mod uploads;

/// The server that the tests start.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");
