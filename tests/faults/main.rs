//! What goes wrong, done on purpose to the real binary with real processes: kills, stops, hangs, broken files, broken
//! requests, floods. Each test says what callers get meanwhile, that everything works again afterwards, and that
//! nothing is left behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod files;
mod host_binary;
mod kills;
mod processes;
mod queue;
mod requests;
mod secrets;
mod server_killed;
mod setup;
mod shutdown;
mod stalled_log;
mod stalls;
