//! Actors.
pub mod kernel;
pub mod memory;
pub mod model;
