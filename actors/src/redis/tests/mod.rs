//! The room's promises against a real server.

mod commands;
mod server;
mod subscribing;
