//! The section on the memory budget. It comes from state that outlives the memory supervisor.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use headroom_actors::kernel::AskError;
use headroom_actors::memory::Overview;
use serde_json::Value;

use super::{Section, json};

pub(super) struct Memory(Overview);

impl Memory {
    pub(super) fn new(overview: Overview) -> Self {
        Self(overview)
    }
}

impl Section for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Value, AskError>> {
        // Before the first reading, the memory supervisor starts.
        let retry_in = Duration::ZERO;
        let latest = self.0.latest().ok_or(AskError::Restarting { retry_in });
        ready(latest.map(json)).boxed()
    }
}
