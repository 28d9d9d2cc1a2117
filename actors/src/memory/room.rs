//! The room as it is wired into the server: what others get of it, and how it is started.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::allocator::Allocator;
use super::budget::{BudgetReading, Groups, NoBudget};
use super::config::{MemoryConfig, MemoryConfigError};
use super::entry::{BufferAccount, MemoryBudget, SharedLedger};
use super::freshness::{Freshness, LastReading};
use super::history::{Event, History};
use super::probe::{KillCounter, System};
use super::protection::{Protection, protect_server};
use super::supervisor::MemorySupervisor;
use tokio::sync::broadcast;

use crate::kernel::pressure::{self, PressureReader, PressureWriter};
use crate::kernel::{ChildSpec, Handle, Notices, OomCounter};

/// Claims come from loads, of which there is one at a time for each thing; the rest are operators.
const CALLS_MAX: u32 = 256;

/// What outlives the incarnations of the room's actor.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ledger: SharedLedger,
    pub(super) writer: PressureWriter,
    pub(super) allocator: Arc<Allocator>,
    /// What rooms have to tell.
    pub(super) notices: Notices,
    pub(super) last_reading: LastReading,
    config: Mutex<MemoryConfig>,
    history: Mutex<History>,
}

impl Shared {
    pub(super) fn config(&self) -> MemoryConfig {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_config(&self, config: MemoryConfig) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory room. Start it by making [`Memory::child`] a child of a supervisor, before everything
/// that loads something.
#[derive(Debug)]
pub struct Memory {
    handle: Handle<MemorySupervisor>,
    pub(super) shared: Arc<Shared>,
    pressure: PressureReader,
    system: System,
}

impl Memory {
    /// A room with these settings. Nothing is read before it is started.
    ///
    /// # Errors
    /// A rule that the settings break.
    pub fn new(config: MemoryConfig) -> Result<Self, MemoryConfigError> {
        Self::build(config, System::default())
    }

    /// Like [`Memory::new`], but `/proc` and the control groups are looked for below `root`, for
    /// tests.
    ///
    /// # Errors
    /// A rule that the settings break.
    pub fn rooted(
        config: MemoryConfig,
        root: impl Into<PathBuf>,
    ) -> Result<Self, MemoryConfigError> {
        Self::build(config, System::rooted(root))
    }

    /// The budget that `config` makes on this machine now, before anything is started.
    ///
    /// # Errors
    /// No source tells how much memory there is.
    pub fn read_budget(config: &MemoryConfig) -> Result<BudgetReading, NoBudget> {
        let system = System::default();
        BudgetReading::take(config, &Groups::find(&system), &system)
    }

    fn build(config: MemoryConfig, system: System) -> Result<Self, MemoryConfigError> {
        config.validate()?;
        let (writer, pressure) = pressure::channel();
        let shared = Shared {
            ledger: SharedLedger::default(),
            writer,
            notices: Notices::default(),
            allocator: Arc::new(Allocator::new()),
            last_reading: LastReading::default(),
            config: Mutex::new(config),
            history: Mutex::default(),
        };
        Ok(Self {
            handle: Handle::new("memory", CALLS_MAX),
            shared: Arc::new(shared),
            pressure,
            system,
        })
    }

    /// How to start the room's actor. It is ready once memory has been read for the first time.
    pub fn child(&self) -> ChildSpec {
        let shared = Arc::clone(&self.shared);
        let system = self.system.clone();
        ChildSpec::actor(&self.handle, move |_| {
            MemorySupervisor::new(Arc::clone(&shared), system.clone())
        })
    }

    /// The way to the room's actor.
    pub fn handle(&self) -> &Handle<MemorySupervisor> {
        &self.handle
    }

    /// The budget, for those who load things.
    pub fn budget(&self) -> MemoryBudget {
        MemoryBudget {
            shared: Arc::clone(&self.shared),
            keeper: self.handle.clone(),
        }
    }

    /// An account for one sort of buffers in this process, which may hold `bytes_max` together.
    pub fn buffers(&self, name: &'static str, bytes_max: u64) -> BufferAccount {
        BufferAccount {
            shared: Arc::clone(&self.shared),
            keeper: self.handle.clone(),
            name,
            bytes_max,
        }
    }

    /// How old the figures are.
    pub fn freshness(&self) -> Freshness {
        Freshness {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Every event from now on. Who lags far behind misses some, and is told how many.
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.shared.history().subscribe()
    }

    /// How often the kernel has killed for want of memory.
    pub fn oom_counter(&self) -> Arc<dyn OomCounter> {
        Arc::new(KillCounter::find(&self.system))
    }

    /// Protects the server from being killed first when memory runs out, where that is allowed.
    pub fn protect(&self) -> Protection {
        protect_server(&self.system)
    }

    /// Where rooms tell what the history of the budget should hold.
    pub fn notices(&self) -> Notices {
        self.shared.notices.clone()
    }

    /// The pressure, for those who can give something back.
    pub fn pressure(&self) -> PressureReader {
        self.pressure.clone()
    }
}
