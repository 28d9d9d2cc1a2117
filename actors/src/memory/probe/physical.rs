//! The machine's memory, for where nothing else sets a limit.

use super::{Limit, NoLimit, Probe, System, kilobytes, read_text};

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
}

impl Probe for Physical {
    fn limit(&self) -> Result<Limit, NoLimit> {
        let path = self.system.proc("meminfo");
        let text = read_text(&path)?;
        match kilobytes(&text, "MemTotal") {
            Some(bytes) => Ok(Limit {
                bytes,
                set_by: path,
            }),
            None => Err(NoLimit::Garbled(path)),
        }
    }
}
