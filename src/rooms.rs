//! What the routes can ask: one handle per room. Handlers hold nothing else of the actors.

use std::time::Duration;

use headroom_actors::kernel::{Handle, Tree};
use headroom_actors::lazy::Loader;
use headroom_actors::memory::MemorySupervisor;
use headroom_actors::model::Repository;

/// The handles of all rooms, and how long an answer may take.
#[derive(Clone, Debug)]
pub struct Rooms {
    /// The supervision tree, to look at.
    pub tree: Tree,
    /// The memory budget.
    pub memory: Handle<MemorySupervisor>,
    /// What is loaded.
    pub loader: Handle<Loader>,
    /// The models on disk.
    pub repository: Handle<Repository>,
    /// `server.request_deadline`: no answer takes longer.
    pub request_deadline: Duration,
}
