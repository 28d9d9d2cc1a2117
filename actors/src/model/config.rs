//! What the operator says about models in general.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::leak::LeakConfig;
use crate::kernel::pressure::PressureReader;
use crate::kernel::{Buffers, Notices, OomCounter};

/// The model room's part of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelsConfig {
    /// The folder with one folder per model.
    pub dir: PathBuf,
    /// The model host binary.
    pub host_binary: PathBuf,
    /// Whether hosts are forked from one warm zygote, or each started alone (slower, and 56 MB of
    /// private memory more for each).
    pub zygote: bool,
    /// How long a model stays loaded after its last use; `None` for ever. A model's own settings
    /// come first.
    pub ttl: Option<Duration>,
    /// Calls in flight per model, waiting ones included. More are refused as busy.
    pub queue_max: u32,
    /// How often a host is asked whether it lives.
    pub heartbeat_interval: Duration,
    /// Silence after which a host counts as stuck and is killed.
    pub heartbeat_timeout: Duration,
    /// How long an idle sequence keeps its instance.
    pub sequence_idle: Duration,
    /// When hosts are looked at for leaks, and what counts as one.
    pub leak: LeakConfig,
}

/// What the room gets of those who keep the memory of all.
#[derive(Clone)]
pub struct MemoryDeps {
    /// Under which hosts give their free memory back.
    pub pressure: PressureReader,
    /// Where hosts that misbehave are told of.
    pub notices: Notices,
    /// Where memory for outputs is set aside before a host may send them.
    pub answers: Arc<dyn Buffers>,
    /// The kernel's kills; without it, none of a host is recognised.
    pub oom: Option<Arc<dyn OomCounter>>,
}

impl MemoryDeps {
    pub(super) fn oom_kills(&self) -> Option<u64> {
        self.oom.as_ref()?.oom_kills()
    }
}
