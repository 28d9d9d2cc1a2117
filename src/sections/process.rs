//! The section on the server's process.

use std::sync::Arc;

use headroom_actors::kernel::AskError;
use headroom_actors::memory::{KindUsage, Overview};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Parts, Section};
use crate::figures::ProcessFigures;
use crate::figures::process::ProcessStatus;

/// Measures the process on a thread that may block, and adds its memory.
pub(super) struct Process {
    figures: Arc<ProcessFigures>,
    memory: Overview,
}

impl Process {
    /// `None` before the first reading.
    fn memory(&self) -> Option<Memory> {
        let latest = self.memory.latest()?;
        let mut memory = Memory {
            read_seconds_ago: latest.read_seconds_ago,
            ..Memory::default()
        };
        for kind in &latest.kinds {
            memory.tree.add(kind);
            if kind.kind == "server" {
                memory.server.add(kind);
            }
        }
        Some(memory)
    }
}

/// The server's process, and the memory of it and its child processes.
#[derive(Serialize, ToSchema)]
#[schema(as = ProcessSection)]
pub(super) struct Snapshot {
    #[serde(flatten)]
    process: ProcessStatus,
    /// Null before the first reading.
    memory: Option<Memory>,
}

/// Resident memory by the last reading.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = ProcessMemory)]
struct Memory {
    /// The server's process alone.
    server: Resident,
    /// The server and all of its child processes.
    tree: Resident,
    /// The age of the reading.
    read_seconds_ago: f64,
}

/// The memory of some processes.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = ResidentMemory)]
struct Resident {
    /// How many processes.
    processes: u64,
    /// Resident pages. A page that several processes share counts for each of them.
    rss_bytes: u64,
    /// Proportional shares: a shared page counts once.
    pss_bytes: u64,
    /// Pages that no file backs.
    anonymous_bytes: u64,
}

impl Resident {
    fn add(&mut self, kind: &KindUsage) {
        self.processes += kind.processes;
        self.rss_bytes = self.rss_bytes.saturating_add(kind.rss_bytes);
        self.pss_bytes = self.pss_bytes.saturating_add(kind.pss_bytes);
        self.anonymous_bytes = self.anonymous_bytes.saturating_add(kind.anonymous_bytes);
    }
}

impl Section for Process {
    const NAME: &'static str = "process";
    type Answer = Snapshot;

    fn of(parts: &Parts<'_>) -> Self {
        Self {
            figures: Arc::clone(&parts.figures.process),
            memory: parts.handles.memory_overview.clone(),
        }
    }

    async fn snapshot(&self) -> Result<Snapshot, AskError> {
        let figures = Arc::clone(&self.figures);
        let read = tokio::task::spawn_blocking(move || figures.status()).await;
        Ok(Snapshot {
            process: read.map_err(|_| AskError::Lost)?,
            memory: self.memory(),
        })
    }
}
