//! Actors.
pub mod kernel;
