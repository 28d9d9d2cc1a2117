//! The entry point of the memory module: the child to start, and the handles for other modules.

use std::path::PathBuf;
use std::sync::Arc;

use super::alerts::{AlertConfig, AlertError, AlertSender};
use super::budget::{BudgetReading, NoBudget};
use super::config::{MemoryConfig, MemoryConfigError};
use super::metrics;
use super::overview::Overview;
use super::probe::{Cgroups, KillCounter, System};
use super::protection::{Protection, protect_server};
use super::reservations::{BufferAccount, Freshness, MemoryBudget};
use super::shared::Shared;
use super::supervisor::MemorySupervisor;
use crate::kernel::pressure::{self, PressureReader};
use crate::kernel::{ChildSpec, Handle, Notices, OomCounter};

/// Calls in flight. Each load under way makes one; the others come from operators.
const CALLS_MAX: u32 = 256;

/// The memory module. Make [`Memory::child`] a child of a supervisor, before everything that loads
/// something.
#[derive(Debug)]
pub struct Memory {
    handle: Handle<MemorySupervisor>,
    pub(super) shared: Arc<Shared>,
    pressure: PressureReader,
    system: System,
}

impl Memory {
    /// A module with these settings. It reads nothing before it is started.
    ///
    /// # Errors
    /// The first rule that the settings break.
    pub fn new(config: MemoryConfig) -> Result<Self, MemoryConfigError> {
        Self::rooted(config, "/")
    }

    /// Like [`Memory::new`], with `/proc` and the control groups below `root`, for tests.
    pub(super) fn rooted(
        config: MemoryConfig,
        root: impl Into<PathBuf>,
    ) -> Result<Self, MemoryConfigError> {
        config.validate()?;
        let (writer, pressure) = pressure::channel();
        Ok(Self {
            handle: Handle::new("memory", CALLS_MAX),
            shared: Arc::new(Shared::new(config, writer)),
            pressure,
            system: System::rooted(root),
        })
    }

    /// The budget that `config` yields on this machine, before anything is started.
    ///
    /// # Errors
    /// No source says how much memory there is.
    pub fn read_budget(config: &MemoryConfig) -> Result<BudgetReading, NoBudget> {
        let system = System::default();
        BudgetReading::take(config, &Cgroups::find(&system), &system)
    }

    /// The module's actor. It is ready after its first reading.
    pub fn child(&self) -> ChildSpec {
        metrics::start_at_zero();
        let shared = Arc::clone(&self.shared);
        let system = self.system.clone();
        ChildSpec::actor(&self.handle, move |_| {
            MemorySupervisor::new(Arc::clone(&shared), system.clone())
        })
    }

    /// The actor that sends alerts.
    ///
    /// # Errors
    /// The address is not a URL, or no HTTP client can be made.
    pub fn alerts(&self, config: AlertConfig) -> Result<ChildSpec, AlertError> {
        AlertSender::child(config, Arc::clone(&self.shared))
    }

    /// The module's actor, for calls.
    pub fn handle(&self) -> &Handle<MemorySupervisor> {
        &self.handle
    }

    /// The budget, from which loads reserve memory.
    pub fn budget(&self) -> MemoryBudget {
        MemoryBudget {
            shared: Arc::clone(&self.shared),
            supervisor: self.handle.clone(),
        }
    }

    /// An account for one kind of buffers in this process, which may hold `bytes_max` together.
    pub fn buffers(&self, name: &'static str, bytes_max: u64) -> BufferAccount {
        BufferAccount {
            budget: self.budget(),
            name,
            bytes_max,
            is_for_new_work: false,
        }
    }

    /// The age of the figures.
    pub fn freshness(&self) -> Freshness {
        Freshness {
            shared: Arc::clone(&self.shared),
        }
    }

    /// The figures of the last reading, which are answered without the actor.
    pub fn overview(&self) -> Overview {
        Overview {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Counts the kernel's kills for want of memory.
    pub fn oom_counter(&self) -> Arc<dyn OomCounter> {
        Arc::new(KillCounter::find(&self.system))
    }

    /// Makes the kernel kill other processes before this one, where that is allowed.
    pub fn protect(&self) -> Protection {
        protect_server(&self.system)
    }

    /// Publishes notices for the history of the budget.
    pub fn notices(&self) -> Notices {
        self.shared.notices.clone()
    }

    /// The pressure, for subscribers that can give memory back.
    pub fn pressure(&self) -> PressureReader {
        self.pressure.clone()
    }
}
