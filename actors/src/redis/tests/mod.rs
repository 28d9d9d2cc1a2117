//! The room's promises against a real server.

mod cluster;
mod commands;
mod failover;
mod faults;
mod network;
mod reach;
mod server;
mod subscribing;
