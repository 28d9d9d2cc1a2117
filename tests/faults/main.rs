//! Fault injection with the real binary and real processes: kills, stops, hangs, broken files, broken requests, floods.
//! Each test checks what callers get during the fault, that everything works afterwards, and that nothing is left
//! behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod file_server;
mod files;
mod first_process;
mod health;
mod host_binary;
mod hostile;
mod kills;
mod models_folder;
mod queue;
mod requests;
mod secrets;
mod server_killed;
mod setup;
mod shutdown;
mod stalled_log;
mod stalls;
mod starts;
