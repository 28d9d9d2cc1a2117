//! The Open Inference Protocol as clients see it: endpoints, forms, tensors, versions, repository.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
mod endpoints;
mod errors;
mod repository;
mod tensors;
mod tree;
mod versions;

use std::time::Duration;

/// Far above what anything here takes; a test that reaches it has failed.
const DEADLINE: Duration = Duration::from_secs(30);

const BINARY: &str = env!("CARGO_BIN_EXE_headroom");
