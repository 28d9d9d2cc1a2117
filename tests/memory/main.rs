//! Memory from outside: the real binary, models with real weights, and a measure of its own.
//!
//! Every test that speaks of the budget samples the proportional shares of the whole process tree
//! every 20 ms, and compares the highest sum with the limit that the server was given.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod answers;
mod ballast;
mod budget;
mod cgroup;
mod hard_limit;
mod leaving;
mod pressure;
mod runaway;
mod stage;
mod telling;
