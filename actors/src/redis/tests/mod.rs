//! Tests against real servers.

mod cluster;
mod commands;
mod failover;
mod faults;
mod leases;
mod network;
mod reach;
mod reports;
mod server;
mod subscribing;
mod topics;
