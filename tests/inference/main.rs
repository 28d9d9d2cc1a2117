//! Inference on real input through the whole server. The answers equal those of a process with libtorch and no server,
//! also while other clients send requests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod confinement;
mod disconnects;
mod first_request;
mod sample_model;
mod sequences;
mod speech;
mod zoo;

const BINARY: &str = env!("CARGO_BIN_EXE_headroom");
