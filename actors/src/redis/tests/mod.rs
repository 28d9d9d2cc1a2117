//! Tests against real servers.

use super::Cmd;

mod cluster;
mod cluster_nodes;
mod commands;
mod failover;
mod faults;
mod leases;
mod network;
mod reach;
mod reports;
mod server;
mod shared_answers;
mod subscribing;
mod topics;

/// A command from its words.
pub(super) fn words(text: &str) -> Cmd {
    let mut command = Cmd::new();
    for word in text.split(' ') {
        command.arg(word);
    }
    command
}
