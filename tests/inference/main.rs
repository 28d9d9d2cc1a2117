//! Inference on real input, through the whole server: what it answers is what a bare process with
//! libtorch answers, whoever else asks at the same time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cold;
mod leaving;
mod sequences;
mod speech;
mod stream;

use std::time::Duration;

/// Far above what anything here takes; a test that reaches it has failed.
const DEADLINE: Duration = Duration::from_secs(30);

const BINARY: &str = env!("CARGO_BIN_EXE_headroom");
