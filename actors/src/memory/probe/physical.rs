//! The machine's memory, for where nothing else sets a limit.

use super::{Limit, Probe, ProbeError, Source, System, kilobytes, read_text};

/// The machine's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::memory) struct MachineMemory {
    /// All that the kernel manages.
    pub(in crate::memory) total: u64,
    /// What could be had without swapping, by the kernel's own estimate; old ones tell none.
    pub(in crate::memory) available: Option<u64>,
}

/// All memory that the kernel manages.
#[derive(Debug)]
pub(in crate::memory) struct Physical {
    system: System,
}

impl Physical {
    pub(in crate::memory) fn new(system: &System) -> Self {
        Self {
            system: system.clone(),
        }
    }

    fn look(&self) -> Result<MachineMemory, ProbeError> {
        let path = self.system.proc("meminfo");
        let text = read_text(&path)?;
        let total = kilobytes(&text, "MemTotal").ok_or(ProbeError::Garbled(path))?;
        Ok(MachineMemory {
            total,
            available: kilobytes(&text, "MemAvailable"),
        })
    }
}

impl Probe for Physical {
    type Value = MachineMemory;

    const SOURCE: Source = Source::Machine;

    fn read(&mut self) -> Result<MachineMemory, ProbeError> {
        self.look()
    }

    fn limit(&self) -> Result<Limit, ProbeError> {
        Ok(Limit {
            bytes: self.look()?.total,
            set_by: self.system.proc("meminfo"),
        })
    }
}
