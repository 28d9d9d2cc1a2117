//! Memory behaviour of the real binary with models of real weights, measured from outside.
//!
//! Every test of the budget samples the proportional shares of the whole process tree every 20 ms, and compares the
//! highest sum with the limit in the server's settings.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod answers;
mod budget;
mod cgroup;
mod hard_limit;
mod http_api;
mod idle;
mod pressure;
mod runaway;
mod setup;
mod unloading;
mod unreserved_growth;
