//! The state that outlives the actor: it survives restarts, and other threads use it without a
//! message.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::allocator::Allocator;
use super::config::MemoryConfig;
use super::history::History;
use super::ledger::Ledger;
use super::probe::KernelKills;
use crate::kernel::Notices;
use crate::kernel::pressure::{Acknowledgement, PressureWriter};

/// The state that the actor, reservations and handles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) pressure: PressureWriter,
    pub(super) allocator: Arc<Allocator>,
    pub(super) notices: Notices,
    config: Mutex<MemoryConfig>,
    ledger: Mutex<Ledger>,
    history: Mutex<History>,
    kernel_kills: Mutex<Option<KernelKills>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(config: MemoryConfig, pressure: PressureWriter) -> Self {
        Self {
            pressure,
            allocator: Arc::new(Allocator::new()),
            notices: Notices::default(),
            config: Mutex::new(config),
            ledger: Mutex::default(),
            history: Mutex::default(),
            kernel_kills: Mutex::default(),
        }
    }

    pub(super) fn config(&self) -> MemoryConfig {
        *lock(&self.config)
    }

    pub(super) fn set_config(&self, config: MemoryConfig) {
        *lock(&self.config) = config;
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    /// The kernel's kills by the last reading; `None` where the kernel does not count them.
    pub(super) fn kernel_kills(&self) -> Option<KernelKills> {
        *lock(&self.kernel_kills)
    }

    pub(super) fn set_kernel_kills(&self, kills: Option<KernelKills>) {
        *lock(&self.kernel_kills) = kills;
    }

    /// Purges the allocator of this process, on a thread that may block. `None` if it refuses.
    pub(super) async fn purge(&self) -> Option<Acknowledgement> {
        let allocator = Arc::clone(&self.allocator);
        let purged = tokio::task::spawn_blocking(move || allocator.purge()).await;
        Some(Acknowledgement {
            name: "memory".to_owned(),
            actions: vec![purged.ok()??],
        })
    }
}
