//! The state that outlives the actor: it survives restarts, and other threads use it without a
//! message.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::allocator::Allocator;
use super::config::MemoryConfig;
use super::history::History;
use super::ledger::Ledger;
use super::sampler::SourceReport;
use super::status::{KindUsage, MemoryStatus};
use super::timeline::Usage;
use crate::kernel::pressure::{Acknowledgement, PressureWriter, Stage};
use crate::kernel::{Clock, Notices};

/// The state that the actor, reservations and handles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) pressure: PressureWriter,
    pub(super) allocator: Arc<Allocator>,
    pub(super) notices: Notices,
    config: Mutex<MemoryConfig>,
    ledger: Mutex<Ledger>,
    history: Mutex<History>,
    report: Mutex<Option<Arc<SourceReport>>>,
    timeline: Mutex<Usage>,
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
            report: Mutex::default(),
            timeline: Mutex::default(),
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

    pub(super) fn timeline(&self) -> MutexGuard<'_, Usage> {
        lock(&self.timeline)
    }

    /// What the sources of the last successful reading reported; `None` before the first one.
    pub(super) fn report(&self) -> Option<Arc<SourceReport>> {
        lock(&self.report).clone()
    }

    /// Takes the report of a reading, and returns the one before.
    pub(super) fn replace_report(&self, report: SourceReport) -> Option<Arc<SourceReport>> {
        lock(&self.report).replace(Arc::new(report))
    }

    /// The status with the latest `events`, by the last reading; `None` before the first one.
    pub(super) fn status(&self, events: usize) -> Option<MemoryStatus> {
        // One lock at a time.
        let report = self.report()?;
        let (level, level_age, events) = {
            let history = self.history();
            (history.level, history.level_age(), history.latest(events))
        };
        let ledger = self.ledger();
        let began = ledger.last_reading?.began;
        Some(MemoryStatus {
            report: SourceReport::clone(&report),
            used_bytes: ledger.used(),
            baseline_bytes: ledger.baseline,
            reserved_bytes: ledger.reserved_total(),
            projected_bytes: ledger.projected(),
            free_bytes: ledger.free(),
            level,
            level_for_seconds: level_age.as_secs_f64(),
            kinds: KindUsage::of(&ledger.usage),
            shared_file_bytes: ledger.usage.shared_files,
            read_at: Clock::now().time_of(began),
            read_seconds_ago: began.elapsed().as_secs_f64(),
            entries: ledger.entries(),
            buffers: ledger.accounts(),
            events,
        })
    }

    /// Purges the allocator of this process, on a thread that may block. `None` if it refuses.
    pub(super) async fn purge(&self) -> Option<Acknowledgement> {
        let allocator = Arc::clone(&self.allocator);
        let purged = tokio::task::spawn_blocking(move || allocator.purge()).await;
        Some(Acknowledgement {
            name: "memory".to_owned(),
            stage: Stage::Slack,
            actions: vec![purged.ok()??],
        })
    }
}
