//! The settings for all models, and what the module needs of the memory module.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headroom_model_protocol::SandboxMode;

use super::leak::LeakConfig;
use crate::kernel::pressure::PressureReader;
use crate::kernel::{Buffers, Notices, OomCounter};

/// The settings for all models.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelsConfig {
    /// The folder with one folder per model.
    pub dir: PathBuf,
    /// The model host binary.
    pub host_binary: PathBuf,
    /// Whether hosts are forked from one warm zygote. Otherwise each is started alone, which is
    /// slower and takes 56 MB more of private memory.
    pub zygote: bool,
    /// How hosts are confined.
    pub sandbox: SandboxMode,
    /// How long a model stays loaded after its last use; `None` for ever. A model's own settings
    /// override it.
    pub ttl: Option<Duration>,
    /// Calls in flight per model, waiting ones included. More are refused as busy.
    pub queue_max: u32,
    /// Time between two pings to a host.
    pub heartbeat_interval: Duration,
    /// How long a host may leave pings unanswered before it counts as stuck and is killed.
    pub heartbeat_timeout: Duration,
    /// How long an idle sequence keeps its instance.
    pub sequence_idle: Duration,
    /// When hosts are measured, and what counts as a leak.
    pub leak: LeakConfig,
}

/// What the module needs of the memory module.
#[derive(Clone)]
pub struct MemoryDeps {
    /// Hosts trim themselves under this pressure.
    pub pressure: PressureReader,
    /// Receives notices of leaks, replacements and kills.
    pub notices: Notices,
    /// Reserves memory for outputs before a host may send them.
    pub answers: Arc<dyn Buffers>,
    /// The kernel's count of OOM kills. Without it, no kill of a host is recognised as one.
    pub oom: Option<Arc<dyn OomCounter>>,
}

impl MemoryDeps {
    pub(super) fn oom_kills(&self) -> Option<u64> {
        self.oom.as_ref()?.oom_kills()
    }
}
