//! The performance API of the real binary, a module for each resource.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod jobs;
mod preload;
