//! The actors of Headroom: the kernel that supervises them, and a room for each thing that is owned.
//!
//! Handles never import each other; what one needs of another it gets as a handle or as a trait of the
//! kernel, wired together by the server. Nothing here knows of HTTP.
pub mod kernel;
pub mod lazy;
pub mod memory;
pub mod model;
pub mod postgres;
pub mod redis;
