//! The Open Inference Protocol as clients see it: endpoints, forms, tensors, versions, repository.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod binary;
mod client;
mod endpoints;
mod errors;
mod observability;
mod optional_inputs;
mod reloads;
mod repository;
mod statistics;
mod tensors;
mod versions;

const BINARY: &str = env!("CARGO_BIN_EXE_headroom");
