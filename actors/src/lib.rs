//! Actors.
pub mod kernel;
pub mod model;
