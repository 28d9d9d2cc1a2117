//! The guarantees of the kernel, one file per concern. The rules of supervision are those of OTP's
//! `supervisor`, and the names of the tests follow its documentation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod scripted;

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
