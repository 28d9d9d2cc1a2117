//! The room's promises against a real server.

mod cluster;
mod commands;
mod failover;
mod network;
mod reach;
mod server;
mod subscribing;
