//! The actors of Headroom: the kernel that supervises them, and one module for each kind of part that they own.
//!
//! Handles never import each other; what one needs of another it gets as a handle or as a trait of the
//! kernel, wired together by the server. Nothing here knows of HTTP.

// The examples that tests run name the crate as their users do.
#[cfg(test)]
extern crate self as headroom_actors;

pub mod chain;
pub mod jobs;
pub mod kernel;
pub mod lazy;
pub mod memory;
pub mod model;
pub mod postgres;
pub mod redis;
pub mod upload;
