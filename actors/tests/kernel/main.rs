//! What the kernel promises, one file per concern. The rules of supervision are those of OTP's
//! `supervisor`, and the tests are named after what its documentation says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cast;

mod calls;
mod documented;
mod dynamic_children;
mod exits;
mod flood;
mod processes;
mod random_trees;
mod restarts;
mod starting;
mod stopping;
mod strategies;
mod stuck;
mod tree;
