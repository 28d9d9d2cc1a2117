//! The server's own memory with nothing loaded.

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::private_dirty;
use headroom_test_support::wait::{DEADLINE, wait_for};

use super::setup::AddModels;

/// Bytes that belong to the server alone, and that the kernel cannot drop. A debug build has more than a release build.
const OWN_MAX: u64 = 12_000_000;

#[test]
fn a_server_with_many_workers_and_nothing_loaded_is_small() {
    let models = Models::new();
    let server = models.start_server("server.workers = 16");
    // What only the start needed is free soon.
    wait_for(DEADLINE, || match private_dirty(server.pid()) {
        1..=OWN_MAX => Ok(()),
        bytes => Err(bytes),
    });
}
