//! How a host is run, and why it fails.

use std::sync::Arc;
use std::time::Duration;

use headroom_model_protocol::{ArenaError, Failure, Start};

use super::config::{MemoryDeps, ModelsConfig};
use super::connection::ConnectionError;
use super::host_state::HostState;
use super::zygote::{ForkError, Zygote};
use crate::kernel::process::{ProcessSpec, SpawnError};
use crate::kernel::{AskError, Handle, LoadContext, ProcessExit};

/// The same for all incarnations of one host.
#[derive(Clone)]
pub(super) struct HostSpec {
    /// The model and its version, for example `silero-vad:1`.
    pub(super) model: String,
    /// The host as logs and notices name it, for example `silero-vad:1/host-0`.
    pub(super) name: String,
    /// The first request to the process.
    pub(super) start: Start,
    pub(super) source: ProcessSource,
    /// Time limit of one forward.
    pub(super) forward_deadline: Duration,
    pub(super) config: Arc<ModelsConfig>,
    /// Time limit of a load, and where the memory of its process is counted.
    pub(super) context: LoadContext,
    pub(super) state: HostState,
    pub(super) memory: MemoryDeps,
}

/// How to get a host process.
#[derive(Clone)]
pub(super) enum ProcessSource {
    /// Fork it from the zygote.
    Zygote(Handle<Zygote>),
    /// Start it alone.
    Spawn(ProcessSpec),
}

/// Why a host did not start, or failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostError {
    #[error("cannot create the sockets and arenas of a process: {0}")]
    Prepare(#[from] std::io::Error),
    #[error("the process cannot be started")]
    Spawn(#[from] SpawnError),
    #[error("the zygote does not answer: {0}")]
    NoZygote(AskError),
    #[error(transparent)]
    Fork(#[from] ForkError),
    #[error("{}", .0.message)]
    StartFailed(Failure),
    #[error("the process ended while it loaded the model: {0}")]
    EndedEarly(ProcessExit),
    #[error("the connection to the process failed")]
    Connection(#[from] ConnectionError),
    #[error("a tensor cannot be passed to or from the process")]
    BadTensor(#[source] ArenaError),
    #[error("the process sent {bytes} bytes of outputs, {allowed} were allowed")]
    TooMuchOutput { bytes: u64, allowed: u64 },
    #[error("the process dropped outputs that it was not told to drop")]
    DroppedOutputs,
    #[error("the load took longer than {0:?}")]
    LoadDeadline(Duration),
    #[error("one forward took longer than {0:?}")]
    ForwardDeadline(Duration),
}
