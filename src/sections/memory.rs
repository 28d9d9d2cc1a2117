//! The section on the memory budget. It comes from state that outlives the memory supervisor.

use std::time::Duration;

use headroom_actors::kernel::AskError;
use headroom_actors::memory::{MemoryOverview, Overview};

use super::{Parts, Section};

pub(super) struct Memory(Overview);

impl Section for Memory {
    const NAME: &'static str = "memory";
    type Answer = MemoryOverview;

    fn of(parts: &Parts<'_>) -> Self {
        Self(parts.handles.memory_overview.clone())
    }

    async fn snapshot(&self) -> Result<MemoryOverview, AskError> {
        // Before the first reading, the memory supervisor starts.
        let retry_in = Duration::ZERO;
        self.0.latest().ok_or(AskError::Restarting { retry_in })
    }
}
