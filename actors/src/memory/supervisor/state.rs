//! The supervisor's state, and the status that it shows.

use std::sync::Arc;

use actix::SpawnHandle;
use tokio::time::Instant;

use super::super::probe::{SourceStatus, System};
use super::super::sampler::{Sampler, SourceReport};
use super::super::shared::Shared;
use super::super::status::{KindUsage, MemoryStatus};
use super::clean_up::CleanUp;
use super::collector::Collector;
use super::messages::PendingCall;
use super::round::Round;

/// Keeps the memory budget. See the module.
pub struct MemorySupervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) system: System,
    /// `None` while a reading is under way.
    pub(super) sampler: Option<Sampler>,
    /// What the sources of the last successful reading reported.
    pub(super) report: Option<SourceReport>,
    /// Whether the last reading failed. A lasting failure is logged once.
    pub(super) is_failing: bool,
    pub(super) pending: Vec<PendingCall>,
    /// The timer of the next reading.
    pub(super) timer: Option<SpawnHandle>,
    /// The open round.
    pub(super) round: Option<Round>,
    pub(super) rounds_begun: u64,
    pub(super) clean_up: Option<CleanUp>,
    pub(super) collector: Collector,
    pub(super) stall_trigger: Option<SourceStatus>,
    /// When tasks of the server's control group last stalled.
    pub(super) stalled_at: Option<Instant>,
}

impl MemorySupervisor {
    pub(in crate::memory) fn new(shared: Arc<Shared>, system: System) -> Self {
        Self {
            sampler: None,
            shared,
            system,
            report: None,
            is_failing: false,
            pending: Vec::new(),
            timer: None,
            round: None,
            rounds_begun: 0,
            clean_up: None,
            collector: Collector::default(),
            stall_trigger: None,
            stalled_at: None,
        }
    }

    /// The status with the latest `events`; `None` before the first reading.
    pub(super) fn status(&self, events: usize) -> Option<MemoryStatus> {
        let began = self.shared.last_reading()?.began;
        let ledger = self.shared.ledger();
        let history = self.shared.history();
        let usage = ledger.usage();
        Some(MemoryStatus {
            report: self.report.clone()?,
            used_bytes: ledger.used(),
            baseline_bytes: ledger.baseline(),
            reserved_bytes: ledger.reserved_total(),
            projected_bytes: ledger.projected(),
            free_bytes: ledger.free(),
            level: history.level(),
            level_for_seconds: history.level_age().as_secs_f64(),
            kinds: KindUsage::of(usage),
            shared_file_bytes: usage.shared_files,
            read_seconds_ago: began.elapsed().as_secs_f64(),
            entries: ledger.entries(),
            buffers: ledger.buffers.status(),
            events: history.latest(events),
        })
    }
}
